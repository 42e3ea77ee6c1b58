"""Which examples make which batch: a pure function of plan, data and seed.

Every genome of a run sees the same examples in the same order as far as its plan allows, so that
differences between genomes are not differences of luck. Batches depend on no state: a trial that
resumes at a stage gets the batches it would have had without a pause.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.fidelity.stages import Stage, ladder_steps
from coral.plan import TaskRows, TrainingPlan, task_shares
from coral.ports import Problem, Strategies
from coral.rng import stream
from coral.strategies import OWN, let_in, loss_weights, sampling_weights

BUCKET_WINDOW = 16
"""Batches that are drawn together and bucketed by length."""

STRATA = 10
"""Parts of equal size into which numbers are cut, where a part of them shall be like the whole."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainIndex:
    """The train set of all tasks, one row an example.

    Attributes:
        tasks: task names.
        task: ``(n,)`` index into ``tasks``.
        length: ``(n,)`` tokens.
        difficulty: ``(n,)`` rank within the task of what it says is difficult, else of the length,
            in (0, 1].
        priority: ``(n,)`` in (0, 1); a data fraction takes the lowest ones of each task.
        stratum: ``(n,)`` number of the group whose share passes and batches keep as well as
            fractions, -1 in tasks that have none; None where no task has any.
        examples: each task's own, as strategies may know them.
        usable: ``(n,)``; others are never drawn.
    """

    tasks: tuple[str, ...]
    task: Indices
    length: Indices
    difficulty: NDArray[np.float64]
    priority: NDArray[np.float64]
    examples: tuple[TaskRows, ...]
    usable: NDArray[np.bool_]
    stratum: Indices | None = None

    def __len__(self) -> int:
        return len(self.task)


def build_index(
    strata: Mapping[str, Indices],
    lengths: Mapping[str, Indices],
    seed: int,
    labels: Mapping[str, tuple[str, NDArray[Any]]] | None = None,
    *,
    difficulty: Mapping[str, NDArray[np.float64]] | None = None,
    usable: Mapping[str, NDArray[np.bool_]] | None = None,
    balanced: Collection[str] = (),
) -> TrainIndex:
    """Return the index over tasks in the order of ``strata``.

    Args:
        strata: task name to ``(n,)`` numbers; a data fraction holds equal shares of all of them.
        lengths: task name to ``(n,)`` tokens.
        seed: of the run; fixes the permutation behind the data fractions.
        labels: task name to problem and labels; None where the strata are classes.
        difficulty: of the tasks that say how hard each example is, ``(n,)`` numbers.
        usable: task name to ``(n,)``, of tasks with examples that nothing can be learned from. They
            count as examples all the same, so that budgets don't depend on where texts are cut.
        balanced: tasks whose passes and batches hold equal shares of the strata, too.
    """
    told = labels or {name: ("single_label", strata[name]) for name in strata}
    tasks = tuple(strata)
    hardness: dict[str, NDArray[Any]] = {**lengths, **(difficulty or {})}
    ranks = {name: _rank(hardness[name]) for name in tasks}
    given = usable or {}
    return TrainIndex(
        tasks=tasks,
        task=np.concatenate([np.full(len(strata[name]), i) for i, name in enumerate(tasks)]),
        length=np.concatenate([lengths[name] for name in tasks]),
        difficulty=np.concatenate(list(ranks.values())),
        priority=np.concatenate([_priority(strata[name], seed, name) for name in tasks]),
        examples=tuple(
            TaskRows(
                task=name,
                labels=told[name][1],
                lengths=lengths[name],
                difficulty=ranks[name],
                problem=told[name][0],
            )
            for name in tasks
        ),
        usable=np.concatenate(
            [given.get(name, np.ones(len(strata[name]), dtype=np.bool_)) for name in tasks]
        ),
        stratum=_numbered(strata, balanced) if balanced else None,
    )


def _numbered(strata: Mapping[str, Indices], balanced: Collection[str]) -> Indices:
    """Return the strata of one task after another, no number twice, -1 for what is not balanced."""
    parts, start = [], 0
    for name, own in strata.items():
        parts.append(own + start if name in balanced else np.full(len(own), -1))
        start += int(own.max()) + 1
    return np.concatenate(parts)


