"""What is trained, and who stands behind the loop: trainers, executors, stores, observers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from coral.fidelity.stages import Stage
from coral.plan import (
    TrainingPlan,
)
from coral.ports.strategies import Strategies
from coral.ports.task import Problem
from coral.records import Derivation, Direction, Event, Outcome, TestScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Weights that a job starts from, or that it puts together.

    Attributes:
        trial: whose they are.
        stage: index of the stage at whose end they stood.
        key: their identity, see ``Outcome.weights``.
        address: of the checkpoint.
        weight: share among several.
    """

    trial: int
    stage: int
    key: str
    address: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """Train one plan from the end of one stage to the end of another, and evaluate.

    Attributes:
        key: identity of the work, see ``Outcome.key``.
        stage: index of the stage to reach.
        stages: the ladder.
        resume_from: address of this plan's checkpoint at the end of an earlier stage, or of
            ``stage`` itself; a plan that differs in inference alone has the same. None, or an
            address that can't be read, means training from scratch through the same batches.
        entry: index of the stage that is trained first, from inherited weights or from nothing.
        inherits: the parents' weights that it starts from, the better parent's first; none for a
            cold start.
        derivation: set if the weights are made of the inherited ones without training.
        min_retained_energy: least share of two parents' blend that the adapter has to keep; with
            less, the better parent's weights alone are inherited.
        ancestors: jobs by whose keys ``inherits`` can be trained again where it is lost, parents
            before children.
        micro_batch_size: most examples in one forward pass; None leaves batches whole.
        entrances: layers before which activations may be kept to be shared; None for any.
        entered: those that the population enters; what enters one is kept where a pass to a higher
            one comes by.
    """

    key: str
    trial: int
    plan: TrainingPlan
    stage: int
    stages: tuple[Stage, ...]
    seed: int
    resume_from: str | None = None
    entry: int = 0
    inherits: tuple[Inherited, ...] = ()
    derivation: Derivation | None = None
    min_retained_energy: float = 0.0
    ancestors: tuple[TrainingJob, ...] = ()
    micro_batch_size: int | None = None
    entrances: tuple[int, ...] | None = None
    entered: tuple[int, ...] = ()
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModule:
    """A linear map that LoRA can adapt.

    Attributes:
        layer: None outside the layer stack.
        entry: no other linear map of its layer comes before it.
    """

    name: str
    layer: int | None
    in_features: int
    out_features: int
    entry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSurvey:
    """What a loaded task holds.

    Attributes:
        center, spread: of numbers among the train labels, as their mean and standard deviation.
        texts: an example.
        streams: train examples pass once, and are never held.
        notes: see ``TaskData``.
        proxies: those that stand for a metric, by name, with the metric.
    """

    name: str
    metrics: Mapping[str, Direction]
    primary_metric: str
    label_names: tuple[str, ...]
    train_examples: int
    validation_examples: int
    test_examples: int
    problem: Problem = "single_label"
    center: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    texts: int = 1
    streams: bool = False
    notes: tuple[str, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the model and the data turn out to be, once loaded.

    Attributes:
        model_digest: identity of the base model's weights and tokenizer.
        data_digest: identity of every split of every task.
        depth: number of layers in the stack.
        device: such as ``cpu`` or ``cuda``.
        max_tokens: longest text that the model has positions for; None if it says nothing.
        versions: package name to version, of what trains.
        shares_prefixes: what lies below adapters is computed once, for all genomes.
        prefix_feature_bytes: that one feature of it takes.
        shares_products: what the frozen maps give that come first in a layer is shared, too.
        hidden_size: features that layers hand on.
        slots: most jobs that a worker trains side by side.
        slot_rates: what that was chosen by: jobs side by side, and examples a second.
        strategies: identity of those of plugins that decide results, as ``curricula.name``.
    """

    model_digest: str
    data_digest: str
    depth: int
    linear_modules: tuple[LinearModule, ...]
    tasks: tuple[TaskSurvey, ...]
    device: str
    mean_tokens: float
    max_tokens: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    shares_prefixes: bool = False
    prefix_feature_bytes: int = 4
    shares_products: bool = False
    hidden_size: int = 0
    slots: int = 1
    slot_rates: tuple[tuple[int, float], ...] = ()
    strategies: Mapping[str, str] = field(default_factory=dict)

    @property
    def train_examples(self) -> int:
        return sum(task.train_examples for task in self.tasks)

    @property
    def proxies(self) -> dict[str, str]:
        """Proxy to the metric that it stands for, of every task."""
        return {
            f"{task.name}.{proxy}": f"{task.name}.{metric}"
            for task in self.tasks
            for proxy, metric in task.proxies.items()
        }

    @property
    def metric_names(self) -> frozenset[str]:
        """Every metric that an objective or a prune rule may name."""
        own = {f"{task.name}.{metric}" for task in self.tasks for metric in task.metrics}
        shared = set.intersection(*(set(task.metrics) for task in self.tasks))
        return frozenset(own | shared)


class Trainer(Protocol):
    """Trains plans. One lives in each worker and keeps its base model loaded."""

    def survey(self) -> Survey: ...

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Train jobs that share the base model, side by side or not; failures are outcomes too."""
        ...

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        """Score trained jobs on the test split, each against the last one, the reference."""
        ...

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        """Write adapter, heads and tokenizer into ``folder``, with ``card`` as ``coral.json``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A sign of life from a job under way.

    Attributes:
        key: the job's.
        stage: name of the stage that it trains.
    """

    key: str
    trial: int
    stage: str
    step: int
    end_step: int
    loss: float

    @classmethod
    def of(cls, job: TrainingJob, *, step: int, end_step: int, loss: float) -> Self:
        """Return how far a job is."""
        stage = job.stages[job.stage].name
        return cls(
            key=job.key, trial=job.trial, stage=stage, step=step, end_step=end_step, loss=loss
        )


class Executor(Protocol):
    """Runs jobs somewhere. Never raises for a trial; outcomes come in order of completion."""

    def survey(self) -> Survey: ...

    def run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]: ...

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]: ...

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class RunStore(Protocol):
    """The run's durable log of events."""

    def append(self, event: Event) -> None:
        """Store an event; it is durable when this returns."""
        ...

    def events(self) -> Iterator[Event]: ...


