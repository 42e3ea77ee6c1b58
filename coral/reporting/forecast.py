"""What a run will take: the plan of ``coral evolve --dry-run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean

from coral.evolution import EvolutionState, breed
from coral.fidelity import Stage, entrants_by_stage, ladder_share, ladder_steps
from coral.flops import evaluation_cost, step_cost
from coral.plan import TrainingPlan
from coral.ports import Survey
from coral.records import Outcome
from coral.reporting.facts import Facts, mode_facts
from coral.settings import RunSpec
from coral.sharing import bytes_before, entrances, start_of, starts_of

BYTES_PER_PARAMETER = 12
"""A checkpoint holds a float32 weight and AdamW's two moments."""
SQLITE_BYTES_PER_OUTCOME = 10_000


def probe_ladder(train_examples: int, batch_size: int, steps: int) -> tuple[Stage, ...]:
    """Return a one-stage ladder of about ``steps`` optimizer steps, for timing."""
    share = min(1.0, steps * batch_size / train_examples)
    return (
        Stage(
            name="probe",
            epoch_budget=share,
            data_percentage=100,
            survival_rate=1.0,
            evaluation_percentage=10,
        ),
    )


def forecast(spec: RunSpec, survey: Survey, probes: Sequence[Outcome], workers: int) -> Facts:
    """Return stages, steps, time, memory and disk of a run that has not begun.

    Steps and times are means over the genomes of the first generation, each with its own batch size
    and layers.

    Args:
        probes: short jobs of the default recipe, as many as train at the same time.
    """
    population, generations = spec.evolution.population_size, spec.evolution.generations
    entrants = entrants_by_stage(spec.training_stages, population)
    validation = max(task.validation_examples for task in survey.tasks)
    train_rate = min(p.cost.examples / max(p.cost.train_seconds, 1e-9) for p in probes)
    scored = validation * 0.1
    evaluation_rate = min(scored / max(p.cost.evaluation_seconds, 1e-9) for p in probes)
    plans = [
        spec.plan_of(candidate)
        for candidate in breed(EvolutionState(train_examples=survey.train_examples), spec)
    ]
    kept = entrances(plans, survey, spec.prefix_bytes)
    costs, evaluated = _relative_costs(spec.training, plans, kept, survey)
    shared = starts_of(plans, survey, kept)
    steps_of = [_steps_by_stage(spec, survey, plan) for plan in plans]
    rows, seconds = [], 0.0
    for i, stage in enumerate(spec.training_stages):
        steps = mean(own[i] for own in steps_of)
        train_seconds = mean(
            cost * own[i] * plan.schedule.batch_size / train_rate
            for cost, own, plan in zip(costs, steps_of, plans, strict=True)
        )
        scored = validation * stage.evaluation_percentage / 100
        evaluation_seconds = evaluated * scored / evaluation_rate
        rounds = -(-entrants[i] // workers)
        seconds += generations * rounds * (train_seconds + evaluation_seconds)
        rows.append(
            {
                "name": stage.name,
                "genomes": entrants[i] * generations,
                "optimizer_steps_each": round(steps),
                "optimizer_steps": round(steps * entrants[i] * generations),
                "share_of_naive": entrants[i] * steps / (population * mean(map(sum, steps_of))),
                "seconds": generations * rounds * (train_seconds + evaluation_seconds),
            }
        )
    parameters = probes[0].trainable_parameters
    memory = max(probe.peak_memory_bytes for probe in probes)
    return {
        "run": spec.name,
        **mode_facts(spec),
        "base_model": spec.base_model,
        "train_examples": survey.train_examples,
        "tasks": {task.name: task.train_examples for task in survey.tasks},
        "genes": [gene.path for gene in spec.space.genes],
        "stages": rows,
        "optimizer_steps": sum(row["optimizer_steps"] for row in rows),
        "naive_optimizer_steps": round(population * generations * mean(map(sum, steps_of))),
        "share_of_naive": ladder_share(spec.training_stages, population),
        "wall_seconds": seconds,
        "workers": workers,
        "device": survey.device,
        "side_by_side": survey.slots,
        "examples_per_second_side_by_side": {str(n): rate for n, rate in survey.slot_rates},
        "examples_per_second_per_worker": train_rate,
        "peak_memory_bytes_per_worker": memory,
        "peak_memory_bytes": memory * workers,
        "operations_of_default": mean(costs),
        "shared_before_layers": [start.layer for start in shared],
        "disk_bytes": population
        * generations
        * (parameters * BYTES_PER_PARAMETER + SQLITE_BYTES_PER_OUTCOME)
        + sum(bytes_before(start, survey) for start in shared),
    }


def outline(spec: RunSpec, train_examples: Mapping[str, int | None]) -> Facts:
    """Return what can be told of a run whose model or data are out of reach.

    Args:
        train_examples: of each task; None where its data are out of reach.
    """
    known = [count for count in train_examples.values() if count is not None]
    whole = sum(known) if len(known) == len(train_examples) else None
    batch_size = spec.training.schedule.batch_size
    ends = [0, *ladder_steps(spec.training_stages, whole or batch_size, batch_size)]
    population, generations = spec.evolution.population_size, spec.evolution.generations
    entrants = entrants_by_stage(spec.training_stages, population)
    return {
        "run": spec.name,
        **mode_facts(spec),
        "base_model": spec.base_model,
        "train_examples": whole,
        "tasks": dict(train_examples),
        "genes": [gene.path for gene in spec.space.genes],
        "stages": [
            {
                "name": stage.name,
                "genomes": entrants[i] * generations,
                "epochs": stage.epoch_budget,
                "optimizer_steps_each": None if whole is None else ends[i + 1] - ends[i],
            }
            for i, stage in enumerate(spec.training_stages)
        ],
        "share_of_naive": ladder_share(spec.training_stages, population),
    }


def _steps_by_stage(spec: RunSpec, survey: Survey, plan: TrainingPlan) -> list[int]:
    batch_size = plan.schedule.batch_size
    ends = ladder_steps(spec.training_stages, survey.train_examples, batch_size)
    return [end - start for start, end in pairwise([0, *ends])]


def _relative_costs(
    default: TrainingPlan,
    plans: Sequence[TrainingPlan],
    kept: tuple[int, ...] | None,
    survey: Survey,
) -> tuple[list[float], float]:
    """Return what plans compute, as shares of what the default recipe does.

    Returns:
        Of each plan, to train an example; and their mean, to evaluate one.
    """
    length = min(survey.mean_tokens, default.encoding.sequence_len)
    shape = (survey.linear_modules, survey.depth, survey.hidden_size)

    def trained(plan: TrainingPlan) -> float:
        start = start_of(plan, survey, kept)
        return step_cost(plan.adapter, *shape, start).teraflops(1, length)

    def evaluated(plan: TrainingPlan) -> float:
        return evaluation_cost(*shape, start_of(plan, survey, kept)).teraflops(1, length)

    costs = [trained(plan) / trained(default) for plan in plans]
    return costs, mean(map(evaluated, plans)) / evaluated(default)
