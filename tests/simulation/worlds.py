"""A small simulated world with the profile's defaults, and runs in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from coral.evolution import EvolutionState
from coral.execution import VirtualExecutor
from coral.fidelity import PruneSettings, Stage
from coral.genome import ChoiceGene, FloatGene, IntGene, SearchSpace, SimplexGene
from coral.loop import evolve
from coral.plan import TrainingPlan, digest_of, with_values
from coral.ports import Inherited, Ports, RunStore, TrainingJob
from coral.records import Objective, Outcome
from coral.settings import EvolutionSettings, FaultRates, RunSpec, SimulationSettings, TaskSettings
from coral.simulation import (
    Profile,
    SimulatedTrainer,
    WeightsInAddresses,
    World,
    measure_agreement,
    simulated_survey,
)
from coral.simulation.course import Course
from coral.simulation.job import begin
from coral.simulation.job import course_of as simulated_course
from coral.simulation.profile import (
    FORMAT,
    MetricLink,
    ModelShape,
    ModuleShape,
    Noise,
    StageNoise,
    Surface,
    TaskProfile,
)
from coral.simulation.readings import metrics_of
from coral.spec import targets_of
from tests.scripted_runs import MemoryRunStore, Watcher

AUROC = Objective(metric="auroc")
SIZE = Objective(metric="trainable_parameters", direction="min")

TASK = TaskProfile(
    metrics={
        "auroc": MetricLink(direction="max", chance=0.5, best=1.0),
        "log_loss": MetricLink(direction="min", chance=1.4, best=0.0),
    },
    primary_metric="auroc",
    labels=4,
    train_examples=600,
    validation_examples=300,
    test_examples=1000,
)
MODEL = ModelShape(
    base_model="none",
    depth=4,
    mean_tokens=30.0,
    max_tokens=512,
    modules=tuple(
        ModuleShape(name=f"layer.{{layer}}.{name}", in_features=size, out_features=out)
        for name, size, out in (("query", 64, 64), ("value", 64, 64), ("dense", 64, 256))
    ),
)
PROFILE = Profile(
    format=FORMAT,
    name="test",
    fitted_to="nothing",
    model=MODEL,
    tasks={"origin": TASK, "kind": replace(TASK, probe_error=0.2, adapter_start=0.3)},
)
SILENT = Noise(
    trial_deviation=0.0,
    stages=(StageNoise(horizon_share=1.0, deviation=0.0),),
    loss_deviation=0.0,
    gradient_deviation=0.0,
)
CALM = Surface(collapse_rate=20.0)
QUIET = replace(
    PROFILE,
    noise=SILENT,
    surface=CALM,
    tasks={
        name: replace(
            task,
            metrics={n: replace(link, sampling_deviation=0.0) for n, link in task.metrics.items()},
        )
        for name, task in PROFILE.tasks.items()
    },
)
"""No noise of any kind, and nothing collapses."""

LADDER = (
    Stage(name="short", epoch_budget=0.1, data_percentage=10, survival_rate=0.5),
    Stage(name="middle", epoch_budget=0.4, data_percentage=50, survival_rate=0.5),
    Stage(name="long", epoch_budget=1.0, data_percentage=100, survival_rate=1.0),
)
SPACE = SearchSpace(
    base=TrainingPlan(),
    genes=(
        FloatGene(path="schedule.learning_rate", low=1e-4, high=3e-2, log=True),
        IntGene(path="adapter.rank", low=2, high=32, log=True),
        FloatGene(path="adapter.scaling", low=0.25, high=4.0, log=True),
        ChoiceGene(path="adapter.layers", options=("all", "top-2")),
        ChoiceGene(path="schedule.batch_size", options=(8, 16, 32)),
        SimplexGene(path="tasks.weights", names=("origin", "kind"), floor=0.2),
    ),
)
SPEC = RunSpec(
    name="simulated",
    base_model="none",
    mode="simulate",
    tasks=(TaskSettings(name="origin"), TaskSettings(name="kind")),
    space=SPACE,
    evolution=EvolutionSettings(population_size=6, generations=2),
    training_stages=LADDER,
    prune=PruneSettings(rules=(), audit_fraction=0.3),
    objectives=(AUROC, SIZE),
)
COLD = SPEC.without_inheritance()
"""Every genome is trained from scratch, and nothing else."""

ALL_FAULTS = FaultRates(crash=0.2, out_of_memory=0.2, straggler=0.2, nan=0.2, lost_checkpoint=0.2)


def world_of(spec: RunSpec = SPEC, profile: Profile = PROFILE) -> World:
    """Return the world of a run; its tasks are the profile's."""
    tasks = dict(profile.tasks)
    survey = simulated_survey(
        profile, tasks, targets=targets_of(spec.space), settings=asdict(spec.simulation)
    )
    return World(profile=profile, survey=survey, settings=spec.simulation, seed=spec.seed)


