"""What a comparison shows: one progress bar over all its runs, then a table."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from coral.cli.tables import duration
from coral.evolution import EvolutionState
from coral.ports import Progress as TrialProgress
from coral.records import Event, GenerationStarted, StageFinished
from coral.settings import RunSpec

Facts = dict[str, Any]

LINES = 20
"""Lines of progress where there is no terminal, one for each equal share of the work."""


class Meter:
    """How far a comparison is, in epochs of the full train set."""

    def __init__(self, expected: dict[str, float], clock: Callable[[], float]) -> None:
        """Take the most epochs that each way can take, in their order."""
        self._expected = dict(expected)
        self._done = dict.fromkeys(expected, 0.0)
        self._found = dict.fromkeys(expected, 0.0)
        self._clock = clock
        self._started = clock()
        self._way: str | None = None

    def begin(self, way: str) -> None:
        """Begin a way; the one before took no more than it has done."""
        if self._way in self._expected:
            self._expected[self._way] = self._done[self._way]
        self._way = way

    def advance(self, epochs: float, news: float) -> None:
        """Note that the way under way stands at ``epochs``, the last ``news`` of them just now."""
        if self._way not in self._expected:
            return
        if not self._done[self._way]:
            self._found[self._way] = epochs - news  # from before an interruption
        self._done[self._way] = epochs

    @property
    def share(self) -> float:
        return sum(self._done.values()) / max(1e-9, self._total)

    @property
    def _total(self) -> float:
        """What is done and what is still expected; audits can make a way longer than that."""
        return sum(max(self._expected[way], done) for way, done in self._done.items())

    @property
    def elapsed(self) -> float:
        return self._clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Extrapolate from what this process has trained; None before there is enough of it."""
        done, found = sum(self._done.values()), sum(self._found.values())
        here, left = done - found, self._total - done
        return self.elapsed / here * left if here > 0.02 * (here + left) else None


class ComparisonScreen:
    """Tells of a comparison on stderr. Implements ``comparison.Watcher``."""

    def __init__(
        self, spec: RunSpec, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spec = spec
        self._console = console
        self._clock = clock
        self._folder: str | None = None
        self._meter = Meter({}, clock)
        self._way = ""
        self._generation = ""
        self._told = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._noticed: set[str] = set()

    def __enter__(self) -> ComparisonScreen:
        beginning = "loading the base model and the data, and timing a few steps ..."
        if self._spec.simulated:
            beginning = f"simulating with profile {self._spec.simulation.profile}"
        self._console.print(Text(beginning, style="dim"), soft_wrap=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is not None and self._folder is not None:
            self._say(
                f"what was finished is kept in {self._folder}."
                f" next: the same command with --folder {shlex.quote(self._folder)}"
            )

    def on_plan(self, plan: Facts) -> None:
        """Say what will be trained, and begin to measure."""
        self._folder = plan["comparison"]
        for line in plan_lines(plan):
            self._say(line)
        self._meter = Meter({way["way"]: way["epochs"] for way in plan["ways"]}, self._clock)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[told]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=1.0, told="")
            self._bar.start()

    def on_way(self, name: str) -> None:
        """Go over to the next way."""
        self._way, self._generation = name, ""
        self._meter.begin(name)
        self._show()

    def on_progress(self, progress: TrialProgress) -> None:
        """Let single steps pass; the bar moves with every stage of a trial."""

    def on_notice(self, topic: str, text: str) -> None:
        """Say the first thing of each topic."""
        if topic not in self._noticed:
            self._noticed.add(topic)
            self._say(text)

    def on_event(self, event: Event, state: EvolutionState) -> None:
        """Move on."""
        if isinstance(event, GenerationStarted | StageFinished) and self._way != "naive":
            self._generation = f"gen {state.generation + 1}/{self._spec.evolution.generations}"
        if isinstance(event, StageFinished):
            news = event.outcome.cost.examples / state.train_examples
            self._meter.advance(_epochs(state), news)
        self._show()

    def _show(self) -> None:
        left = self._meter.seconds_left
        words = [f"{self._meter.share:4.0%}", f"{duration(self._meter.elapsed)} elapsed"]
        if left:
            words.append(f"about {duration(left)} left")
        name = f"{self._way} (simulated)" if self._is_simulated else self._way
        title, told = f"{name} {self._generation}".strip(), "  ".join(words)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._meter.share, description=title, told=told)
        elif (reached := math.floor(self._meter.share * LINES)) > self._told:
            self._told = reached
            self._say(f"{told}  {title}")

    @property
    def _is_simulated(self) -> bool:
        return self._spec.simulated or self._way == "simulation"

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _epochs(state: EvolutionState) -> float:
    """Return the epochs that a run has trained, of the generation under way too."""
    examples = state.ledger.searched.examples + state.ledger.confirmation.examples
    examples += sum(outcome.cost.examples for _, outcome in state.outcomes.values())
    return examples / state.train_examples


