"""Which examples make which batch: a pure function of plan, data and seed.

Every genome of a run sees the same examples in the same order as far as its plan allows, so that
differences between genomes are not differences of luck. Batches depend on no state: a trial that
resumes at a stage gets the batches it would have had without a pause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coral.fidelity.stages import Stage, ladder_steps
from coral.plan import TrainingPlan, difficulty_limit, task_shares
from coral.rng import stream

BUCKET_WINDOW = 16
"""Batches that are drawn together and bucketed by length."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainIndex:
    """The train set of all tasks, one row an example.

    Attributes:
        tasks: task names.
        task: ``(n,)`` index into ``tasks``.
        length: ``(n,)`` tokens.
        difficulty: ``(n,)`` rank of the length within the task, in (0, 1].
        priority: ``(n,)`` in (0, 1); a data fraction takes the lowest ones of each task.
    """

    tasks: tuple[str, ...]
    task: Indices
    length: Indices
    difficulty: NDArray[np.float64]
    priority: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.task)


def build_index(
    strata: Mapping[str, Indices], lengths: Mapping[str, Indices], seed: int
) -> TrainIndex:
    """Return the index over tasks in the order of ``strata``.

    Args:
        strata: task name to ``(n,)`` numbers; a data fraction holds equal shares of all of them.
        lengths: task name to ``(n,)`` tokens.
        seed: of the run; fixes the permutation behind the data fractions.
    """
    tasks = tuple(strata)
    return TrainIndex(
        tasks=tasks,
        task=np.concatenate([np.full(len(strata[name]), i) for i, name in enumerate(tasks)]),
        length=np.concatenate([lengths[name] for name in tasks]),
        difficulty=np.concatenate([_difficulty(lengths[name]) for name in tasks]),
        priority=np.concatenate([_priority(strata[name], seed, name) for name in tasks]),
    )


def _difficulty(lengths: Indices) -> NDArray[np.float64]:
    """Return the rank of each length in (0, 1]; ties in order of position."""
    rank = np.empty(len(lengths))
    rank[np.argsort(lengths, kind="stable")] = np.arange(1, len(lengths) + 1) / len(lengths)
    return rank


def _priority(strata: Indices, seed: int, task: str) -> NDArray[np.float64]:
    """Return priorities whose lowest share holds about that share of every stratum."""
    rng = stream(seed, "fraction", task)
    priority = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        positions = rng.permutation(len(members)) + rng.random(len(members))
        priority[members] = positions / len(members)
    return priority


def share_of(examples: int, data_percentage: float) -> int:
    """Return how many of a task's examples a stage may draw from."""
    return max(1, int(np.ceil(examples * data_percentage / 100 - 1e-9)))


