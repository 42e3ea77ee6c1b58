"""Which examples make which batch: a pure function of plan, data and seed.

Every genome of a run sees the same examples in the same order as far as its plan allows, so that
differences between genomes are not differences of luck. Batches depend on no state: a trial that
resumes at a stage gets the batches it would have had without a pause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        stratum: ``(n,)`` number of the group whose share passes and batches keep as well as
            fractions; None where they are drawn regardless.
    """

    tasks: tuple[str, ...]
    task: Indices
    length: Indices
    difficulty: NDArray[np.float64]
    priority: NDArray[np.float64]
    stratum: Indices | None = None

    def __len__(self) -> int:
        return len(self.task)


def build_index(
    strata: Mapping[str, Indices],
    lengths: Mapping[str, Indices],
    seed: int,
    *,
    keep_strata: bool = False,
) -> TrainIndex:
    """Return the index over tasks in the order of ``strata``.

    Args:
        strata: task name to ``(n,)`` numbers; a data fraction holds equal shares of all of them.
        lengths: task name to ``(n,)`` tokens.
        seed: of the run; fixes the permutation behind the data fractions.
        keep_strata: in passes and batches too.
    """
    tasks = tuple(strata)
    return TrainIndex(
        tasks=tasks,
        task=np.concatenate([np.full(len(strata[name]), i) for i, name in enumerate(tasks)]),
        length=np.concatenate([lengths[name] for name in tasks]),
        difficulty=np.concatenate([_difficulty(lengths[name]) for name in tasks]),
        priority=np.concatenate([_priority(strata[name], seed, name) for name in tasks]),
        stratum=_numbered([strata[name] for name in tasks]) if keep_strata else None,
    )


def _numbered(strata: Sequence[Indices]) -> Indices:
    """Return the strata of one task after another, no number twice."""
    starts = np.cumsum([0, *(int(own.max()) + 1 for own in strata)])
    return np.concatenate([own + start for own, start in zip(strata, starts, strict=False)])


def _difficulty(lengths: Indices) -> NDArray[np.float64]:
    """Return the rank of each length in (0, 1]; ties in order of position."""
    rank = np.empty(len(lengths))
    rank[np.argsort(lengths, kind="stable")] = np.arange(1, len(lengths) + 1) / len(lengths)
    return rank


def _priority(strata: Indices, seed: int, task: str) -> NDArray[np.float64]:
    """Return priorities whose lowest share holds about that share of every stratum."""
    return _interleaved(strata, stream(seed, "fraction", task))


def _interleaved(strata: Indices, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return random places in (0, 1) that spread the members of each stratum evenly."""
    places = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        positions = rng.permutation(len(members)) + rng.random(len(members))
        places[members] = positions / len(members)
    return places


def fraction(index: TrainIndex, task: int, data_percentage: float) -> Indices:
    """Return the rows of a task that a stage may draw from; small fractions lie in large ones."""
    rows = np.flatnonzero(index.task == task)
    count = max(1, int(np.ceil(len(rows) * data_percentage / 100 - 1e-9)))
    return np.sort(rows[np.argsort(index.priority[rows], kind="stable")[:count]])


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
    sorted by length and cut into batches in random order, so that little is padded. Where strata
    are kept, each batch has about the same quantile of the lengths in every one.

    Args:
        seen: examples of each task that inherited weights have drawn in this stage before; their
            passes go on there, so that an heir learns from what its parents have not seen.
    """
    batch_size = plan.schedule.batch_size
    ends = [0, *ladder_steps(stages, len(index), batch_size)]
    start, end, horizon = ends[stage], ends[stage + 1], ends[-1]
    shares = task_shares(plan.tasks, index.tasks)
    before = tuple(seen) or (0,) * len(index.tasks)
    queues = [
        _Queue(index, fraction(index, i, stages[stage].data_percentage), (seed, stage, name), past)
        for i, (name, past) in enumerate(zip(index.tasks, before, strict=True))
    ]
    batches: list[Indices] = []
    drawn = np.zeros(len(queues), dtype=np.int64)
    for first in range(start, end, BUCKET_WINDOW):
        size = (min(first + BUCKET_WINDOW, end) - first) * batch_size
        limit = difficulty_limit(plan.curriculum, first / horizon)
        counts = _allot([shares[name] for name in index.tasks], drawn, size)
        drawn += counts
        rows = np.concatenate(
            [queue.take(int(n), limit) for queue, n in zip(queues, counts, strict=True)]
        )
        by_length = rows[np.argsort(_length_order(index, rows), kind="stable")]
        window = by_length.reshape(-1, batch_size)
        batches.extend(window[stream(seed, "buckets", stage, first).permutation(len(window))])
    return batches


def _length_order(index: TrainIndex, rows: Indices) -> NDArray[np.float64] | Indices:
    """Return by what rows are sorted into batches: lengths, or their quantiles in each stratum."""
    lengths = index.length[rows]
    if index.stratum is None:
        return lengths
    strata = index.stratum[rows]
    quantiles = np.empty(len(rows))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        by_length = members[np.argsort(lengths[members], kind="stable")]
        quantiles[by_length] = (np.arange(len(members)) + 0.5) / len(members)
    return quantiles


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
        self._strata = None if index.stratum is None else index.stratum[rows]
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
        if self._strata is None:
            return rng.permutation(self._rows)
        return self._rows[np.argsort(_interleaved(self._strata, rng))]
