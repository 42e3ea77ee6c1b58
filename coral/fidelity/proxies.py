"""Proxies: cheap signals read off a training curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CURVE_PROXIES = ("gradient_norm", "loss_slope")
"""Proxies that are read off the curve itself, and so depend on where training began."""
LAST_STEPS = 10
SMOOTHING_SPAN = 5
SLOPE_STEPS = 20
"""Steps below which a slope is the noise of single batches (see ``docs/pruning.md``)."""


def gradient_norm(norms: Sequence[float]) -> float:
    """Return the median gradient norm before clipping over the last steps; NaN if none."""
    return float(np.median(norms[-LAST_STEPS:])) if len(norms) else math.nan


def loss_slope(losses: Sequence[float]) -> float:
    """Return the trend of the loss: relative to the initial loss, per 100 steps.

    A least-squares line through the loss, smoothed by a centred moving average. Negative is
    learning. NaN with fewer than ``SLOPE_STEPS`` steps.
    """
    if len(losses) < SLOPE_STEPS:
        return math.nan
    loss = np.asarray(losses, dtype=np.float64)
    if not np.all(np.isfinite(loss)):
        return math.nan
    smooth = _moving_average(loss, SMOOTHING_SPAN)
    initial = float(smooth[0])
    if initial <= 0:
        return math.nan
    steps = np.arange(len(smooth), dtype=np.float64)
    centred = steps - steps.mean()
    slope = float(centred @ (smooth - smooth.mean()) / (centred @ centred))
    return 100 * slope / initial


def _moving_average(values: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Average over a centred window that shrinks at the ends."""
    totals = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start = np.maximum(0, index - span // 2)
    stop = np.minimum(len(values), index + span // 2 + 1)
    averaged: NDArray[np.float64] = (totals[stop] - totals[start]) / (stop - start)
    return averaged