def _rank(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rank of each value in (0, 1]; ties in order of position."""
    rank = np.empty(len(values))
    rank[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1) / len(values)
    return rank


def strata(problem: Problem, labels: NDArray[Any], domains: Sequence[str] | None = None) -> Indices:
    """Return a number for each example; parts of the data hold equal shares of all of them.

    Args:
        labels: as in ``ports.Examples``.
        domains: of the examples; those of one class in one domain share a number.
    """
    found = _label_strata(problem, labels)
    if domains is None:
        return found
    domain = np.unique(np.asarray(domains), return_inverse=True)[1]
    pairs = np.stack([found, domain], axis=1)
    together: Indices = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    return together


def _label_strata(problem: Problem, labels: NDArray[Any]) -> Indices:
    if problem == "multi_label":
        _, found = np.unique(labels, axis=0, return_inverse=True)
        return found.reshape(-1).astype(np.int64)
    if problem == "regression":
        order = np.argsort(labels[:, 0], kind="stable")
        rank = np.empty(len(labels), dtype=np.int64)
        rank[order] = np.arange(len(labels))
        return rank * STRATA // len(labels)
    return labels


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


def loss_weights_of(
    plan: TrainingPlan, index: TrainIndex, strategies: Strategies
) -> NDArray[np.float32] | None:
    """Return ``(n,)`` how much each example's loss counts, mean 1 in each task; None for all alike.

    Raises:
        StrategyError: a plugin's weighting does not keep to its rules.
    """
    weights = np.ones(len(index), dtype=np.float32)
    for task, examples in enumerate(index.examples):
        weights[index.task == task] = loss_weights(strategies, plan.loss, examples)
    return None if (weights == 1).all() else weights


def share_of(examples: int, data_percentage: float) -> int:
    """Return how many of a task's examples a stage may draw from."""
    return max(1, int(np.ceil(examples * data_percentage / 100 - 1e-9)))


def fraction(index: TrainIndex, task: int, data_percentage: float) -> Indices:
    """Return the rows of a task that a stage may draw from; small fractions lie in large ones."""
    rows = np.flatnonzero((index.task == task) & index.usable)
    count = share_of(len(rows), data_percentage)
    return np.sort(rows[np.argsort(index.priority[rows], kind="stable")[:count]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some steps whose examples are drawn together.

    Attributes:
        first: step of the full horizon.
        progress: share of the horizon that lies before it.
        counts: ``(tasks,)`` examples of each task.
    """

    first: int
    progress: float
    counts: Indices


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
        counts = _allot([shares[name] for name in tasks], drawn, size)
        drawn += counts
        yield Window(first=first, progress=first / horizon, counts=counts)


def bucketed(
    rows: Indices, lengths: NDArray[Any], batch_size: int, rng: np.random.Generator
) -> list[Indices]:
    """Return a window's rows sorted by length and cut into batches, those in random order.

    Args:
        lengths: ``(rows,)`` tokens of each, or what else they are sorted by.
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
    strategies: Strategies = OWN,
) -> list[Indices]:
    """Return the batches of one stage, each ``(batch_size,)`` rows of ``index``.

    Examples are drawn window by window: tasks by their shares, each task in seeded passes over the
    stage's data fraction as its sampler weighs it, of those that the curriculum lets in at the
    window's start. A window is then sorted by length and cut into batches in random order, so that
    little is padded. Where strata are kept, each batch has about the same quantile of the lengths
    in every one.

    Args:
        seen: examples of each task that inherited weights have drawn in this stage before; their
            passes go on there, so that an heir learns from what its parents have not seen.
        strategies: Coral's own, and those of plugins that the plan may name.

    Raises:
        StrategyError: a plugin's does not keep to the rules of its kind.
    """
    before = tuple(seen) or (0,) * len(index.tasks)
    queues = []
    for i, (name, past) in enumerate(zip(index.tasks, before, strict=True)):
        rows = fraction(index, i, stages[stage].data_percentage)
        own = rows - int(np.argmax(index.task == i))
        weights = sampling_weights(strategies, plan.sampling, index.examples[i].take(own))
        queues.append(_Queue(index, rows, weights, (seed, stage, name), past))
    batches: list[Indices] = []
    for window in stage_windows(plan, index.tasks, len(index), stages, stage):
        allowed = let_in(strategies, plan.curriculum, window.progress, index.difficulty)
        drawn = zip(queues, window.counts, strict=True)
        rows = np.concatenate([queue.take(int(n), allowed) for queue, n in drawn])
        rng = stream(seed, "buckets", stage, window.first)
        batches += bucketed(rows, _length_order(index, rows), plan.schedule.batch_size, rng)
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
    """One task's examples in seeded passes; what the curriculum holds back stays in line.

    A pass has as many examples as the stage may draw from. With equal weights it is a permutation
    of them; else each comes up in proportion to its weight, rounded up or down.
    """

    def __init__(
        self,
        index: TrainIndex,
        rows: Indices,
        weights: NDArray[np.float64],
        names: tuple[int, int, str],
        past: int,
    ) -> None:
        own = index.stratum is not None and index.stratum[rows[0]] >= 0
        self._stratum = index.stratum if own else None
        self._rows = rows
        self._weights = weights
        drawable = rows[weights > 0]
        difficulty = index.difficulty[drawable]
        self._drawable = drawable
        self._easiest = drawable[difficulty == difficulty.min()]
        self._names = names
        self._passes, skipped = divmod(past, len(rows))
        self._line = np.empty(0, dtype=np.int64)
        if skipped:
            self._line = self._next_pass()[skipped:]

    def take(self, count: int, allowed: NDArray[np.bool_]) -> Indices:
        """Return the next ``count`` rows that are allowed, of the easiest where none is.

        Args:
            allowed: ``(examples of all tasks,)``.
        """
        if not allowed[self._drawable].any():
            allowed = np.zeros_like(allowed)
            allowed[self._easiest] = True
        while True:
            found = np.flatnonzero(allowed[self._line])[:count]
            if len(found) == count:
                taken = self._line[found]
                self._line = np.delete(self._line, found)
                return taken
            self._line = np.concatenate([self._line, self._next_pass(allowed)])

    def _next_pass(self, allowed: NDArray[np.bool_] | None = None) -> Indices:
        """Return one more pass; if all that is allowed is too rare to come up, over that alone."""
        seed, stage, task = self._names
        names = ("order", stage, task, self._passes)
        self._passes += 1
        # Equal steps along the weights: each once where they are equal, and little chance else.
        ends = np.cumsum(self._weights) * (len(self._rows) / self._weights.sum())
        ends[-1] = len(self._rows)
        steps = np.floor(ends + stream(seed, "sample", *names).random()).astype(np.int64)
        drawn = np.repeat(self._rows, np.diff(steps, prepend=0))
        if allowed is not None and not allowed[drawn].any():
            drawn = np.resize(self._drawable[allowed[self._drawable]], len(drawn))
        rng = stream(seed, *names)
        if self._stratum is None:
            return rng.permutation(drawn)
        return drawn[np.argsort(_interleaved(self._stratum[drawn], rng))]
