"""The settings of a run, as validated records. ``coral.spec`` reads them from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from coral.errors import PlanError
from coral.fidelity.prune import PruneSettings
from coral.fidelity.stages import DEFAULT_LADDER, Stage, check_ladder
from coral.genome.genes import ChoiceGene
from coral.genome.space import SearchSpace
from coral.plan import TrainingPlan, strategy_paths, value_at, with_values
from coral.plan.checks import (
    Fraction,
    NonNegativeInt,
    Positive,
    PositiveInt,
    check_bounds,
)
from coral.records import Candidate, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """A task, and the options that its plugin takes.

    Attributes:
        name: of the task in this run.
        type: registered name of what makes it, which is then told the task's name; empty if that
            is the task's name itself.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    type: str = ""

    @property
    def registered(self) -> str:
        """Name under which plugins provide it."""
        return self.type or self.name

    @property
    def arguments(self) -> dict[str, Any]:
        """What its factory is called with."""
        return {**self.options, "name": self.name} if self.type else dict(self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings:
    """How genomes are bred and selected.

    Attributes:
        population_size: trials in a generation, and parents kept between generations.
        generations: generations to breed, the first included.
        selection: ``nsga2`` (Deb et al. 2002), ``nsga3`` (Deb and Jain 2014) or ``tournament``
            on the first objective; plugins may register more.
        tournament_size: contestants for each parent.
        crossover_rate: probability that a child has two parents.
        mutation_rate: probability that a gene mutates.
        mutation_strength: standard deviation of a step, as a share of the gene's range.
        recipes: plans, as dotted fields, that join the known-good ones in generation 0.
    """

    population_size: PositiveInt = 8
    generations: PositiveInt = 3
    selection: str = field(default="nsga2", metadata={"strategy": "selections"})
    tournament_size: PositiveInt = 2
    crossover_rate: Fraction = 0.6
    mutation_rate: Fraction = 0.3
    mutation_strength: Positive = 0.15
    recipes: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.population_size < 2:
            raise PlanError(f"population_size must be >= 2, got {self.population_size}")


FIRST_STAGE = "first"
PARENTS_STAGE = "parent"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartSettings:
    """How children inherit weights.

    Attributes:
        mode: ``none``; ``parent`` inherits from the better parent; ``crossover`` from both parents
            where there are two.
        cold_share: share of each generation's children, chosen at random, that inherit nothing.
            Their difference to the others is the warm-start gap.
        min_similarity: a parent whose genome is less alike is not inherited from: one minus the
            mean distance of the genes, as shares of their ranges (Gower 1971).
        min_retained_energy: a crossover of weights that keeps less of the exact blend's energy is
            dropped, and the child inherits from the better parent alone.
        entry: the stage that a child which inherits trains first: ``first``, ``parent`` for the
            stage that the parent's weights had ended, or a stage's name.
    """

    mode: Literal["none", "parent", "crossover"] = "crossover"
    cold_share: Fraction = 0.2
    min_similarity: Fraction = 0.0
    min_retained_energy: Fraction = 0.8
    entry: str = PARENTS_STAGE

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploitSettings:
    """The step of population-based training (Jaderberg et al. 2017) at the end of a stage.

    Attributes:
        quantile: share of those who go on, the worst, that give their places to mutated copies of
            the best, weights included; 0 is off.
    """

    quantile: Annotated[float, Ge(0), Le(0.5)] = 0.0

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoupSettings:
    """Soups: sums of trained updates, made after each generation without training.

    Attributes:
        candidates: trials of the last stage, the best on validation, that may go in; fewer than
            two is off.
        rank: the soup's adapter is cut to it; None for the largest rank among its members.
        tunings: evaluations that tune the members' weights after they are chosen.
    """

    candidates: NonNegativeInt = 8
    rank: PositiveInt | None = None
    tunings: NonNegativeInt = 2

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeSettings:
    """Squeezing: smaller adapters cut from those that ended the last stage, without training.

    Attributes:
        ranks: those below the trained rank are tried.
        energies: shares of each update's energy to keep, with as little rank as that takes.
        sources: trials of each generation that are squeezed, the best on validation.
        train: squeezed adapters of each generation, the best on validation, that go through the
            last stage once more as further members of the next generation.
    """

    ranks: tuple[PositiveInt, ...] = (8, 4, 2)
    energies: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.9,)
    sources: NonNegativeInt = 1
    train: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmSettings:
    """What is trained at the end to tell the genome's merit from its lineage's and from luck.

    Attributes:
        top_k: the best genomes are trained again from scratch to the full budget; 0 is off.
        seeds: new seeds for each of them.
    """

    top_k: NonNegativeInt = 2
    seeds: PositiveInt = 2

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """When to stop before the last generation; checked between generations.

    Attributes:
        max_optimizer_steps: of the whole search.
        max_epochs: of the full train set, over all trials.
        max_wall_seconds: of this process; makes a run depend on the machine's speed.
    """

    max_optimizer_steps: PositiveInt | None = None
    max_epochs: Positive | None = None
    max_wall_seconds: Positive | None = None

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettings:
    """Where and how jobs run. None of it decides a result, rounding aside, but ``load_in_4bit``.

    Attributes:
        workers: worker processes; ``auto`` is one a GPU, or one a core.
        threads_per_worker: torch threads in each worker.
        device: ``auto``, ``cpu`` or ``cuda``.
        micro_batch_size: most examples in one forward pass; None leaves batches whole.
        precision: of forward passes: ``float32``, ``bfloat16`` (the base's weights are then held
            in it too), or ``auto`` for bfloat16 passes over float32 weights on a GPU and float32
            on a CPU.
        gradient_checkpointing: compute activations again for gradients instead of keeping them.
        load_in_4bit: hold the base's weights in 4 bits (NF4, Dettmers et al. 2023), which takes
            bitsandbytes. It makes another base model: weights, and so results, differ.
        share_prefixes: compute what lies below adapters once, for all genomes.
        prefix_precision: in which that is kept. ``float16`` halves it and rounds it to 11 bits.
        pack: genomes that a worker trains side by side; ``auto`` is what a short trial on the
            device finds best.
        trial_timeout_seconds: longest that one stage of one trial may take.
        task_timeout_seconds: longest that a task plugin may take to load its data.
        retries: new tries after a worker died.
        trust_remote_code: run code that a hub model brings along.
    """

    workers: PositiveInt | Literal["auto"] = "auto"
    threads_per_worker: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch_size: PositiveInt | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    load_in_4bit: bool = False
    share_prefixes: bool = True
    prefix_precision: Literal["float32", "float16"] = "float32"
    pack: PositiveInt | Literal["auto"] = "auto"
    trial_timeout_seconds: Positive | None = 3600.0
    task_timeout_seconds: Positive | None = 3600.0
    retries: NonNegativeInt = 2
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def prefix_feature_bytes(self) -> int:
        """Bytes that one shared activation takes."""
        return {"float32": 4, "float16": 2}[self.prefix_precision]

    @property
    def slots(self) -> int | None:
        """Genomes that a worker trains side by side; None where that is to be timed."""
        return None if self.pack == "auto" else self.pack


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """How often misfortune strikes a simulated job, as probabilities of one attempt.

    Attributes:
        crash: the worker process dies.
        out_of_memory: a whole batch does not fit.
        straggler: the job takes eight times as long.
        nan: the loss is not finite, whatever the genome.
        lost_checkpoint: the checkpoint to resume from, or to inherit, is gone.
    """

    crash: Fraction = 0.0
    out_of_memory: Fraction = 0.0
    straggler: Fraction = 0.0
    nan: Fraction = 0.0
    lost_checkpoint: Fraction = 0.0

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """What ``mode: simulate`` believes.

    Attributes:
        profile: a bundled profile's name, or a file that ``coral calibrate`` wrote.
        agreement: stage name to the Kendall tau that its ranking shall have with the last stage's,
            from near 1 (easy) through 0 to near -1 (misleading). Stages that are not named keep
            the profile's own.
        faults: rates of simulated misfortune.
        memory_bytes: of a worker; a micro-batch that needs more does not fit.
    """

    profile: str = "minilm-docstrings"
    agreement: Mapping[str, Annotated[float, Gt(-1), Lt(1)]] = field(default_factory=dict)
    faults: FaultRates = field(default_factory=FaultRates)
    memory_bytes: Positive | None = None

    def __post_init__(self) -> None:
        check_bounds(self)
        for stage, tau in self.agreement.items():
            if not -1 < tau < 1:
                raise PlanError(f"agreement.{stage} must lie between -1 and 1, got {tau}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Everything that the user decided about a run.

    Attributes:
        name: of the config; names the run's folder.
        mode: ``real`` trains; ``simulate`` asks a response surface instead.
        space: the genes, over the default recipe.
        objectives: the first is the primary one.
        cache: where checkpoints are kept, a folder or a URL such as ``s3://bucket/folder``; empty
            for ``./cache``.
        cache_bytes: most that this run's checkpoints may take; None for no limit.
        prefix_bytes: most that activations below adapters may take, of all runs that share the
            cache; None for no limit.
        output_dir: the run's folder; empty for ``runs/<name>``.
    """

    name: str
    base_model: str
    tasks: tuple[TaskSettings, ...]
    mode: Literal["real", "simulate"] = "real"
    space: SearchSpace = field(default_factory=SearchSpace)
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    warm_start: WarmStartSettings = field(default_factory=WarmStartSettings)
    exploit: ExploitSettings = field(default_factory=ExploitSettings)
    soup: SoupSettings = field(default_factory=SoupSettings)
    squeeze: SqueezeSettings = field(default_factory=SqueezeSettings)
    confirm: ConfirmSettings = field(default_factory=ConfirmSettings)
    training_stages: tuple[Stage, ...] = DEFAULT_LADDER
    prune: PruneSettings = field(default_factory=PruneSettings)
    objectives: tuple[Objective, ...] = (Objective(metric="auroc"),)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    simulation: SimulationSettings = field(default_factory=SimulationSettings)
    cache: str = ""
    cache_bytes: PositiveInt | None = None
    prefix_bytes: PositiveInt | None = 4_000_000_000
    output_dir: str = ""
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_bounds(self)
        check_ladder(self.training_stages)
        if not self.objectives:
            raise PlanError("objectives must hold at least one metric, got none")
        if not self.tasks:
            raise PlanError("tasks must hold at least one task, got none")
        stages = [stage.name for stage in self.training_stages]
        if self.warm_start.entry not in (FIRST_STAGE, PARENTS_STAGE, *stages):
            raise PlanError(
                f"warm_start.entry must be {FIRST_STAGE}, {PARENTS_STAGE} or a stage"
                f" ({', '.join(stages)}), got {self.warm_start.entry}"
            )
        names = stages[:-1]
        for name in self.simulation.agreement:
            if name not in names:
                raise PlanError(
                    f"simulation.agreement must name stages before the last"
                    f" ({', '.join(names) or 'there are none'}), got {name}"
                )

    @property
    def simulated(self) -> bool:
        return self.mode == "simulate"

    @property
    def training(self) -> TrainingPlan:
        """The default recipe: every field of the plan as the config fixes it."""
        return self.space.base

    @property
    def strategies(self) -> tuple[tuple[str, str], ...]:
        """Kind and name of every strategy that is fixed, searched, or in a recipe.

        Objectives are not among them: as far as a spec knows, they are metrics.
        """
        named = [("selections", self.evolution.selection)]
        for path, kind in strategy_paths().items():
            named.append((kind, value_at(self.training, path)))
            named += [
                (kind, str(option))
                for gene in self.space.genes
                if gene.path == path and isinstance(gene, ChoiceGene)
                for option in gene.options
            ]
            named += [(kind, recipe[path]) for recipe in self.evolution.recipes if path in recipe]
        return tuple(dict.fromkeys(named))

    @property
    def last_stage(self) -> int:
        return len(self.training_stages) - 1

    def plan_of(self, candidate: Candidate) -> TrainingPlan:
        """Return the plan a candidate trains; the reference is the default recipe as it stands.

        Derived weights have their source's plan at the rank that they were cut to.
        """
        if candidate.lineage.operator == "reference":
            return self.training
        plan = self.space.express(candidate.genome)
        rank = candidate.derivation.rank if candidate.derivation else None
        return with_values(plan, {"adapter.rank": rank}) if rank else plan

    def without_inheritance(self) -> RunSpec:
        """Return the spec that trains every genome from scratch, for its own sake."""
        return replace(
            self,
            warm_start=WarmStartSettings(mode="none"),
            exploit=ExploitSettings(),
            soup=SoupSettings(candidates=0),
            squeeze=SqueezeSettings(sources=0),
            confirm=ConfirmSettings(top_k=0),
        )

    def recording(self, trials: int) -> RunSpec:
        """Return the spec of a record: one generation of ``trials``, all through every stage.

        The reference and the recipes come first, the rest is a Sobol design.
        """
        return replace(
            self.without_inheritance(),
            name=f"{self.name}-record",
            evolution=replace(self.evolution, population_size=trials, generations=1),
            training_stages=tuple(
                replace(stage, survival_rate=1.0) for stage in self.training_stages
            ),
            prune=PruneSettings(rules=(), audit_fraction=0.0),
            budget=BudgetSettings(),
        )
