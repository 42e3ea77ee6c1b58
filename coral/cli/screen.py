"""What a running evolution shows: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coral.cli.tables import duration
from coral.evolution import EvolutionState
from coral.fidelity import ladder_share
from coral.ports import Progress
from coral.records import (
    Event,
    GenerationFinished,
    GenerationStarted,
    RunConfirmed,
    StageFinished,
)
from coral.settings import RunSpec


class Screen:
    """Watches a run and tells of it on stderr. Implements ``ports.Observer``."""

    def __init__(self, spec: RunSpec, console: Console) -> None:
        self._spec = spec
        self._console = console
        self._started = time.monotonic()
        self._progress: dict[int, Progress] = {}
        self._state: EvolutionState | None = None
        self._first_generation: int | None = None
        self._best: float | None = None
        self._live: Live | None = None

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
        """Remember where a trial is; called from the executor's thread."""
        self._progress[progress.trial] = progress

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
            case StageFinished():
                self._progress.pop(event.trial, None)
                self._say(self._outcome_line(event))
            case GenerationFinished():
                self._progress.clear()
                for line in self._verdict_lines(event, state):
                    self._say(line)
            case RunConfirmed():
                split = "simulated test split" if self._spec.simulated else "test split"
                self._say(f"champion and default recipe scored on the {split}")

    def _say(self, line: str) -> None:
        self._console.print(Text(line))

    def _outcome_line(self, event: StageFinished) -> str:
        outcome = event.outcome
        stage = self._spec.training_stages[outcome.stage].name
        if outcome.failure is not None:
            failure = outcome.failure
            return f"  trial {event.trial:>3}  {stage}  {failure.kind}: {failure.message}"
        metric = self._spec.objectives[0].metric
        score = outcome.metrics.get(metric, float("nan"))
        loss = outcome.curve.loss[-1] if outcome.curve.loss else float("nan")
        unit = "virtual s" if self._spec.simulated else "s"
        return (
            f"  trial {event.trial:>3}  {stage}  {metric} {score:.4f}"
            f"  loss {loss:.3f}  step {outcome.cumulative_steps}"
            f"  {outcome.cost.seconds:.1f} {unit}"
        )

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
        for progress in sorted(self._progress.values(), key=lambda p: p.trial):
            share = progress.step / max(1, progress.end_step)
            table.add_row(
                f"  trial {progress.trial:>3}",
                self._spec.training_stages[progress.stage].name,
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
        return (
            f"{self._mark}gen {min(self._state.generation + 1, self._spec.evolution.generations)}"
            f"/{self._spec.evolution.generations}  front {len(self._state.front)}"
            f"  {_epochs(self._state)[1]:.1f} epochs saved  {duration(self._elapsed)} elapsed"
            + (f", about {duration(left)} left" if left is not None else "")
        )

    def _time_left(self, state: EvolutionState) -> float | None:
        """Extrapolate from the share of the expected examples that this process has trained."""
        first = self._first_generation or 0
        total = self._spec.evolution.generations - first
        if total <= 0:
            return None
        stages = self._spec.training_stages
        population = self._spec.evolution.population_size
        expected = ladder_share(stages, population) * population * stages[-1].epoch_budget
        under_way = sum(outcome.cost.examples for _, outcome in state.outcomes.values())
        done = state.generation - first + under_way / state.train_examples / expected
        if done <= 0.02:
            return None
        return max(0.0, self._elapsed / done * (total - done))


def _epochs(state: EvolutionState) -> tuple[float, float]:
    """Return the epochs that finished generations spent, and those that they saved."""
    spent = state.ledger.searched.examples / state.train_examples
    return spent, state.ledger.naive.examples / state.train_examples - spent