class CheckpointStore(Protocol):
    """Content-addressed bytes in the cache."""

    def put(self, content: bytes) -> str: ...

    def get(self, address: str) -> bytes:
        """Return the bytes.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        ...

    def holds(self, address: str) -> bool:
        """Return whether there is something at an address; reading it may still fail.

        Raises:
            CheckpointError: the store can't be asked.
        """
        ...

    def size(self, address: str) -> int | None:
        """Return the bytes that a checkpoint takes; None where it is missing.

        Raises:
            CheckpointError: the store can't be asked.
        """
        ...

    def discard(self, addresses: Iterable[str]) -> None:
        """Remove checkpoints; those that are missing already are passed over.

        Raises:
            CheckpointError: one can't be removed.
        """
        ...


class Observer(Protocol):
    """Watches a run. ``state`` is an ``evolution.EvolutionState``."""

    def on_event(self, event: Event, state: Any) -> None: ...

    def on_progress(self, progress: Progress) -> None: ...

    def on_notice(self, topic: str, text: str) -> None:
        """Hear what the user should know; it may come again, and once a topic is enough to tell."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything that a run needs from outside the pure core.

    Attributes:
        workers: jobs that the executor runs at the same time.
        strategies: those that decide in this process: selections and objectives.
    """

    executor: Executor
    runs: RunStore
    checkpoints: CheckpointStore
    observer: Observer
    survey: Survey
    workers: int = 2
    strategies: Strategies = field(default_factory=Strategies)
