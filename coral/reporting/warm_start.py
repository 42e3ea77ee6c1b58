"""The warm-start gap: children that inherited weights beside those that started cold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.evolution import EvolutionState
from coral.records import Interval, Trial
from coral.rng import stream
from coral.settings import RunSpec

Facts = dict[str, Any]
Array = NDArray[np.float64]
RESAMPLES = 1000
_AT_ONCE = 1_000_000
"""Values drawn at a time, so that a long run needs little memory."""


def warm_start_facts(state: EvolutionState, spec: RunSpec) -> list[Facts]:
    """Return for each stage how children of both kinds ended it, on the primary metric.

    Only those count that were bred and that could have inherited. Which of them start cold is drawn
    by lot, but those that inherit may enter later, and only the promoted reach a later stage.
    """
    children = [
        trial
        for trial in state.trials
        if trial.candidate.lineage.operator in ("mutation", "crossover")
    ]
    if not any(trial.candidate.legacy for trial in children):
        return []
    warm = [trial for trial in children if trial.candidate.legacy]
    cold = [trial for trial in children if not trial.candidate.legacy]
    return [
        _at_stage(_values(warm, stage, spec), _values(cold, stage, spec), stage, spec)
        for stage in range(len(spec.training_stages))
    ]


def _values(trials: list[Trial], stage: int, spec: RunSpec) -> Array:
    metric = spec.objectives[0].metric
    found = (outcome for trial in trials if (outcome := trial.outcome_at(stage)) is not None)
    values = np.array([outcome.metrics.get(metric, np.nan) for outcome in found], dtype=float)
    finite: Array = values[np.isfinite(values)]
    return finite


def _at_stage(warm: Array, cold: Array, stage: int, spec: RunSpec) -> Facts:
    return {
        "stage": spec.training_stages[stage].name,
        "inherited": _side(warm),
        "cold": _side(cold),
        "difference": _difference(warm, cold, stage, spec),
    }


def _side(values: Array) -> Facts:
    return {"trials": len(values), "median": float(np.median(values)) if len(values) else None}


def _difference(warm: Array, cold: Array, stage: int, spec: RunSpec) -> Facts | None:
    """Return the medians' difference; without bounds if there are fewer than two on a side."""
    if not (len(warm) and len(cold)):
        return None
    estimate = float(np.median(warm) - np.median(cold))
    if min(len(warm), len(cold)) < 2:
        return {"estimate": estimate, "low": None, "high": None}
    rng = stream(spec.seed, "warm-start gap", stage)
    draws = _medians(warm, rng) - _medians(cold, rng)
    low, high = np.quantile(draws, [0.025, 0.975])
    return asdict(Interval(estimate=estimate, low=float(low), high=float(high)))


def _medians(values: Array, rng: np.random.Generator) -> Array:
    """Return the medians of resamples (Efron 1979)."""
    rows = max(1, _AT_ONCE // len(values))
    blocks = [
        np.median(
            values[rng.integers(len(values), size=(min(rows, RESAMPLES - i), len(values)))], 1
        )
        for i in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(blocks)
