"""What a running evolution shows: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coral.cli.tables import duration, percent
from coral.confirmation import REFERENCE
from coral.evolution import EvolutionState, lineage_steps
from coral.fidelity import ladder_share
from coral.ports import Progress
from coral.records import (
    CandidatesJoined,
    Derivation,
    Event,
    GenerationFinished,
    GenerationStarted,
    Inheritance,
    Outcome,
    RunConfirmed,
    StageFinished,
    Trial,
    TrialsDerived,
)
from coral.settings import RunSpec


class Screen:
    """Watches a run and tells of it on stderr. Implements ``ports.Observer``."""

    def __init__(self, spec: RunSpec, console: Console) -> None:
        self._spec = spec
        self._console = console
        self._started = time.monotonic()
        self._progress: dict[str, Progress] = {}
        self._state: EvolutionState | None = None
        self._first_generation: int | None = None
        self._best: float | None = None
        self._live: Live | None = None
        self._noticed: set[str] = set()

    def __enter__(self) -> Screen:
        beginning = "loading the base model and the data ..."
        if self._spec.simulated:
            beginning = f"simulating with profile {self._spec.simulation.profile}"
        self._console.print(Text(beginning, style="dim"), soft_wrap=True)
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=4, get_renderable=self._render
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def on_progress(self, progress: Progress) -> None:
        """Remember where a job is; called from the executor's thread."""
        self._progress[progress.key] = progress

    def on_notice(self, topic: str, text: str) -> None:
        """Say the first thing of each topic."""
        if topic not in self._noticed:
            self._noticed.add(topic)
            self._say(text, style="yellow")

    def on_event(self, event: Event, state: Any) -> None:
        """Tell of an event."""
        self._state = state
        if self._first_generation is None:
            self._first_generation = state.generation
        match event:
            case GenerationStarted():
                self._say(
                    f"gen {event.generation + 1}/{self._spec.evolution.generations}"
                    f"  {len(event.candidates)} genomes"
                )
            case CandidatesJoined():
                for line in _exchange_lines(event):
                    self._say(line)
            case StageFinished():
                self._progress.pop(event.outcome.key, None)
                self._say(self._outcome_line(event, state))
                for note in event.outcome.notes:
                    self._say(f"             {note}", style="dim")
            case GenerationFinished():
                self._progress.clear()
                for line in self._verdict_lines(event, state):
                    self._say(line)
            case TrialsDerived():
                for line in self._derived_lines(event, state):
                    self._say(line)
            case RunConfirmed():
                split = "simulated test split" if self._spec.simulated else "test split"
                self._say(f"{len(event.scores)} contestants scored on the {split}")

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style))

    def _outcome_line(self, event: StageFinished, state: EvolutionState) -> str:
        outcome = event.outcome
        who = f"trial {event.trial:>3}  {self._spec.training_stages[outcome.stage].name}"
        if _is_confirming(state):
            long_default = "default recipe, as many steps"
            cold = f"trial {event.trial} from scratch"
            who = f"confirm  {long_default if event.trial == REFERENCE else cold}"
        if outcome.failure is not None:
            return f"  {who}  {outcome.failure.kind}: {outcome.failure.message}"
        metric = self._spec.objectives[0].metric
        score = outcome.metrics.get(metric, float("nan"))
        loss = outcome.curve.loss[-1] if outcome.curve.loss else float("nan")
        unit = "virtual s" if self._spec.simulated else "s"
        return (
            f"  {who}  {metric} {score:.4f}  loss {loss:.3f}  step {outcome.cumulative_steps}"
            f"  {outcome.cost.seconds:.1f} {unit}{_source(outcome.inheritance)}"
        )

    def _derived_lines(self, event: TrialsDerived, state: EvolutionState) -> list[str]:
        """Return a line for the soup, and one for each trial that was squeezed."""
        lines: list[str] = []
        squeezed: dict[int, list[str]] = {}
        for trial in event.trials:
            if trial.candidate.lineage.operator == "soup":
                lines.append(self._soup_line(trial, state))
            else:
                source = trial.candidate.legacy[0].trial
                squeezed.setdefault(source, []).append(self._squeezed_to(trial))
        return [
            *lines,
            *(f"  squeezed trial {trial}: {', '.join(told)}" for trial, told in squeezed.items()),
        ]

    def _soup_line(self, trial: Trial, state: EvolutionState) -> str:
        """Return the soup's members, its score, and its gain over the best of them alone."""
        legacy = trial.candidate.legacy
        members = ", ".join(f"{item.weight:.2f} of trial {item.trial}" for item in legacy)
        score = self._score(trial.scored[-1])
        gain = score - self._score(state.trials[legacy[0].trial].scored[-1])
        rank = self._spec.plan_of(trial.candidate).adapter.rank
        return (
            f"  soup     trial {trial.number}: {members}; rank {rank}"
            f"  {self._spec.objectives[0].metric} {score:.4f} ({gain:+.4f})"
        )

    def _squeezed_to(self, trial: Trial) -> str:
        derivation = trial.candidate.derivation
        assert derivation is not None
        size = _size(derivation)
        failure = trial.outcomes[-1].failure
        return f"{size} {failure.kind if failure else f'{self._score(trial.scored[-1]):.4f}'}"

    def _score(self, outcome: Outcome) -> float:
        return outcome.metrics.get(self._spec.objectives[0].metric, float("nan"))

    def _verdict_lines(self, event: GenerationFinished, state: EvolutionState) -> list[str]:
        finished = state.trials[len(state.trials) - len(event.verdicts) :]
        lines = [
            f"  trial {trial.number:>3}  {trial.verdict.status}: {trial.verdict.reason}"
            + ("  (audited)" if trial.verdict.audited else "")
            for trial in finished
            if trial.verdict.status != "completed"
        ]
        return [*lines, self.summary(state)]

    def summary(self, state: EvolutionState) -> str:
        """Return one line for a finished generation."""
        last = state.history[-1]
        metric = self._spec.objectives[0].metric
        gain = (
            "" if self._best is None or last.best is None else f" ({last.best - self._best:+.4f})"
        )
        self._best = last.best
        best = "none" if last.best is None else f"{last.best:.4f}{gain}"
        epochs, saved = _epochs(state)
        return (
            f"{self._mark}gen {state.generation}/{self._spec.evolution.generations}"
            f"  front {last.front}"
            f"  best {metric} {best}  pruned {last.pruned}/{last.trials}  failed {last.failed}"
            f"   {epochs:.1f} epochs spent, {saved:.1f} saved   {duration(self._elapsed)}"
        )

    @property
    def _mark(self) -> str:
        return "simulated  " if self._spec.simulated else ""

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _render(self) -> Group:
        """Draw the live part: what is under way, and the time left."""
        table = Table.grid(padding=(0, 2))
        for progress in sorted(self._progress.values(), key=lambda p: (p.trial, p.key)):
            share = progress.step / max(1, progress.end_step)
            table.add_row(
                f"  trial {progress.trial:>3}",
                progress.stage,
                Text("━" * round(20 * share), style="green")
                + Text("━" * round(20 * (1 - share)), style="dim"),
                f"{progress.step}/{progress.end_step}",
                f"loss {progress.loss:.3f}",
            )
        return Group(table, Text(self._status(), style="bold"))

    def _status(self) -> str:
        if self._state is None:
            return f"{self._mark}starting  {duration(self._elapsed)}"
        left = self._time_left(self._state)
        generations = self._spec.evolution.generations
        phase = f"gen {min(self._state.generation + 1, generations)}/{generations}"
        if _is_confirming(self._state):
            phase = "confirming"
        return (
            f"{self._mark}{phase}  front {len(self._state.front)}"
            f"  {_epochs(self._state)[1]:.1f} epochs saved  {duration(self._elapsed)} elapsed"
            + (f", about {duration(left)} left" if left is not None else "")
        )

    def _time_left(self, state: EvolutionState) -> float | None:
        """Extrapolate from the share of the expected examples that this process has trained."""
        if state.confirmation is not None:
            return None
        first = self._first_generation or 0
        stages = self._spec.training_stages
        population = self._spec.evolution.population_size
        expected = ladder_share(stages, population) * population * stages[-1].epoch_budget
        total = self._spec.evolution.generations - first + self._rematches(state) / expected
        under_way = sum(outcome.cost.examples for _, outcome in state.outcomes.values())
        done = state.generation - first + under_way / state.train_examples / expected
        if done <= 0.02:
            return None
        return max(0.0, self._elapsed / done * (total - done))

    def _rematches(self, state: EvolutionState) -> float:
        """Return the epochs that the confirmation trains, as far as can be told."""
        confirm = self._spec.confirm
        if not confirm.top_k:
            return 0.0
        long_default = self._spec.training_stages[-1].epoch_budget
        if state.champion is not None:
            best_stage = state.trials[state.champion].best_stage
            steps = lineage_steps(state.champion, best_stage, state, self._spec)
            examples = steps * self._spec.training.schedule.batch_size
            long_default = max(long_default, examples / state.train_examples)
        cold = confirm.top_k * confirm.seeds * self._spec.training_stages[-1].epoch_budget
        return cold + long_default


def _is_confirming(state: EvolutionState) -> bool:
    """Return whether what is trained belongs to no generation."""
    return not state.candidates and bool(state.outcomes)


def _exchange_lines(event: CandidatesJoined) -> list[str]:
    return [
        f"  trial {candidate.number:>3}  takes the place of trial {replaced}:"
        f" copy of trial {candidate.lineage.parents[0]}, mutated"
        for candidate, replaced in zip(event.candidates, event.replaced, strict=True)
    ]


def _source(inheritance: Inheritance | None) -> str:
    """Return in words whose weights a trial started from."""
    if inheritance is None:
        return ""
    noun = "trial" if len(inheritance.sources) == 1 else "trials"
    sources = " and ".join(map(str, inheritance.sources))
    return f"  from {noun} {sources} (kept {percent(inheritance.retained_energy)})"


def _size(derivation: Derivation) -> str:
    if derivation.energy is not None:
        return f"energy {percent(derivation.energy)}"
    return f"rank {derivation.rank}"


def _epochs(state: EvolutionState) -> tuple[float, float]:
    """Return the epochs that finished generations spent, and those that they saved."""
    spent = state.ledger.searched.examples / state.train_examples
    return spent, state.ledger.naive.examples / state.train_examples - spent
