"""What one training run is: frozen records, one file a part, and the functions that define them."""

from coral.plan.adapter import AdapterPlan, adapted_modules, layer_indices, scaling_of
from coral.plan.curriculum import CURRICULA, CurriculumPlan, difficulty_limit
from coral.plan.encoding import EncodingPlan
from coral.plan.inference import (
    SELECTIVE_METRICS,
    InferencePlan,
    confidence,
    decided,
    least_confidence,
    score_selective,
)
from coral.plan.inheritance import InheritancePlan, rewarmup_share
from coral.plan.loss import LOSS_WEIGHTINGS, LossPlan
from coral.plan.rows import TaskRows
from coral.plan.sampling import SAMPLERS, SamplingPlan
from coral.plan.schedule import SchedulePlan, learning_rate_shares, warmup_steps
from coral.plan.tasks import TasksPlan, task_shares
from coral.plan.training_plan import (
    UNWEIGHED,
    TrainingPlan,
    as_canonical_json,
    digest_of,
    is_trained,
    plan_paths,
    strategy_paths,
    training_digest,
    value_at,
    with_values,
)

__all__ = [
    "CURRICULA",
    "LOSS_WEIGHTINGS",
    "SAMPLERS",
    "SELECTIVE_METRICS",
    "UNWEIGHED",
    "AdapterPlan",
    "CurriculumPlan",
    "EncodingPlan",
    "InferencePlan",
    "InheritancePlan",
    "LossPlan",
    "SamplingPlan",
    "SchedulePlan",
    "TaskRows",
    "TasksPlan",
    "TrainingPlan",
    "adapted_modules",
    "as_canonical_json",
    "confidence",
    "decided",
    "difficulty_limit",
    "digest_of",
    "is_trained",
    "layer_indices",
    "learning_rate_shares",
    "least_confidence",
    "plan_paths",
    "rewarmup_share",
    "scaling_of",
    "score_selective",
    "strategy_paths",
    "task_shares",
    "training_digest",
    "value_at",
    "warmup_steps",
    "with_values",
]
