"""What one training run is: frozen records, one file a part, and the functions that define them."""

from coral.plan.adapter import AdapterPlan, adapted_modules, layer_indices, scaling_of
from coral.plan.curriculum import CURRICULA, CurriculumPlan, difficulty_limit
from coral.plan.encoding import EncodingPlan
from coral.plan.inheritance import InheritancePlan, rewarmup_share
from coral.plan.loss import LOSS_WEIGHTINGS, LossPlan
from coral.plan.rows import TaskRows
from coral.plan.sampling import SAMPLERS, SamplingPlan
from coral.plan.schedule import SchedulePlan, learning_rate_shares, warmup_steps
from coral.plan.tasks import TasksPlan, task_shares
from coral.plan.training_plan import (
    TrainingPlan,
    as_canonical_json,
    digest_of,
    plan_paths,
    strategy_paths,
    value_at,
    with_values,
)

__all__ = [
    "CURRICULA",
    "LOSS_WEIGHTINGS",
    "SAMPLERS",
    "AdapterPlan",
    "CurriculumPlan",
    "EncodingPlan",
    "InheritancePlan",
    "LossPlan",
    "SamplingPlan",
    "SchedulePlan",
    "TaskRows",
    "TasksPlan",
    "TrainingPlan",
    "adapted_modules",
    "as_canonical_json",
    "difficulty_limit",
    "digest_of",
    "layer_indices",
    "learning_rate_shares",
    "plan_paths",
    "rewarmup_share",
    "scaling_of",
    "strategy_paths",
    "task_shares",
    "value_at",
    "warmup_steps",
    "with_values",
]