def fraction(index: TrainIndex, task: int, data_percentage: float) -> Indices:
    """Return the rows of a task that a stage may draw from; small fractions lie in large ones."""
    rows = np.flatnonzero(index.task == task)
    count = share_of(len(rows), data_percentage)
    return np.sort(rows[np.argsort(index.priority[rows], kind="stable")[:count]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some steps whose examples are drawn together.

    Attributes:
        first: step of the full horizon.
        counts: ``(tasks,)`` examples of each task.
        limit: difficulty that the curriculum lets in.
    """

    first: int
    counts: Indices
    limit: float


def stage_windows(
    plan: TrainingPlan, tasks: Sequence[str], examples: int, stages: Sequence[Stage], stage: int
) -> Iterator[Window]:
    """Yield what one stage draws, window by window: tasks by their shares.

    Args:
        examples: of all tasks, in an epoch.
    """
    batch_size = plan.schedule.batch_size
    ends = [0, *ladder_steps(stages, examples, batch_size)]
    start, end, horizon = ends[stage], ends[stage + 1], ends[-1]
    shares = task_shares(plan.tasks, tasks)
    drawn = np.zeros(len(tasks), dtype=np.int64)
    for first in range(start, end, BUCKET_WINDOW):
        size = (min(first + BUCKET_WINDOW, end) - first) * batch_size
        limit = difficulty_limit(plan.curriculum, first / horizon)
        counts = _allot([shares[name] for name in tasks], drawn, size)
        drawn += counts
        yield Window(first=first, counts=counts, limit=limit)


def bucketed(
    rows: Indices, lengths: Indices, batch_size: int, rng: np.random.Generator
) -> list[Indices]:
    """Return a window's rows sorted by length and cut into batches, those in random order.

    Args:
        lengths: ``(rows,)`` tokens of each.
    """
    by_length = rows[np.argsort(lengths, kind="stable")]
    window = by_length.reshape(-1, batch_size)
    return list(window[rng.permutation(len(window))])


def stage_batches(
    plan: TrainingPlan,
    index: TrainIndex,
    stages: Sequence[Stage],
    stage: int,
    seed: int,
    seen: Sequence[int] = (),
) -> list[Indices]:
    """Return the batches of one stage, each ``(batch_size,)`` rows of ``index``.

    Examples are drawn window by window: tasks by their shares, each task in seeded passes over the
    stage's data fraction, the curriculum's limit taken at the window's start. A window is then
    sorted by length and cut into batches in random order, so that little is padded.

    Args:
        seen: examples of each task that inherited weights have drawn in this stage before; their
            passes go on there, so that an heir learns from what its parents have not seen.
    """
    before = tuple(seen) or (0,) * len(index.tasks)
    queues = [
        _Queue(index, fraction(index, i, stages[stage].data_percentage), (seed, stage, name), past)
        for i, (name, past) in enumerate(zip(index.tasks, before, strict=True))
    ]
    batches: list[Indices] = []
    for window in stage_windows(plan, index.tasks, len(index), stages, stage):
        drawn = zip(queues, window.counts, strict=True)
        rows = np.concatenate([queue.take(int(n), window.limit) for queue, n in drawn])
        rng = stream(seed, "buckets", stage, window.first)
        batches += bucketed(rows, index.length[rows], plan.schedule.batch_size, rng)
    return batches


def examples_by_task(index: TrainIndex, batches: Sequence[Indices]) -> tuple[int, ...]:
    """Return how many examples of each task are in some batches."""
    drawn = np.bincount(index.task[np.concatenate(batches)], minlength=len(index.tasks))
    return tuple(drawn.tolist())


def _allot(shares: Sequence[float], drawn: Indices, size: int) -> Indices:
    """Return how many of the next ``size`` examples each task gets: totals keep to the shares."""
    target = np.asarray(shares) * (drawn.sum() + size)
    counts: Indices = np.maximum(0, np.floor(target - drawn + 1e-9)).astype(np.int64)
    while counts.sum() > size:
        counts[int(np.argmax(drawn + counts - target))] -= 1
    while counts.sum() < size:
        counts[int(np.argmax(target - drawn - counts))] += 1
    return counts


class _Queue:
    """One task's examples in seeded passes; what the curriculum holds back stays in line."""

    def __init__(
        self, index: TrainIndex, rows: Indices, names: tuple[int, int, str], past: int
    ) -> None:
        self._difficulty = index.difficulty
        self._rows = rows
        self._easiest = float(index.difficulty[rows].min())
        self._names = names
        self._passes, skipped = divmod(past, len(rows))
        self._line = np.empty(0, dtype=np.int64)
        if skipped:
            self._line = self._next_pass()[skipped:]

    def take(self, count: int, limit: float) -> Indices:
        """Return the next ``count`` rows no harder than ``limit``, or than the easiest there is."""
        limit = max(limit, self._easiest)
        while True:
            allowed = np.flatnonzero(self._difficulty[self._line] <= limit)[:count]
            if len(allowed) == count:
                taken = self._line[allowed]
                self._line = np.delete(self._line, allowed)
                return taken
            self._line = np.concatenate([self._line, self._next_pass()])

    def _next_pass(self) -> Indices:
        seed, stage, task = self._names
        rng = stream(seed, "order", stage, task, self._passes)
        self._passes += 1
        return rng.permutation(self._rows)
