"""The optimizer's schedule: how fast each part learns, and in what batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coral.plan.checks import Fraction, NonNegative, Positive, PositiveInt, check_bounds

Scheduler = Literal[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePlan:
    """The optimizer (AdamW) and its schedule over the full horizon, the end of the last stage.

    Attributes:
        learning_rate: peak learning rate of the adapter.
        head_lr_multiplier: the task heads' peak learning rate, as a multiple of the adapter's.
            Heads start from nothing and want a higher one.
        scheduler: a schedule of ``transformers.get_scheduler``.
        warmup_ratio: share of the horizon's optimizer steps spent warming up.
        weight_decay: decoupled weight decay.
        gradient_clip: gradients of adapter and heads are clipped to this total L2 norm.
        batch_size: examples per optimizer step, however they are split into micro-batches.
    """

    learning_rate: Positive = 2e-4
    head_lr_multiplier: Positive = 10.0
    scheduler: Scheduler = "cosine"
    warmup_ratio: Fraction = 0.1
    weight_decay: NonNegative = 0.01
    gradient_clip: Positive = 1.0
    batch_size: PositiveInt = 16

    def __post_init__(self) -> None:
        check_bounds(self)


def warmup_steps(warmup_ratio: float, horizon_steps: int) -> int:
    """Return the warm-up's optimizer steps for a horizon of ``horizon_steps``."""
    return round(warmup_ratio * horizon_steps)
