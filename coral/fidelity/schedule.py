"""When jobs end on a number of workers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def completion_times(seconds: Sequence[float], workers: int) -> list[float]:
    """Return when each job ends if each is taken, in order, by the worker that is free first.

    >>> completion_times([3.0, 1.0, 1.0], workers=2)
    [3.0, 1.0, 2.0]
    """
    free = [0.0] * workers
    ends = []
    for duration in seconds:
        end = heapq.heappop(free) + duration
        heapq.heappush(free, end)
        ends.append(end)
    return ends


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last job ends, the longest ones taken first; 0 if there are none."""
    return max(completion_times(sorted(seconds, reverse=True), workers), default=0.0)
