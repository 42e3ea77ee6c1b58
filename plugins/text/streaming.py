"""Texts with labels that are read while training asks for them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from coral.errors import TaskError
from coral.ports import Examples, ExampleStream
from coral.tasks.columns import text_of
from coral.tasks.splitting import Shares, plain

from .row_labels import Encode
from .rows import Row, RowSource

EXAMPLES_AT_ONCE = 256
SAMPLE = 2000
"""Rows from which columns and labels are told, if no more are needed to make splits; and examples
that stand for all that is trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How a task streams.

    Attributes:
        train_examples: that make an epoch.
        validation_examples, test_examples: at most in these splits.
        buffer: examples among which the next one is drawn.
    """

    train_examples: int
    validation_examples: int
    test_examples: int
    buffer: int

    def check(self, task: str) -> None:
        """Check the numbers that a user gave.

        Raises:
            TaskError: one is not above 0.
        """
        for name, count in (
            ("train_examples", self.train_examples),
            ("validation_examples", self.validation_examples),
            ("test_examples", self.test_examples),
            ("shuffle_buffer", self.buffer),
        ):
            if count < 1:
                raise TaskError(
                    f"task {task!r}: {name} must be at least 1, got {count}.\nCorrect it."
                )

    def looked_at(self, shares: Shares) -> int:
        """Return how many of the first rows are looked at before training."""
        needed = [SAMPLE]
        if shares.validation:
            needed.append(math.ceil(self.validation_examples / shares.validation))
        if shares.test:
            needed.append(math.ceil(self.test_examples / shares.test))
        return max(needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Turns rows into examples.

    Attributes:
        texts: columns of texts.
        group: column whose rows stay in one split.
        whole: dtype of labels.
    """

    task: str
    texts: tuple[str, ...]
    group: str | None
    encode: Encode
    whole: bool

    def contents(self, row: Row) -> tuple[str, ...]:
        """Return the texts of a row."""
        place, values = row
        return tuple(text_of(self.task, name, values.get(name), place) for name in self.texts)

    def key(self, row: Row) -> bytes:
        """Return what rows share that have the same texts, however spaced and capitalized."""
        return _hash(plain("\n".join(self.contents(row))))

    def group_of(self, row: Row) -> bytes:
        """Return what rows share that stay in one split: their group, or their texts."""
        return self.key(row) if self.group is None else _hash(str(row[1].get(self.group)))

    def examples(self, rows: Sequence[Row]) -> Examples:
        """Return rows as examples.

        Raises:
            TaskError: a text isn't one, or a label can't be told.
        """
        contents = [self.contents(row) for row in rows]
        texts, *pairs = zip(*contents, strict=True)
        labels = np.array(
            [self.encode(row) for row in rows], dtype=np.int64 if self.whole else np.float64
        )
        return Examples(texts=texts, labels=labels, pairs=pairs[0] if pairs else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What is not trained on, because it is in a split that was made.

    Attributes:
        rows: by split, among the first rows.
    """

    rows: Mapping[str, Sequence[Row]]
    keys: frozenset[bytes]
    groups: frozenset[bytes]

    def holds(self, row: Row, reader: RowReader) -> bool:
        """Return whether a row belongs to what is held out."""
        if reader.key(row) in self.keys:
            return True
        return reader.group is not None and reader.group_of(row) in self.groups


def hold_out(
    reader: RowReader, first: Sequence[Row], shares: Shares, streaming: Streaming, seed: int
) -> HeldOut:
    """Choose the splits that the data lacks among the first rows, by a hash of their texts.

    Raises:
        TaskError: there are too few rows.
    """
    most = {"test": streaming.test_examples, "validation": streaming.validation_examples}
    wanted = {
        name: min(most[name], round(share * len(first)))
        for name, share in (("test", shares.test), ("validation", shares.validation))
        if share
    }
    groups = [reader.group_of(row) for row in first]
    order = sorted(range(len(first)), key=lambda i: (_hash(f"{seed} {groups[i].hex()}"), i))
    owner: dict[bytes, str] = {}
    chosen: dict[str, list[Row]] = {name: [] for name in wanted}
    taken: dict[bytes, str] = {}
    for i in order:
        if groups[i] not in owner:
            split = next((n for n, count in wanted.items() if len(chosen[n]) < count), None)
            if split is None:
                break
            owner[groups[i]] = split
        split = owner[groups[i]]
        has_room = len(chosen[split]) < wanted[split]
        if has_room and taken.setdefault(reader.key(first[i]), split) == split:
            chosen[split].append(first[i])
    left = sum(group not in owner for group in groups)
    if not left or not all(chosen.values()):
        raise TaskError(
            f"task {reader.task!r}: {len(first)} rows in {len(set(groups))} groups are too few to"
            " make splits of.\nAdd data, or bring splits of your own."
        )
    return HeldOut(rows=chosen, keys=frozenset(taken), groups=frozenset(owner))


def stream_of(
    source: RowSource, reader: RowReader, held_out: HeldOut, streaming: Streaming
) -> ExampleStream:
    """Return what is trained on, without what is held out."""

    def read() -> Iterator[Examples]:
        rows = (row for row in source.read() if not held_out.holds(row, reader))
        while part := list(islice(rows, EXAMPLES_AT_ONCE)):
            yield reader.examples(part)

    told = [source.digest, streaming.train_examples, streaming.buffer, *reader.texts]
    return ExampleStream(
        examples=streaming.train_examples,
        buffer=streaming.buffer,
        digest=hashlib.sha256(json.dumps(told).encode()).hexdigest(),
        read=read,
    )


def first_of(task: str, path: str, source: RowSource, count: int) -> list[Row]:
    """Return the first rows of a split.

    Raises:
        TaskError: there are none, or one can't be read.
    """
    found = list(islice(source.read(), count))
    if not found:
        raise TaskError(f"task {task!r}: {path} is empty.\nFill it.")
    return found


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns that any of some rows has."""
    return list(dict.fromkeys(name for _, values in rows for name in values))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


RowLabels = Callable[
    [str, Sequence[str], Sequence[Row], Mapping[str, tuple[str, ...]], Sequence[str]],
    tuple[tuple[str, ...], Encode],
]
"""``(task, columns, first rows, declared names, named labels) -> (names, how rows are read)``."""
