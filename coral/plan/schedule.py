"""The optimizer's schedule: how fast each part learns, and in what batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coral.plan.checks import (
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    check_bounds,
)

Scheduler = Literal[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
]

POLYNOMIAL_END = 1e-7
INVERSE_SQRT_TIMESCALE = 10_000
"""Defaults of transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePlan:
    """The optimizer (AdamW) and its schedule over the full horizon, the end of the last stage.

    Attributes:
        learning_rate: peak learning rate of the adapter.
        head_lr_multiplier: the task heads' peak learning rate, as a multiple of the adapter's.
            Heads start from nothing and want a higher one.
        scheduler: a schedule of ``transformers.get_scheduler``.
        warmup_ratio: share of the horizon's optimizer steps spent warming up.
        warmup_steps: optimizer steps spent warming up, in place of that share; 0 for the share.
        weight_decay: decoupled weight decay.
        gradient_clip: gradients of adapter and heads are clipped to this total L2 norm.
        batch_size: examples per optimizer step, however they are split into micro-batches.
    """

    learning_rate: Positive = 2e-4
    head_lr_multiplier: Positive = 10.0
    scheduler: Scheduler = "cosine"
    warmup_ratio: Fraction = field(default=0.1, metadata={"active_when": ("warmup_steps", (0,))})
    warmup_steps: NonNegativeInt = field(default=0, metadata={"later": True})
    weight_decay: NonNegative = 0.01
    gradient_clip: Positive = 1.0
    batch_size: PositiveInt = 16

    def __post_init__(self) -> None:
        check_bounds(self)


def warmup_steps(plan: SchedulePlan, horizon_steps: int) -> int:
    """Return the warm-up's optimizer steps for a horizon of ``horizon_steps``, all at most."""
    if plan.warmup_steps:
        return min(plan.warmup_steps, horizon_steps)
    return round(plan.warmup_ratio * horizon_steps)


def learning_rate_shares(
    plan: SchedulePlan, steps: NDArray[np.int64], horizon_steps: int
) -> NDArray[np.float64]:
    """Return the share of the peak learning rate at each of ``steps``, counted from 0.

    Equal to ``transformers.get_scheduler``'s, which training uses.
    """
    warmup = warmup_steps(plan, horizon_steps)
    rising = steps / max(1, warmup)
    progress = (steps - warmup) / max(1, horizon_steps - warmup)
    match plan.scheduler:
        case "linear":
            falling = 1 - progress
        case "cosine":
            falling = 0.5 * (1 + np.cos(math.pi * progress))
        case "constant":
            return np.ones(len(steps))
        case "constant_with_warmup":
            falling = np.ones(len(steps))
        case "polynomial":
            end = POLYNOMIAL_END / plan.learning_rate
            falling = (1 - end) * (1 - progress) + end
        case "inverse_sqrt":
            timescale = warmup or INVERSE_SQRT_TIMESCALE
            falling = 1 / np.sqrt(np.maximum(1, steps + timescale - warmup) / timescale)
    shares: NDArray[np.float64] = np.where(steps < warmup, rising, np.maximum(0.0, falling))
    return shares
