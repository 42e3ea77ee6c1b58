"""Prune rules: declarative thresholds on metrics at a stage."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from coral.errors import PlanError
from coral.plan.checks import Fraction, check_bounds
from coral.records import Outcome

_RELATIVE = re.compile(r"(\d+(?:\.\d+)?)\s*x\s*median")


def _parse_threshold(threshold: float | str | None) -> tuple[float, bool]:
    """Return the number and whether it is relative to the median."""
    if isinstance(threshold, str):
        match = _RELATIVE.fullmatch(threshold.strip())
        if match is None:
            raise PlanError(f"a threshold is a number or like '5x median', got {threshold!r}")
        return float(match.group(1)), True
    if threshold is None or not math.isfinite(threshold):
        raise PlanError(f"a threshold must be finite, got {threshold}")
    return float(threshold), False


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRule:
    """Condemn a trial whose metric lies beyond a threshold at the end of a stage.

    Attributes:
        metric: ``gradient_norm``, ``loss_slope``, any task metric, or what may be an objective.
        above, below: exactly one of them: a number, or ``5x median`` for a multiple of the
            median over the trials that ended the stage. A value that is not finite is condemned
            by a relative threshold.
        stage: name of the stage; every stage if empty.
    """

    metric: str
    above: float | str | None = None
    below: float | str | None = None
    stage: str = ""

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise PlanError(
                f"a rule needs exactly one of above and below, got above={self.above},"
                f" below={self.below}"
            )
        _parse_threshold(self.above if self.above is not None else self.below)

    @property
    def is_relative(self) -> bool:
        """Whether the threshold is a multiple of the median."""
        return isinstance(self.above if self.above is not None else self.below, str)

    def __str__(self) -> str:
        side, threshold = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"{self.metric} {side} {threshold}" + (f" at {self.stage}" if self.stage else "")


DEFAULT_RULES = (
    PruneRule(metric="gradient_norm", above="5x median", stage="S0_sanity"),
    PruneRule(metric="loss_slope", above=0.0, stage="S0_sanity"),
    PruneRule(metric="auroc", below=0.55, stage="S1_shakeout"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSettings:
    """How trials are condemned, and how that is checked.

    Attributes:
        rules: checked at the end of every stage but the last.
        audit_fraction: share of the condemned that train on all the same, to measure false kills.
    """

    rules: tuple[PruneRule, ...] = DEFAULT_RULES
    audit_fraction: Fraction = 0.0

    def __post_init__(self) -> None:
        check_bounds(self)


def threshold_of(rule: PruneRule, peers: Sequence[Outcome]) -> float:
    """Return the number that ``rule`` compares with; NaN if it is relative to nothing finite.

    Args:
        peers: outcomes of the stage, for relative thresholds.
    """
    threshold, relative = _parse_threshold(rule.above if rule.above is not None else rule.below)
    if not relative:
        return threshold
    values = [peer.readings.get(rule.metric, math.nan) for peer in peers]
    finite = [value for value in values if math.isfinite(value)]
    return threshold * median(finite) if finite else math.nan


def breach(rule: PruneRule, outcome: Outcome, threshold: float) -> str | None:
    """Return in words how ``outcome`` breaks ``rule``; None if it does not.

    Args:
        threshold: the rule's, at the outcome's stage; see ``threshold_of``.
    """
    value = outcome.readings.get(rule.metric)
    if value is None:
        return None
    if rule.is_relative and not math.isfinite(value):
        return f"{rule.metric} is {value}"
    if math.isnan(value):
        return None
    if rule.above is not None and value > threshold:
        return f"{rule.metric} {value:.3g} is above {threshold:.3g}"
    if rule.below is not None and value < threshold:
        return f"{rule.metric} {value:.3g} is below {threshold:.3g}"
    return None