def trainer_of(spec: RunSpec = SPEC, profile: Profile = PROFILE) -> SimulatedTrainer:
    world = world_of(spec, profile)
    if not spec.simulation.agreement:
        return SimulatedTrainer(world)
    names = [stage.name for stage in spec.training_stages]
    wanted = {names.index(name): tau for name, tau in spec.simulation.agreement.items()}
    measured = measure_agreement(world, spec.space, spec.training_stages, spec.seed)
    return SimulatedTrainer(world, measured.pull(wanted))


def ports_of(
    spec: RunSpec = SPEC,
    runs: RunStore | None = None,
    profile: Profile = PROFILE,
    workers: int = 2,
) -> Ports:
    runs = MemoryRunStore() if runs is None else runs
    trainer = trainer_of(spec, profile)
    return Ports(
        executor=VirtualExecutor(trainer, workers),
        runs=runs,
        checkpoints=WeightsInAddresses(),
        observer=Watcher(runs),
        survey=trainer.survey(),
    )


def run(spec: RunSpec = SPEC, profile: Profile = PROFILE, workers: int = 2) -> EvolutionState:
    return evolve(spec, ports_of(spec, profile=profile, workers=workers))


def with_evolution(spec: RunSpec = SPEC, **settings: Any) -> RunSpec:
    return replace(spec, evolution=replace(spec.evolution, **settings))


def with_simulation(spec: RunSpec = SPEC, **settings: Any) -> RunSpec:
    return replace(spec, simulation=SimulationSettings(**settings))


def plan_of(**values: Any) -> TrainingPlan:
    """Return the default plan with some fields changed; ``__`` stands for the dot."""
    return with_values(
        TrainingPlan(), {name.replace("__", "."): value for name, value in values.items()}
    )


def with_warm_start(spec: RunSpec = SPEC, **settings: Any) -> RunSpec:
    return replace(spec, warm_start=replace(spec.warm_start, **settings))


def job_of(
    plan: TrainingPlan,
    stage: int = 0,
    stages: Sequence[Stage] = LADDER,
    *,
    seed: int = 0,
    **fields: Any,
) -> TrainingJob:
    key = digest_of([plan, stage, seed])
    return TrainingJob(
        key=key, trial=1, plan=plan, stage=stage, stages=tuple(stages), seed=seed, **fields
    )


def trained(job: TrainingJob, profile: Profile = PROFILE, **settings: Any) -> Outcome:
    """Return the outcome of one attempt at a job."""
    spec = replace(SPEC, simulation=SimulationSettings(**settings))
    (outcome,) = trainer_of(spec, profile).train([job])
    return outcome


def course_of(
    plan: TrainingPlan,
    stages: Sequence[Stage] = LADDER,
    *,
    seed: int = 0,
    profile: Profile = PROFILE,
    **fields: Any,
) -> Course:
    """Return the course of a job; every seed is a run of its own."""
    world = replace(world_of(profile=profile), seed=seed)
    job = job_of(plan, len(stages) - 1, stages, seed=seed, **fields)
    return simulated_course(world, job, begin(world, job))


def metrics_at(course: Course, step: int, split: str) -> dict[str, float]:
    """Return the metrics of a course's weights after a step, on a whole split."""
    return metrics_of(course.world, course.weights_at(step), split)


def legacy(*addresses: str, weights: Sequence[float] = ()) -> tuple[Inherited, ...]:
    """Return weights to inherit, those of trials 10, 11 and so on."""
    return tuple(
        Inherited(
            trial=10 + i,
            stage=len(LADDER) - 1,
            key=digest_of(address),
            address=address,
            weight=weights[i] if weights else 1.0,
        )
        for i, address in enumerate(addresses)
    )


def climbed(plan: TrainingPlan, profile: Profile = PROFILE, **fields: Any) -> list[Outcome]:
    """Return a plan's outcomes of all stages that it trains, each from the checkpoint before."""
    outcomes: list[Outcome] = []
    for stage in range(fields.get("entry", 0), len(LADDER)):
        before: Mapping[str, Any] = {"resume_from": outcomes[-1].checkpoint} if outcomes else {}
        outcomes.append(trained(job_of(plan, stage, **before, **fields), profile))
    return outcomes


def told(state: EvolutionState) -> str:
    """Return all that a state says; unlike states themselves, texts with NaN in them are equal."""
    return f"{replace(state, digests=frozenset())} {sorted(state.digests)}"
