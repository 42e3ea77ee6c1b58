"""Batches from data that are too large to hold: read, drawn and tokenized as training asks.

As with data in memory, batches are a pure function of plan, data, seed and stage. A stage may draw
from the first examples of a stream, its data fraction of an epoch, so that fractions are nested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from coral.errors import TaskError
from coral.fidelity.stages import Stage
from coral.plan import TrainingPlan
from coral.ports import Examples, ExampleStream
from coral.rng import stream
from coral.training.batches import Window, bucketed, share_of, stage_windows
from coral.training.data import (
    Batch,
    Batches,
    LoadedTask,
    Tokenize,
    TrainSet,
    assemble,
    contents_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedSet:
    """All tasks' train examples at one sequence length, of which some window is held at a time.

    Tasks whose data are in memory are read like the others, from their beginning.
    """

    tasks: Mapping[str, LoadedTask]
    tokenized: Tokenize
    sequence_len: int

    def __len__(self) -> int:
        return sum(loaded.data.train_examples for loaded in self.tasks.values())

    @property
    def passing(self) -> bool:
        return True

    def batches(
        self,
        plan: TrainingPlan,
        stages: Sequence[Stage],
        stage: int,
        seed: int,
        seen: Sequence[int] = (),
    ) -> Batches:
        """Return the batches of one stage, drawn window by window as in ``stage_batches``."""
        windows = partial(stage_windows, plan, tuple(self.tasks), len(self), stages, stage)
        counts = np.sum([window.counts for window in windows()], axis=0)
        notes: list[str] = []

        def draw() -> Iterator[Batch]:
            before = tuple(seen) or (0,) * len(self.tasks)
            share = stages[stage].data_percentage
            passes = {
                name: Passes(loaded, share, (seed, stage, name), past, notes)
                for (name, loaded), past in zip(self.tasks.items(), before, strict=True)
            }
            for window in windows():
                examples = self._drawn(passes, window, seed)
                rng = stream(seed, "buckets", stage, window.first)
                size = plan.schedule.batch_size
                rows = np.arange(len(examples))
                for own in bucketed(rows, examples.index.length, size, rng):
                    yield Batch(examples=examples, rows=own)

        return Batches(
            count=int(counts.sum()) // plan.schedule.batch_size,
            drawn=tuple(counts.tolist()),
            draw=draw,
            notes=notes,
        )

    def _drawn(self, passes: Mapping[str, Passes], window: Window, seed: int) -> TrainSet:
        parts = {
            name: own.take(int(count), window.limit)
            for (name, own), count in zip(passes.items(), window.counts, strict=True)
        }
        texts = replace(self.tokenized(contents_of(parts), self.sequence_len), passing=True)
        targets = {name: loaded.target for name, loaded in self.tasks.items()}
        groups = {name: np.zeros(len(part), dtype=np.int64) for name, part in parts.items()}
        return assemble(parts, targets, texts, groups, seed)


class Passes:
    """One task's examples in seeded passes, each drawn from a buffer that moves along the data.

    What the curriculum holds back stays in the buffer. Where it holds back all of it, the easiest
    goes: each pass gives each example once, and the buffer never grows.
    """

    def __init__(
        self,
        loaded: LoadedTask,
        data_percentage: float,
        names: tuple[int, int, str],
        past: int,
        notes: list[str],
    ) -> None:
        """Args:
        names: seed, stage and task, after which passes are drawn.
        past: examples that were drawn before.
        notes: gets what turns out about the data.
        """
        data = loaded.data
        self._nothing = data.train.take(())
        self._stream = data.stream or ExampleStream(
            examples=len(data.train),
            buffer=len(data.train),
            digest="",
            read=lambda: iter((data.train,)),
        )
        self._count = share_of(data.train_examples, data_percentage)
        self._known_sizes = np.sort([_size(content) for content in data.train.contents])
        self._names = names
        self._notes = notes
        self._buffer: list[Examples] = []
        self._difficulty = np.empty(min(self._stream.buffer, self._count))
        self._coming: Iterator[Examples] = iter(())
        self._rng = stream(names[0], "order", *names[1:])
        self._passes, skipped = divmod(past, self._count)
        for _ in range(skipped):
            self._next(np.inf)

    def take(self, count: int, limit: float) -> Examples:
        """Return the next examples no harder than ``limit``, as far as the buffer holds them."""
        return _joined([self._nothing, *(self._next(limit) for _ in range(count))])

    def _next(self, limit: float) -> Examples:
        if not self._buffer:
            self._begin()
        place = self._place(limit)
        drawn = self._buffer[place]
        following = next(self._coming, None)
        if following is None:
            last = self._buffer.pop()
            if place < len(self._buffer):
                self._put(place, last)
        else:
            self._put(place, following)
        return drawn

    def _begin(self) -> None:
        seed, stage, task = self._names
        self._rng = stream(seed, "order", stage, task, self._passes)
        self._passes += 1
        self._coming = self._pass()
        for place, example in zip(range(len(self._difficulty)), self._coming, strict=False):
            self._buffer.append(example)
            self._put(place, example)

    def _place(self, limit: float) -> int:
        """Return where in the buffer the next example is."""
        count = len(self._buffer)
        if limit >= 1:
            return int(self._rng.integers(count))
        difficulty = self._difficulty[:count]
        allowed = np.flatnonzero(difficulty <= max(limit, difficulty.min()))
        return int(allowed[self._rng.integers(len(allowed))])

    def _put(self, place: int, example: Examples) -> None:
        """Hold an example; its difficulty is the rank of its length among those that are known."""
        self._buffer[place] = example
        [content] = example.contents
        rank = np.searchsorted(self._known_sizes, _size(content), side="right")
        self._difficulty[place] = rank / len(self._known_sizes)

    def _pass(self) -> Iterator[Examples]:
        """Yield the examples of one pass, each by itself."""
        left = self._count
        while left:
            before = left
            for part in self._stream.read():
                for row in range(min(left, len(part))):
                    yield part.take((row,))
                left -= min(left, len(part))
                if not left:
                    return
            if left == before:
                raise TaskError(f"task {self._names[2]!r}: there is nothing left to train on")
            told = (
                f"task {self._names[2]!r}: the data end after {before - left:,} examples; the rest"
                f" of an epoch of {self._stream.examples:,} is taken from the beginning"
            )
            if told not in self._notes:
                self._notes.append(told)


def _size(content: tuple[str, ...]) -> int:
    """Return the length of an example in characters."""
    return sum(map(len, content))


def _joined(parts: Sequence[Examples]) -> Examples:
    return Examples(
        texts=tuple(chain.from_iterable(part.texts for part in parts)),
        labels=np.concatenate([part.labels for part in parts]),
        pairs=tuple(chain.from_iterable(part.pairs for part in parts)),
        inputs={
            name: list(chain.from_iterable(part.inputs[name] for part in parts))
            for name in parts[0].inputs
        },
    )
