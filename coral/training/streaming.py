"""Batches from data that are too large to hold: read, drawn and tokenized as training asks.

As with data in memory, batches are a pure function of plan, data, seed and stage. A stage may draw
from the first examples of a stream, its data fraction of an epoch, so that fractions are nested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.fidelity.stages import Stage
from coral.plan import UNWEIGHED, TrainingPlan, value_at
from coral.ports import Examples, ExampleStream, Strategies
from coral.rng import stream
from coral.strategies import OWN, let_in
from coral.training.batches import Window, bucketed, share_of, stage_windows
from coral.training.data import Batch, Batches, LoadedTask, TrainSet, assemble
from coral.training.texts import Tokenize

Allowed = Callable[[NDArray[np.float64]], NDArray[np.bool_]]
"""From difficulties to which of them the curriculum lets in."""


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

    @property
    def beyond(self) -> dict[str, int]:
        return {}

    def loss_weights(self, plan: TrainingPlan, strategies: Strategies) -> None:
        """Return nothing: all count alike.

        Raises:
            TaskError: the plan weighs examples by what only all of them tell.
        """
        for key, usual in UNWEIGHED.items():
            if (value := value_at(plan, key)) != usual:
                raise TaskError(
                    f"{key} must be {usual} where data stream, got {value}: weights follow from all"
                    " labels, which are never held. Remove it, or leave streaming out."
                )

    def batches(
        self,
        plan: TrainingPlan,
        stages: Sequence[Stage],
        stage: int,
        seed: int,
        seen: Sequence[int] = (),
        strategies: Strategies = OWN,
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
                allowed = None
                if plan.curriculum.kind != "none":
                    allowed = partial(let_in, strategies, plan.curriculum, window.progress)
                examples = self._drawn(passes, window, allowed)
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

    def _drawn(
        self, passes: Mapping[str, Passes], window: Window, allowed: Allowed | None
    ) -> TrainSet:
        parts = {
            name: own.take(int(count), allowed)
            for (name, own), count in zip(passes.items(), window.counts, strict=True)
        }
        contents = [content for part in parts.values() for content in part.contents]
        texts = replace(self.tokenized(contents, self.sequence_len), passing=True)
        targets = {name: loaded.target for name, loaded in self.tasks.items()}
        return assemble(parts, targets, texts)


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
            self._next(None)

    def take(self, count: int, allowed: Allowed | None) -> Examples:
        """Return the next examples that are let in, as far as the buffer holds such.

        Args:
            allowed: tells of difficulties which are; None lets in all.
        """
        return _joined([self._nothing, *(self._next(allowed) for _ in range(count))])

    def _next(self, allowed: Allowed | None) -> Examples:
        if not self._buffer:
            self._begin()
        place = self._place(allowed)
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

    def _place(self, allowed: Allowed | None) -> int:
        """Return where in the buffer the next example is."""
        count = len(self._buffer)
        if allowed is None:
            return int(self._rng.integers(count))
        difficulty = self._difficulty[:count]
        found = np.flatnonzero(allowed(difficulty))
        if not len(found):
            found = np.flatnonzero(difficulty == difficulty.min())
        return int(found[self._rng.integers(len(found))])

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
