"""What simulated work would take: operations, time, memory."""

from __future__ import annotations

import math

from coral.flops import StepCost, evaluation_cost, step_cost
from coral.plan import TrainingPlan
from coral.ports import Survey
from coral.records import Cost
from coral.sharing import start_of
from coral.simulation.profile import CostProfile, ModelShape
from coral.simulation.survey import hidden_size


def mean_length(mean_tokens: float, sequence_len: int) -> float:
    """Return the mean tokens of texts cut to ``sequence_len``, for exponential lengths."""
    return mean_tokens * -math.expm1(-sequence_len / mean_tokens)


def training_cost(
    cost: CostProfile, shape: ModelShape, survey: Survey, plan: TrainingPlan, steps: int
) -> Cost:
    """Return the cost of some optimizer steps."""
    batch = plan.schedule.batch_size
    length = mean_length(survey.mean_tokens, plan.encoding.sequence_len)
    per_step = _operations(survey, shape, plan)
    teraflops = per_step.teraflops(steps * batch, length)
    return Cost(
        optimizer_steps=steps,
        examples=steps * batch,
        tokens=round(steps * batch * length),
        teraflops=teraflops,
        train_seconds=cost.seconds_per_step * steps + cost.seconds_per_teraflop * teraflops,
    )


def evaluation_seconds(
    cost: CostProfile, shape: ModelShape, survey: Survey, plan: TrainingPlan, examples: int
) -> float:
    """Return how long a forward pass over some examples takes."""
    length = mean_length(survey.mean_tokens, plan.encoding.sequence_len)
    forward = evaluation_cost(
        survey.linear_modules, survey.depth, hidden_size(shape), start_of(plan, survey)
    )
    teraflops = forward.teraflops(examples, length)
    return cost.seconds_per_evaluated_teraflop * teraflops


def peak_memory_bytes(
    cost: CostProfile,
    survey: Survey,
    plan: TrainingPlan,
    parameters: int,
    micro_batch_size: int | None,
) -> int:
    """Return the memory of a worker in training: the base, the adapter, a micro-batch."""
    rows = min(plan.schedule.batch_size, micro_batch_size or plan.schedule.batch_size)
    features = sum(m.out_features for m in survey.linear_modules if m.layer is not None)
    tokens = rows * min(plan.encoding.sequence_len, survey.mean_tokens * 2)
    return round(
        cost.base_memory_bytes
        + cost.bytes_per_parameter * parameters
        + cost.bytes_per_activation * tokens * features
    )


def _operations(survey: Survey, shape: ModelShape, plan: TrainingPlan) -> StepCost:
    return step_cost(
        plan.adapter,
        survey.linear_modules,
        survey.depth,
        hidden_size(shape),
        start_of(plan, survey),
    )
