"""A run on a trainer that plays a script, and ports that remember or die."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from coral.errors import CheckpointError
from coral.evolution import EvolutionState
from coral.execution import InlineExecutor
from coral.fidelity import PruneRule, PruneSettings
from coral.genome import ChoiceGene, Condition, FloatGene, IntGene, SearchSpace
from coral.loop import evolve
from coral.plan import TrainingPlan, with_values
from coral.ports import Ports, Progress, RunStore, Survey, TrainingJob
from coral.records import (
    Event,
    Objective,
    Outcome,
    TestScore,
)
from coral.settings import EvolutionSettings, RunSpec, TaskSettings
from coral.storage.codec import decode, encode
from coral.testing.trainers import scripted_trainer

Selection = Literal["nsga2", "nsga3", "tournament"]
AUROC = Objective(metric="auroc")
SIZE = Objective(metric="trainable_parameters", direction="min")

BASE = with_values(TrainingPlan(), {"schedule.batch_size": 4})
SPACE = SearchSpace(
    base=BASE,
    genes=(
        FloatGene(path="schedule.learning_rate", low=1e-5, high=1e-1, log=True),
        IntGene(path="adapter.rank", low=2, high=32, log=True),
        ChoiceGene(path="curriculum.kind", options=("none", "progressive")),
        FloatGene(
            path="curriculum.ramp",
            low=0.1,
            high=0.9,
            when=Condition(path="curriculum.kind", values=("progressive",)),
        ),
    ),
)
SPEC = RunSpec(
    name="test",
    base_model="scripted",
    tasks=(TaskSettings(name="origin"), TaskSettings(name="kind")),
    space=SPACE,
    evolution=EvolutionSettings(population_size=6, generations=3),
    objectives=(AUROC, SIZE),
    prune=PruneSettings(rules=(PruneRule(metric="auroc", below=0.6),), audit_fraction=0.3),
).without_inheritance()


class MemoryRunStore:
    """Keeps events as the JSON that a file would hold."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def append(self, event: Event) -> None:
        self.rows.append(encode(event))

    def events(self) -> Iterator[Event]:
        return iter([decode(kind, payload) for kind, payload in self.rows])


class KilledError(Exception):
    """The process is gone."""


@dataclass
class DyingRunStore:
    """Dies at the append number ``at`` (counted from 0), before or after it is durable."""

    kept: RunStore
    at: int
    durable: bool

    def append(self, event: Event) -> None:
        self.at -= 1
        if self.at < 0 and not self.durable:
            raise KilledError
        self.kept.append(event)
        if self.at < 0:
            raise KilledError

    def events(self) -> Iterator[Event]:
        return self.kept.events()


@dataclass
class MemoryCheckpointStore:
    discarded: list[str] = field(default_factory=list)

    def put(self, content: bytes) -> str:
        raise NotImplementedError

    def get(self, address: str) -> bytes:
        raise CheckpointError(address)

    def holds(self, address: str) -> bool:
        return True

    def size(self, address: str) -> int | None:
        return 0

    def discard(self, addresses: Iterable[str]) -> None:
        self.discarded += addresses


@dataclass
class Watcher:
    """Remembers what it was told, and how many events were durable then."""

    runs: RunStore
    told: list[tuple[Event, EvolutionState]] = field(default_factory=list)
    durable: list[int] = field(default_factory=list)
    noticed: list[tuple[str, str]] = field(default_factory=list)

    def on_event(self, event: Event, state: EvolutionState) -> None:
        self.told.append((event, state))
        if isinstance(self.runs, MemoryRunStore):
            self.durable.append(len(self.runs.rows))

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_notice(self, topic: str, text: str) -> None:
        self.noticed.append((topic, text))


class WatchedExecutor:
    """An inline executor that remembers its jobs.

    Adds the size to the metrics, as the real trainer does.

    Args:
        edit: changes outcomes on their way.
        arrival: puts a stage's outcomes in another order.
    """

    def __init__(
        self,
        trials: Mapping[str, Any] | None = None,
        edit: Callable[[TrainingJob, Outcome], Outcome] = lambda _, outcome: outcome,
        arrival: Callable[[list[Outcome]], list[Outcome]] | None = None,
    ) -> None:
        payload = {"trials": trials or {}}
        self.inner = InlineExecutor(scripted_trainer(payload, "cpu", lambda _: None))
        self.edit = edit
        self.arrival = arrival
        self.jobs: list[TrainingJob] = []
        self.scored: list[tuple[list[int], int]] = []

    def survey(self) -> Survey:
        return self.inner.survey()

    def run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        outcomes = self._run(jobs)
        return outcomes if self.arrival is None else iter(self.arrival(list(outcomes)))

    def _run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        for job in jobs:
            self.jobs.append(job)
            (outcome,) = self.inner.run([job])
            if outcome.failure is None:
                size = {"trainable_parameters": float(outcome.trainable_parameters)}
                outcome = replace(outcome, metrics={**outcome.metrics, **size})
            yield self.edit(job, outcome)

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        self.scored.append(([finalist.trial for finalist in finalists], seed))
        return self.inner.score(finalists, seed)

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        self.inner.export(finalist, folder, card)

    def close(self) -> None:
        self.inner.close()


def ports_of(executor: WatchedExecutor, runs: RunStore | None = None) -> Ports:
    runs = MemoryRunStore() if runs is None else runs
    return Ports(
        executor=executor,
        runs=runs,
        checkpoints=MemoryCheckpointStore(),
        observer=Watcher(runs),
        survey=executor.survey(),
    )


def run(spec: RunSpec = SPEC, trials: Mapping[str, Any] | None = None) -> EvolutionState:
    return evolve(spec, ports_of(WatchedExecutor(trials)))


def generations(count: int, spec: RunSpec = SPEC) -> RunSpec:
    return replace(spec, evolution=replace(spec.evolution, generations=count))


def discarded(ports: Ports) -> list[str]:
    assert isinstance(ports.checkpoints, MemoryCheckpointStore)
    return ports.checkpoints.discarded


FAILING = {"2": {"diverge": True}, "4": {"oom_above": 0}, "8": {"raise": "boom"}}
