"""The protocols between rooms. ``compose`` is the only place that picks who stands behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.fidelity.stages import Stage
from coral.plan import (
    CURRICULA,
    LOSS_WEIGHTINGS,
    SAMPLERS,
    CurriculumPlan,
    LossPlan,
    SamplingPlan,
    TaskRows,
    TrainingPlan,
)
from coral.records import Cost, Derivation, Direction, Event, GeneValue, Outcome, TestScore

Problem = Literal["single_label", "multi_label", "regression", "causal_lm"]
"""What a task asks for: one class of several, any number of labels, numbers, or written answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """One split of a task.

    Attributes:
        texts: one string an example.
        labels: by the task's problem ``(n,)`` int64 class indices, ``(n, labels)`` int64 of 0 and
            1, or ``(n, numbers)`` float64; of written answers ``(n,)`` zeros.
        pairs: the second text of each example, where there are two; else empty.
        inputs: what else examples hold, such as images: name to one value an example.
    """

    texts: tuple[str, ...]
    labels: NDArray[Any]
    pairs: tuple[str, ...] = ()
    inputs: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int]) -> Examples:
        """Return some of the examples, in the order of ``rows``."""
        chosen = list(rows)
        return Examples(
            texts=tuple(self.texts[i] for i in chosen),
            labels=self.labels[chosen],
            pairs=tuple(self.pairs[i] for i in chosen) if self.pairs else (),
            inputs={name: [values[i] for i in chosen] for name, values in self.inputs.items()},
        )

    @property
    def contents(self) -> tuple[tuple[str, ...], ...]:
        """What each example says: its text, or its two texts."""
        return tuple(zip(self.texts, self.pairs, strict=True) if self.pairs else zip(self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleStream:
    """A train split that is read from its beginning, pass by pass, and never held whole.

    Attributes:
        examples: that make an epoch. A pass that comes to the end of the data before begins again.
        buffer: examples among which the next one is drawn.
        digest: identity of the data, without reading them whole.
        read: yields the examples in their order, the same each time, in parts of any size. May
            raise TaskError where one is not what it must be; that fails the trial that reads it.
    """

    examples: int
    buffer: int
    digest: str
    read: Callable[[], Iterator[Examples]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalSettings:
    """How a language model learns to write a task's answers.

    Attributes:
        train_on_inputs: learn to write the prompts, too.
        sample_packing: let several examples share a row; they don't see each other.
        chat_template: ``plain``, or a Jinja template; None for the tokenizer's own.
        generate_examples: most examples of a split for which answers are generated and compared.
        max_new_tokens: of an answer that is generated.
        prompt_format: how somebody's question becomes a prompt: ``{prompt}`` stands for it. None if
            it is said by the user of a conversation.
    """

    train_on_inputs: bool = False
    sample_packing: bool = False
    chat_template: str | None = None
    generate_examples: int = 0
    max_new_tokens: int = 64
    prompt_format: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """A task's three splits.

    Attributes:
        train: of a task that streams its first examples, which stand for all of them.
        label_names: of its classes, labels or numbers.
        notes: what the user should know of how the data were read, in words.
        causal: of a task whose answers are written (``causal_lm``), which has no label names. Its
            examples have the inputs ``messages`` (conversations of ``role`` and ``content``), or
            ``prompt`` and ``answer``.
        stream: of a task that streams, all that it trains on.
    """

    train: Examples
    validation: Examples
    test: Examples
    label_names: tuple[str, ...]
    problem: Problem = "single_label"
    notes: tuple[str, ...] = ()
    causal: CausalSettings | None = None
    stream: ExampleStream | None = None

    def __post_init__(self) -> None:
        if (self.problem == "causal_lm") != (self.causal is not None):
            raise TaskError(
                f"a task's data must have `causal` if their problem is causal_lm, and else not; got"
                f" {self.problem} and {self.causal}.\nCorrect the plugin."
            )
        if self.stream is not None and self.causal is not None:
            raise TaskError("tasks whose answers are written can't stream.\nCorrect the plugin.")

    @property
    def train_examples(self) -> int:
        """How many make an epoch."""
        return len(self.train) if self.stream is None else self.stream.examples


@dataclass(frozen=True, slots=True, kw_only=True)
class DataContext:
    """What a task may use while it loads its data.

    Attributes:
        cache_dir: a folder, shared by tasks and processes, for what can be made again.
    """

    cache_dir: Path


class Task(Protocol):
    """A task. Plugins register a factory: ``factory(**options) -> Task``."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """Names of the metrics that ``score`` returns, with the direction that is better."""
        ...

    @property
    def primary_metric(self) -> str: ...

    def load(self, context: DataContext) -> TaskData:
        """Return the splits, the same in every process."""
        ...

    def score(self, labels: NDArray[Any], predictions: NDArray[np.float64]) -> Mapping[str, float]:
        """Score predictions.

        Args:
            labels: as in ``Examples``.
            predictions: ``(n, label_names)``: probabilities, of which a row sums to 1 if just one
                label is right; or numbers, in the unit of the labels. Of written answers
                statistics, ``(n, 3)`` or ``(n, 5)``, see ``coral.tasks.score_language``.
        """
        ...


PLAIN = "plain"
"""Name of the examples as they are, among a task's views."""


class Curriculum(Protocol):
    """Says which examples training may draw, and when."""

    def __call__(
        self, plan: CurriculumPlan, progress: float, difficulty: NDArray[np.float64], /
    ) -> NDArray[np.bool_]:
        """Return ``(n,)`` which examples are let in.

        Where no example of a task is, its easiest are.

        Args:
            progress: share of the horizon that is trained, in [0, 1).
            difficulty: ``(n,)`` in (0, 1], of the examples of all tasks.
        """
        ...


class Sampler(Protocol):
    """Says how often each example of a task is drawn."""

    def __call__(self, plan: SamplingPlan, rows: TaskRows, /) -> NDArray[np.float64]:
        """Return ``(n,)`` weights >= 0: in one pass an example comes up in proportion to its own.

        Args:
            rows: the examples that a stage may draw.
        """
        ...


class LossWeighting(Protocol):
    """Says how much the loss of each example counts."""

    def __call__(self, plan: LossPlan, rows: TaskRows, /) -> NDArray[np.float64]:
        """Return ``(n,)`` weights >= 0; they are scaled to a mean of 1.

        Args:
            rows: the task's whole train set.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelectionPool:
    """Trials that may become parents, all of whom reached the same stage.

    Attributes:
        values: ``(n, objectives)``, more is better in each: what is to be small is negated.
        ages: ``(n,)`` generations since each was bred; 0 for the latest.
        genomes: gene path to value.
    """

    values: NDArray[np.float64]
    ages: NDArray[np.int64]
    genomes: tuple[Mapping[str, GeneValue], ...]

    def __len__(self) -> int:
        return len(self.values)


class Selection(Protocol):
    """Picks the parents of the next generation."""

    def __call__(
        self, pool: SelectionPool, count: int, rng: np.random.Generator, /
    ) -> Sequence[int]:
        """Return ``count`` different positions in ``pool``, the ones to prefer first.

        Args:
            count: from 1 to the size of the pool.
            rng: the only source of chance.
        """
        ...


class ObjectiveFunction(Protocol):
    """Something to make better that follows from an outcome's metrics and cost."""

    @property
    def direction(self) -> Direction: ...

    def __call__(self, metrics: Mapping[str, float], cost: Cost, /) -> float:
        """Return the objective; a value that is not finite ends the trial's chances.

        Args:
            metrics: as in ``Outcome``.
            cost: of the stage that was trained last.
        """
        ...


BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "curricula": tuple(CURRICULA),
    "samplers": tuple(SAMPLERS),
    "loss_weightings": tuple(LOSS_WEIGHTINGS),
    "selections": ("nsga2", "nsga3", "tournament"),
    "objectives": (),
}
"""Kind of strategy to the names that Coral brings; its selections are in DEAP's toolbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategies:
    """Strategies by name: Coral's own, and those of plugins that a run uses."""

    curricula: Mapping[str, Curriculum] = field(default_factory=lambda: CURRICULA)
    samplers: Mapping[str, Sampler] = field(default_factory=lambda: SAMPLERS)
    loss_weightings: Mapping[str, LossWeighting] = field(default_factory=lambda: LOSS_WEIGHTINGS)
    selections: Mapping[str, Selection] = field(default_factory=dict)
    objectives: Mapping[str, ObjectiveFunction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A cheap metric of a task's own, which prune rules may name.

    Attributes:
        score: called like ``Task.score``, on the validation split; returns one number.
        stage: index of the stage that it serves; it is computed there and nowhere else.
        view: whose predictions it is called with, see ``HasViews``.
        stands_for: metric of the task that it foretells; how well is measured in every run.
            Empty if it foretells none.
    """

    score: Callable[[NDArray[Any], NDArray[np.float64]], float]
    stage: int = 0
    view: str = PLAIN
    stands_for: str = ""


@runtime_checkable
class HasDifficulty(Protocol):
    """A task that knows which of its examples are hard; else the longer text is the harder one."""

    def difficulty(self, examples: Examples) -> NDArray[np.float64]:
        """Return ``(n,)`` numbers, more for the harder ones; only their order counts."""
        ...


@runtime_checkable
class HasDomains(Protocol):
    """A task whose examples come from several domains, whose shares its parts and batches keep."""

    def domains(self, examples: Examples) -> Sequence[str]:
        """Return the name of each example's domain."""
        ...


@runtime_checkable
class HasProxies(Protocol):
    """A task with cheap metrics for early stages, by name."""

    @property
    def proxies(self) -> Mapping[str, Proxy]: ...


@runtime_checkable
class HasGenes(Protocol):
    """A task that knows what is worth searching on its data."""

    @property
    def genes(self) -> Mapping[str, Any]:
        """Entries of a ``search_space`` block, as a config would write them."""
        ...


@runtime_checkable
class HasProfile(Protocol):
    """A task that says which profile ``--simulate`` should use."""

    @property
    def profile(self) -> str | Path:
        """A bundled profile's name, or the absolute path of one that ``coral calibrate`` wrote."""
        ...


@runtime_checkable
class HasViews(Protocol):
    """A task some of whose metrics, or proxies, need predictions on altered examples."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that its metrics need; none if they need none."""
        ...

    def view(self, examples: Examples, name: str) -> Examples:
        """Return examples as a view shows them, each by itself, in their order."""
        ...

    def score_views(
        self, labels: NDArray[Any], predictions: Mapping[str, NDArray[np.float64]]
    ) -> Mapping[str, float]:
        """Return those of the task's ``metrics`` that ``score`` does not.

        Args:
            labels: as ``score`` has them.
            predictions: by view, ``PLAIN`` included, each as ``score`` has them.
        """
        ...


@runtime_checkable
class HasCollate(Protocol):
    """A task that makes the model's inputs itself, as of texts with images.

    It is the only task of its run, on a base model that comes with a processor.
    """

    def lengths(self, examples: Examples, processor: Any, sequence_len: int) -> NDArray[np.int64]:
        """Return ``(n,)`` tokens of each example as ``collate`` makes them, padding aside."""
        ...

    def collate(
        self, examples: Examples, rows: Sequence[int], processor: Any, sequence_len: int
    ) -> Mapping[str, Any]:
        """Return what the model is called with for some examples.

        Args:
            processor: what ``transformers.AutoProcessor`` finds for the base model.
            sequence_len: tokens that a text is cut to; those of images come on top.

        Returns:
            Tensors by the model's names for them, ``input_ids`` and ``attention_mask`` among
            them, padded on the right.
        """
        ...


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
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModule:
    """A linear map that LoRA can adapt; ``layer`` is None outside the layer stack."""

    name: str
    layer: int | None
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSurvey:
    """What a loaded task holds.

    Attributes:
        center, spread: of numbers among the train labels, as their mean and standard deviation.
        texts: an example.
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
