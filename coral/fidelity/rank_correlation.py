"""Rank correlation: how far two rankings of the same trials agree."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Sequence


def kendall_tau(one: Sequence[float], two: Sequence[float]) -> float:
    """Return Kendall's tau-b: 1 for the same order, -1 for the opposite one.

    The pairs in order minus those out of order, over the geometric mean of the pairs that either
    side ranks at all. Tied pairs count for neither.

    Args:
        one, two: values of the same things, in the same order.

    Returns:
        NaN where it is not defined: a side has no two different values, or holds a NaN.

    Raises:
        ValueError: the lengths differ.

    Source: Kendall 1945 (tau-b); Knight 1966 (counting). ``scipy.stats.kendalltau`` gives the same
    and takes longer to load than a simulated evolution.
    """
    pairs = sorted(zip(one, two, strict=True))
    if any(math.isnan(x) or math.isnan(y) for x, y in pairs):
        return math.nan
    total = _pairs_among(len(pairs))
    ties_in_one, ties_in_two = _ties(x for x, _ in pairs), _ties(y for _, y in pairs)
    if total in (ties_in_one, ties_in_two):
        return math.nan
    ranked_in_both = total - ties_in_one - ties_in_two + _ties(pairs)
    balance = ranked_in_both - 2 * _out_of_order(y for _, y in pairs)
    tau = balance / math.sqrt(total - ties_in_one) / math.sqrt(total - ties_in_two)
    return min(1.0, max(-1.0, tau))


def _pairs_among(count: int) -> int:
    return count * (count - 1) // 2


def _ties(values: Iterable[object]) -> int:
    """Return how many pairs of ``values`` are equal."""
    return sum(_pairs_among(count) for count in Counter(values).values())


def _out_of_order(values: Iterable[float]) -> int:
    """Return how many pairs of ``values`` are in falling order."""
    earlier: list[float] = []
    count = 0
    for value in values:
        count += len(earlier) - bisect_right(earlier, value)
        insort(earlier, value)
    return count
