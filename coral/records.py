"""The nouns that pass between rooms. All of them are frozen and made of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GeneValue = bool | int | float | str | tuple[str, ...] | tuple[float, ...]
"""A gene's value: flags, numbers, a choice, a subset of names, or shares on a simplex."""

Direction = Literal["max", "min"]
FailureKind = Literal["oom", "diverged", "timeout", "crashed", "plugin", "lost"]
"""``lost``: weights to inherit could not be read; they are trained again, and the job repeated."""
Operator = Literal[
    "reference", "recipe", "sobol", "mutation", "crossover", "exploit", "soup", "squeeze"
]
Status = Literal["completed", "pruned", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One thing the search makes better.

    Attributes:
        metric: a task's metric (``docstring_kind.auroc``), its mean over tasks (``auroc``),
            ``trainable_parameters``, ``train_cost``, ``peak_memory_bytes``, or an objective that a
            plugin provides.
        direction: ``max`` or ``min``.
    """

    metric: str
    direction: Direction = "max"

    @property
    def sign(self) -> int:
        """What a value is multiplied with so that more is better."""
        return 1 if self.direction == "max" else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one piece of training took.

    Attributes:
        optimizer_steps, examples, tokens: counted without padding.
        teraflops: 1e12 floating-point operations, computed from shapes and so repeatable.
        train_seconds, evaluation_seconds: wall time in the worker.
    """

    optimizer_steps: int = 0
    examples: int = 0
    tokens: int = 0
    teraflops: float = 0.0
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall time in the worker, training and evaluation."""
        return self.train_seconds + self.evaluation_seconds

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            optimizer_steps=self.optimizer_steps + other.optimizer_steps,
            examples=self.examples + other.examples,
            tokens=self.tokens + other.tokens,
            teraflops=self.teraflops + other.teraflops,
            train_seconds=self.train_seconds + other.train_seconds,
            evaluation_seconds=self.evaluation_seconds + other.evaluation_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a trial could not go on."""

    kind: FailureKind
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A stage's training curve, thinned to at most a few hundred points.

    Attributes:
        step: optimizer steps since the trial began.
        loss: training loss of that step.
        gradient_norm: total L2 norm before clipping.
    """

    step: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    gradient_norm: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What weights kept of those that they were made from.

    Attributes:
        retained_energy: share of the squared Frobenius norm of the sources' update, all modules.
        by_module: the same for each module that the sources adapt; 0 where it was dropped.
        sources: trial numbers of those whose weights are in it.
        moments_kept: the optimizer's moments came along; they don't through a decomposition.
    """

    retained_energy: float
    by_module: Mapping[str, float]
    sources: tuple[int, ...]
    moments_kept: bool = False


def key_of(weights: str, inference: str = "") -> str:
    """Return an outcome's key.

    Args:
        weights: identity of the weights.
        inference: of what is made of their outputs; empty for what the defaults make.
    """
    return f"{weights}+{inference}" if inference else weights


def weights_of(key: str) -> str:
    """Return the identity of the weights from an outcome's key."""
    return key.partition("+")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one trial did in one stage.

    Attributes:
        key: identity of the work: plan, stages so far, seed, data and base model. It begins with
            that of the weights, see ``key_of``.
        stage: index on the ladder.
        metrics: validation metrics, ``task.metric`` and the mean over tasks under ``metric``, the
            proxies (``gradient_norm``, ``loss_slope``), and the objectives of plugins that the run
            has.
        cost: spent in this stage alone.
        cumulative_steps: optimizer steps that these weights have ever seen, along the longest line
            of those that they come from.
        trainable_parameters: adapter parameters (heads aside).
        checkpoint: address of the weights at the stage's end.
        checkpoint_bytes: its size.
        inheritance: what was kept of inherited weights, in the outcome of the first stage.
        peak_memory_bytes: of the worker process, or of the GPU where one is used, since the job
            began; jobs that train side by side have it together.
        attempts: tries it took, the last one included.
        notes: what went another way than usual, in words.
    """

    key: str
    stage: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    curve: Curve = field(default_factory=Curve)
    cumulative_steps: int = 0
    trainable_parameters: int = 0
    checkpoint: str | None = None
    checkpoint_bytes: int = 0
    inheritance: Inheritance | None = None
    failure: Failure | None = None
    peak_memory_bytes: int = 0
    attempts: int = 1
    notes: tuple[str, ...] = ()

    @property
    def readings(self) -> dict[str, float]:
        """``metrics``, and what is measured anew each time: ``peak_memory_bytes``."""
        return {**self.metrics, "peak_memory_bytes": float(self.peak_memory_bytes)}

    @property
    def weights(self) -> str:
        """Identity of the weights: equal for outcomes that differ in inference alone."""
        return weights_of(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Who a trial came from.

    Attributes:
        operator: what made it.
        parents: their trial numbers.
        changed: dotted paths of the genes that differ from the first parent's.
    """

    operator: Operator
    parents: tuple[int, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """Weights that another trial starts from.

    Attributes:
        trial: whose they are.
        stage: index of the stage at whose end they stood.
        weight: its share, among several.
    """

    trial: int
    stage: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """How weights are made of others without training.

    Attributes:
        kind: ``soup`` adds the updates of several trials; ``squeeze`` cuts the rank of one.
        rank: of every update at most; None where ``energy`` says it.
        energy: share of each update's energy to keep, with as little rank as that takes.
    """

    kind: Literal["soup", "squeeze"]
    rank: int | None = None
    energy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A genome about to be tried.

    Attributes:
        number: the trial's number, unique in the run.
        genome: gene path to value, all genes, inactive ones included.
        digest: SHA-256 of the active genes, and of what it is derived from.
        legacy: the weights it starts from, the better parent's first; none for a cold start.
        entry: index of the stage that it trains first.
        derivation: set if its weights are made of others' without training.
        shares: the trial whose weights are its own too, by the end of the stage in which it is
            judged first; None if it trains itself from ``entry`` on. ``legacy`` and ``entry`` are
            then those of that trial.
    """

    number: int
    generation: int
    genome: Mapping[str, GeneValue]
    digest: str
    lineage: Lineage
    legacy: tuple[Legacy, ...] = ()
    entry: int = 0
    derivation: Derivation | None = None
    shares: Legacy | None = None

    @property
    def first_stage(self) -> int:
        """Index of the stage in which it is judged first."""
        return self.entry if self.shares is None else self.shares.stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a trial ended.

    Attributes:
        status: ``completed`` (climbed the whole ladder), ``pruned`` or ``failed``.
        stage: index of the last stage it entered before the verdict.
        reason: in words.
        rule: what condemned it: a prune rule's text, ``not promoted``, or a failure's kind.
        audited: it trained on all the same, to check the verdict.
    """

    status: Status
    stage: int
    reason: str = ""
    rule: str = ""
    audited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One genome's whole life."""

    candidate: Candidate
    outcomes: tuple[Outcome, ...]
    verdict: Verdict

    @property
    def number(self) -> int:
        return self.candidate.number

    @property
    def scored(self) -> tuple[Outcome, ...]:
        """The outcomes that ended without a failure."""
        return tuple(outcome for outcome in self.outcomes if outcome.failure is None)

    @property
    def best_stage(self) -> int:
        """Index of the highest stage that it ended without a failure; -1 if none."""
        return self.scored[-1].stage if self.scored else -1

    def outcome_at(self, stage: int) -> Outcome | None:
        """Return the outcome of a stage that it ended without a failure; None if there is none."""
        return next((outcome for outcome in self.scored if outcome.stage == stage), None)

    @property
    def cost(self) -> Cost:
        total = Cost()
        for outcome in self.outcomes:
            total = total + outcome.cost
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with a bootstrap percentile interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TestScore:
    """A finalist on the test split.

    Attributes:
        metrics: as in ``Outcome``.
        intervals: 95 % bootstrap intervals of the primary metrics.
        difference: paired bootstrap interval of finalist minus reference, by metric.
    """

    __test__ = False

    trial: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    difference: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """Weights that were scored on the test split.

    Attributes:
        kind: ``lineage`` is the best trial's own weights; ``cold`` a genome trained from scratch on
            a new seed; ``default`` the default recipe; ``long default`` the same for as many
            optimizer steps as went into the champion's lineage.
        trial: whose genome it is.
        metrics: on the validation split, as in ``Outcome``.
        optimizer_steps: all that went into the weights, those of every ancestor once.
        checkpoint: address of the weights.
    """

    kind: Literal["lineage", "cold", "default", "long default"]
    trial: int
    seed: int
    metrics: Mapping[str, float]
    optimizer_steps: int
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStarted:
    generation: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished:
    trial: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFinished:
    """A generation's verdicts, in the order of its candidates."""

    generation: int
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatesJoined:
    """Candidates that join the generation under way, at a later stage.

    Attributes:
        replaced: numbers of the trials whose places they take, in their order.
    """

    candidates: tuple[Candidate, ...]
    replaced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsDerived:
    """The soup and the squeezed adapters after a generation; none if nothing was worth keeping."""

    generation: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentsSelected:
    """The parents of the next generation, where a plugin picks them.

    What Coral's own selections pick follows from the trials, and has no event.

    Attributes:
        generation: the last one finished.
        parents: trial numbers, the ones to prefer first.
    """

    generation: int
    parents: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfirmed:
    """The contestants on the test split; the run is finished.

    Attributes:
        champion: number of the best trial of the search.
        reference: None if the default recipe failed before the last stage.
        scores: in the order of ``contestants``, the reference's last.
        contestants: who was scored. Runs from before there were rematches name none: their scores
            are the champion's and the reference's.
        winner: index of the contestant that is handed over, the best on validation.
    """

    champion: int
    reference: int | None
    scores: tuple[TestScore, ...]
    contestants: tuple[Contestant, ...] = ()
    winner: int = 0


Event = (
    GenerationStarted
    | CandidatesJoined
    | StageFinished
    | GenerationFinished
    | TrialsDerived
    | ParentsSelected
    | RunConfirmed
)
