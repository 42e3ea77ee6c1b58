"""The settings of a run, as validated records. ``coral.spec`` reads them from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from coral.errors import PlanError
from coral.fidelity.prune import PruneSettings
from coral.fidelity.stages import DEFAULT_LADDER, Stage, check_ladder
from coral.genome.space import SearchSpace
from coral.plan import TrainingPlan
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
    """A task by its registered name, and the options that its plugin takes."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings:
    """How genomes are bred and selected.

    Attributes:
        population_size: trials in a generation, and parents kept between generations.
        generations: generations to breed, the first included.
        selection: ``nsga2`` (Deb et al. 2002), ``nsga3`` (Deb and Jain 2014) or ``tournament``
            on the first objective.
        tournament_size: contestants for each parent.
        crossover_rate: probability that a child has two parents.
        mutation_rate: probability that a gene mutates.
        mutation_strength: standard deviation of a step, as a share of the gene's range.
        recipes: plans, as dotted fields, that join the known-good ones in generation 0.
    """

    population_size: PositiveInt = 8
    generations: PositiveInt = 3
    selection: Literal["nsga2", "nsga3", "tournament"] = "nsga2"
    tournament_size: PositiveInt = 2
    crossover_rate: Fraction = 0.6
    mutation_rate: Fraction = 0.3
    mutation_strength: Positive = 0.15
    recipes: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.population_size < 2:
            raise PlanError(f"population_size must be >= 2, got {self.population_size}")


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
    """Where and how jobs run. None of it decides a result, rounding aside.

    Attributes:
        workers: worker processes; ``auto`` is one a GPU, or one a core.
        threads_per_worker: torch threads in each worker.
        device: ``auto``, ``cpu`` or ``cuda``.
        micro_batch_size: most examples in one forward pass; None leaves batches whole.
        trial_timeout_seconds: longest that one stage of one trial may take.
        retries: new tries after a worker died.
        trust_remote_code: run code that a hub model brings along.
    """

    workers: PositiveInt | Literal["auto"] = "auto"
    threads_per_worker: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch_size: PositiveInt | None = None
    trial_timeout_seconds: Positive | None = 3600.0
    retries: NonNegativeInt = 2
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Everything that the user decided about a run.

    Attributes:
        name: of the config; names the run's folder.
        space: the genes, over the default recipe.
        objectives: the first is the primary one.
        output_dir: the run's folder; empty for ``runs/<name>``.
    """

    name: str
    base_model: str
    tasks: tuple[TaskSettings, ...]
    space: SearchSpace = field(default_factory=SearchSpace)
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    training_stages: tuple[Stage, ...] = DEFAULT_LADDER
    prune: PruneSettings = field(default_factory=PruneSettings)
    objectives: tuple[Objective, ...] = (Objective(metric="auroc"),)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    output_dir: str = ""
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_bounds(self)
        check_ladder(self.training_stages)
        if not self.objectives:
            raise PlanError("objectives must hold at least one metric, got none")
        if not self.tasks:
            raise PlanError("tasks must hold at least one task, got none")

    @property
    def training(self) -> TrainingPlan:
        """The default recipe: every field of the plan as the config fixes it."""
        return self.space.base

    @property
    def last_stage(self) -> int:
        return len(self.training_stages) - 1

    def plan_of(self, candidate: Candidate) -> TrainingPlan:
        """Return the plan a candidate trains; the reference is the default recipe as it stands."""
        if candidate.lineage.operator == "reference":
            return self.training
        return self.space.express(candidate.genome)
