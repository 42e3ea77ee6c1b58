"""What rows say that are read one after another: labels whose names the first rows tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coral.errors import TaskError
from coral.tasks.labels import (
    flag_of,
    in_order,
    members_of,
    number_of,
    only,
    require_classes,
    separator_in,
    value_of,
)

from .rows import Row

Encode = Callable[[Row], Any]
"""From a row to its label, as in ``Examples.labels``."""
Declared = Mapping[str, tuple[str, ...]]


def class_of_rows(
    task: str,
    columns: Sequence[str],
    first: Sequence[Row],
    declared: Declared,
    named: Sequence[str],
) -> tuple[tuple[str, ...], Encode]:
    """Return the names of the classes, and how the class of a row is told.

    Args:
        first: the first rows, whose classes count where they are not known.
        declared: by column, class names of the data; their labels are indices.
        named: classes that the config names.

    Raises:
        TaskError: a label is missing or none of the classes, or there are no two classes.
    """
    column = only(task, columns)
    known = declared.get(column, ())
    seen = {value_of(task, column, values.get(column), place): None for place, values in first}
    if not known and not named:
        require_classes(task, column, seen, len(first))
    found = tuple(map(str, sorted(seen, key=in_order)))
    names = known or tuple(map(str, named)) or found
    keys = map(str, range(len(known))) if known else names
    index = {key: number for number, key in enumerate(keys)}

    def encode(row: Row) -> int:
        place, values = row
        value = value_of(task, column, values.get(column), place)
        if str(value) not in index:
            raise _unknown(task, value, place, index, len(first), bool(known or named))
        return index[str(value)]

    return names, encode


def labels_of_rows(
    task: str,
    columns: Sequence[str],
    first: Sequence[Row],
    declared: Declared,
    named: Sequence[str],
) -> tuple[tuple[str, ...], Encode]:
    """Return the names of labels, and which of them are set in a row; see ``class_of_rows``."""
    if len(columns) > 1:

        def flags(row: Row) -> list[int]:
            place, values = row
            return [flag_of(task, column, values.get(column), place) for column in columns]

        return tuple(columns), flags
    [column] = columns
    separator = separator_in(values.get(column) for _, values in first)
    known = declared.get(column, ())
    seen = {
        member
        for place, values in first
        for member in members_of(task, column, values.get(column), place, separator)
    }
    names = known or tuple(map(str, named)) or tuple(map(str, sorted(seen, key=in_order)))
    if not names:
        raise TaskError(
            f"task {task!r}: column {column!r} must hold labels, the first {len(first):,} rows"
            " hold none.\nName another column with `label:`, or the labels with `labels:`."
        )
    keys = list(map(str, range(len(known)))) if known else list(names)

    def members(row: Row) -> list[int]:
        place, values = row
        found = set(map(str, members_of(task, column, values.get(column), place, separator)))
        if unknown := sorted(found.difference(keys)):
            raise _unknown(task, unknown[0], place, keys, len(first), bool(known or named))
        return [int(key in found) for key in keys]

    return names, members


def numbers_of_rows(
    task: str,
    columns: Sequence[str],
    first: Sequence[Row],
    declared: Declared,
    named: Sequence[str],
) -> tuple[tuple[str, ...], Encode]:
    """Return the columns' names, and how the numbers of a row are read; see ``class_of_rows``.

    Raises:
        TaskError: one isn't a finite number, or all of the first are equal.
    """
    if named:
        raise TaskError(f"task {task!r}: numbers have no `labels:`.\nRemove it.")

    def encode(row: Row) -> list[float]:
        place, values = row
        return [number_of(task, column, values.get(column), place) for column in columns]

    for column, values in zip(columns, zip(*map(encode, first), strict=True), strict=True):
        if min(values) == max(values):
            raise TaskError(
                f"task {task!r}: column {column!r} must hold different numbers, the first"
                f" {len(first):,} rows hold {values[0]:g} alone.\nName another column with"
                " `label:`, or shuffle the data."
            )
    return tuple(columns), encode


def _unknown(
    task: str,
    value: Any,
    place: str,
    known: Sequence[str] | Mapping[str, int],
    rows: int,
    fixed: bool,
) -> TaskError:
    told = "the data's classes" if fixed else f"the classes of the first {rows:,} rows"
    return TaskError(
        f"task {task!r}: {place} has the label {value!r}, which is none of {told}:"
        f" {', '.join(known)}. Name all of them with `labels:`, or correct the row."
    )