def plan_lines(plan: Facts) -> list[str]:
    """Return what will be trained, and for how long."""
    mark = "simulated comparison" if plan["simulated"] else "comparison"
    virtual = "virtual workers" if plan["simulated"] else f"{plan['device']} workers"
    lines = [
        f"{mark} of {plan['config']} in {plan['comparison']}:"
        f" {plan['genomes']} genomes, {plan['workers']} {virtual}"
    ]
    for way in plan["ways"]:
        told = f"  {way['way']:<14}  at most {way['epochs']:.1f} epochs"
        if way["seconds"] is not None:
            told += f", {way['optimizer_steps']:,} optimizer steps, about"
            told += f" {duration(way['seconds'])}"
        lines.append(told)
    if plan["simulated"]:
        return [*lines, "  nothing is trained: this takes seconds"]
    seconds = sum(way["seconds"] for way in plan["ways"])
    return [*lines, f"  simulation      seconds; all of it about {duration(seconds)}"]


SCORE = "on test [95 %]"
HEADER = ("way", "time", "steps", "fewer steps", "faster", SCORE, "tau")


def rows(facts: Facts) -> list[tuple[str, ...]]:
    """Return the comparison's table, one row a way, in the columns of ``HEADER``."""
    return [
        (
            f"{way['way']} (simulated)" if way["simulated"] else way["way"],
            took(way),
            f"{way['optimizer_steps']:,}",
            _times(way["step_speedup"]),
            _times(way["time_speedup"]),
            _test(way["test"]),
            "–" if way["kendall_tau"] is None else f"{way['kendall_tau']:.2f}",
        )
        for way in facts["ways"]
    ]


def took(way: Facts) -> str:
    """Return how long a way took, with the clock if it was not a real one."""
    seconds = way["seconds"]
    told = f"{seconds:.2g} s" if seconds < 10 else duration(seconds)
    return f"{told} virtual" if way["clock"] == "virtual" else told


def _times(factor: float | None) -> str:
    if factor is None:
        return "–"
    return f"{factor:,.0f}x" if factor >= 100 else f"{factor:.3g}x"


def _test(score: Facts | None) -> str:
    if score is None:
        return "–"
    if score["low"] is None:
        return f"{score['estimate']:.3f}"
    return f"{score['estimate']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def title(facts: Facts) -> str:
    """Return what was compared, in a line."""
    mark = "simulated comparison" if facts["simulated"] else "comparison"
    return (
        f"{mark} of {facts['config']}: {facts['genomes']} genomes ({facts['population']} x"
        f" {facts['generations']} generations), {facts['objective']['metric']},"
        f" seed {facts['seed']}, {facts['workers']} workers"
    )


def remarks(facts: Facts) -> list[str]:
    """Return what the table's numbers mean, and how good the early choices were."""
    lines = [_meaning(facts)]
    lines.append(
        "fewer steps, faster: against naive. steps hold audits and the default recipe's full"
        " training. tau: Kendall's, of the ranking against naive's"
    )
    theory = facts["theory"]["step_speedup"]
    lines.append(f"in theory, with nothing pruned by a rule: {theory:.3g}x fewer steps")
    lines.append(_choice(facts["champion"], "multi-fidelity's champion", facts["genomes"]))
    if facts["champion_test_difference"] is not None:
        lines.append(
            "champions on test, multi-fidelity's minus naive's:"
            f" {facts['champion_test_difference']:+.4f}"
        )
    if facts["simulator"] is not None:
        lines.append(_choice(facts["simulator"], "the simulator's favourite", facts["genomes"]))
    kind = "its virtual workers are" if facts["simulated"] else "the same evolution is for real"
    lines.append(f"simulating is {_times(facts['simulation_speedup'])} faster than {kind}")
    return lines


def _meaning(facts: Facts) -> str:
    profile = facts["profile"]
    if facts["simulated"]:
        return (
            f"nothing was trained: every number is what profile {profile} predicts, but for the"
            " simulation's own time; its tau needs a real comparison"
        )
    return (
        f"simulation: steps and test score are what profile {profile} predicts; its time is real."
        " tau: over the same genomes, simulated in full"
    )


def _choice(choice: Facts, name: str, genomes: int) -> str:
    told = f"{name} (trial {choice['trial']}), trained naively, is"
    if choice["trial"] == choice["naive_best"]:
        return f"{told} naive's best as well"
    place = f"{told} number {choice['naive_place']} of {genomes}"
    if choice["regret"] is None:
        return f"{place}: it failed"
    best = choice["naive_best"]
    return f"{place}: {choice['regret']:.4f} behind trial {best} on validation"


def print_comparison(facts: Facts, console: Console) -> None:
    """Print the table, what it means, and where it lies."""
    console.print(Text(title(facts), style="bold"), soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for i, column in enumerate(HEADER):
        table.add_column(column, justify="right" if i else "left", no_wrap=column == SCORE)
    for row in rows(facts):
        table.add_row(*row)
    console.print(table)
    for line in remarks(facts):
        console.print(Text(line))
    console.print(Text(f"saved  {facts['comparison']}/comparison.md"), soft_wrap=True)


def as_markdown(facts: Facts) -> str:
    """Return the comparison as a Markdown page."""
    table = [HEADER, ("---",) + ("---:",) * (len(HEADER) - 1), *rows(facts)]
    heading = title(facts)
    lines = [f"# {heading[0].upper()}{heading[1:]}", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    lines += ["", *(f"- {line}" for line in remarks(facts)), ""]
    lines += [f"- {way['way']}: `{way['run']}`" for way in facts["ways"]]
    return "\n".join(lines) + "\n"


def save_markdown(facts: Facts) -> None:
    """Write ``comparison.md`` into the comparison's folder."""
    from coral.storage import write_text_durably

    write_text_durably(Path(facts["comparison"]) / "comparison.md", as_markdown(facts))
