"""What is in the columns of labels: a class, labels, or numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.tasks.reading import Rows

MOST_STRATA = 10
"""Parts of equal size that numbers are cut into, to be shared out evenly among splits."""
LEAST_IN_STRATUM = 20
"""Examples, so that even a small split gets some of each part."""
SEPARATORS = ("|", ";", ",")
"""What stands between labels in one text, the first of these that is found anywhere."""

Labels = dict[str, NDArray[Any]]
"""By split."""


def classes_in(
    task: str, parts: Mapping[str, Rows], columns: Sequence[str]
) -> tuple[Labels, tuple[str, ...]]:
    """Return class indices by split, ``(n,)``, and the names of the classes.

    Raises:
        TaskError: a label is missing, there are no two classes, or one is not in the train split.
    """
    column = only(task, columns)
    known = parts["train"].names_of(column)
    values = {
        part: [value_of(task, column, v, f"row {i}") for i, v in enumerate(rows[column])]
        for part, rows in parts.items()
    }
    seen = set(values["train"])
    classes: list[Any] = list(range(len(known))) if known else sorted(seen, key=in_order)
    _require_seen(task, values, seen)
    require_classes(task, column, seen, len(values["train"]))
    index = {value: number for number, value in enumerate(classes)}
    labels = {part: np.array([index[v] for v in own], np.int64) for part, own in values.items()}
    return labels, tuple(known or map(str, classes))


def label_sets_in(
    task: str, parts: Mapping[str, Rows], columns: Sequence[str]
) -> tuple[Labels, tuple[str, ...]]:
    """Return which labels are set by split, ``(n, labels)`` of 0 and 1, and their names.

    One column holds lists of labels, or texts in which they are separated; several columns hold 0
    and 1, or true and false, each for the label that it is called.

    Raises:
        TaskError: a value is neither, or a label of another split is not in the train split.
    """
    if len(columns) > 1:
        labels = {
            part: np.stack([_flags(task, rows, column) for column in columns], axis=1)
            for part, rows in parts.items()
        }
        return labels, tuple(columns)
    [column] = columns
    separator = separator_in(row for rows in parts.values() for row in rows[column])
    sets = {
        part: [
            members_of(task, column, value, f"row {i}", separator)
            for i, value in enumerate(rows[column])
        ]
        for part, rows in parts.items()
    }
    seen = set().union(*sets["train"])
    _require_seen(task, {part: set().union(*own) for part, own in sets.items()}, seen)
    if not seen:
        raise TaskError(
            f"task {task!r}: column {column!r} must hold labels, it holds none in train.\n"
            "Name another column with `label:`."
        )
    names = sorted(seen, key=in_order)
    labels = {
        part: np.array([[name in row for name in names] for row in own], dtype=np.int64)
        for part, own in sets.items()
    }
    declared = parts["train"].names_of(column)
    return labels, tuple(declared[name] if declared else str(name) for name in names)


def numbers_in(
    task: str, parts: Mapping[str, Rows], columns: Sequence[str]
) -> tuple[Labels, tuple[str, ...]]:
    """Return numbers by split, ``(n, columns)``, and the columns' names.

    Raises:
        TaskError: one isn't a finite number, or all of train's are equal.
    """
    labels = {
        part: np.array(
            [[number_of(task, c, v, f"row {i}") for i, v in enumerate(rows[c])] for c in columns],
            np.float64,
        ).T
        for part, rows in parts.items()
    }
    for column, values in zip(columns, labels["train"].T, strict=True):
        if values.min() == values.max():
            raise TaskError(
                f"task {task!r}: column {column!r} must hold different numbers, it holds"
                f" {values[0]:g} alone.\nName another column with `label:`."
            )
    return labels, tuple(columns)


def strata_of(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each example what splits shall hold equal shares of.

    That is its class, the rarest of its labels, or the part of the numbers that its first is in.
    """
    if labels.ndim == 1:
        return labels.astype(np.int64)
    if labels.dtype == np.float64:
        rank = np.argsort(np.argsort(labels[:, 0], kind="stable"), kind="stable")
        parts = max(1, min(MOST_STRATA, len(labels) // LEAST_IN_STRATUM))
        return rank * parts // len(labels)
    by_rarity = np.argsort(labels.sum(axis=0), kind="stable")
    ordered = labels[:, by_rarity]
    found: NDArray[np.int64] = np.where(
        ordered.any(axis=1), by_rarity[ordered.argmax(axis=1)], labels.shape[1]
    )
    return found


def require_classes(task: str, column: str, seen: Collection[Any], rows: int) -> None:
    """Check what a column holds.

    Raises:
        TaskError: these are no classes, or there are not two of them.
    """
    if len(seen) < 2:
        raise TaskError(
            f"task {task!r}: column {column!r} must hold at least two classes, it holds"
            f" {', '.join(map(repr, seen)) or 'none'}.\nName another column with `label:`."
        )
    if len(seen) > max(20, rows // 2):
        raise TaskError(
            f"task {task!r}: column {column!r} holds {len(seen)} different values in"
            f" {rows} rows: these are no classes.\nName another with `label:`, or"
            " use `type: regression` for numbers."
        )


def only(task: str, columns: Sequence[str]) -> str:
    if len(columns) > 1:
        raise TaskError(
            f"task {task!r}: label must name one column, got {', '.join(columns)}.\n"
            "Correct it, or use `type: multilabel-classification`."
        )
    return columns[0]


def _require_seen(task: str, values: Mapping[str, Iterable[Any]], seen: set[Any]) -> None:
    for part, own in values.items():
        if unseen := sorted(set(own) - seen, key=in_order):
            raise TaskError(
                f"task {task!r}: the labels of {part} must be in train too; {unseen[0]!r} isn't.\n"
                "Add examples of it to the train data, or remove it."
            )


def value_of(task: str, column: str, value: Any, place: str) -> Any:
    """Return a label as it is compared: whole numbers are the same however they are written."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise TaskError(
            f"task {task!r}: column {column!r} has no label in {place}.\nFill it in, or"
            " remove the row."
        )
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _flags(task: str, rows: Rows, column: str) -> NDArray[np.int64]:
    flags = [flag_of(task, column, value, f"row {i}") for i, value in enumerate(rows[column])]
    return np.array(flags, dtype=np.int64)


def flag_of(task: str, column: str, value: Any, place: str) -> int:
    """Return whether a label is set, as 0 or 1.

    Raises:
        TaskError: the value doesn't say.
    """
    known = {0: 0, 1: 1, "0": 0, "1": 1, "true": 1, "false": 0}
    key = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(key, str | int | float) or key not in known:  # True and 1.0 equal 1
        raise TaskError(
            f"task {task!r}: column {column!r} must hold 0 or 1, but {place} holds {value!r}.\n"
            "Correct the row, or name other columns with `label:`."
        )
    return known[key]


def separator_in(values: Iterable[Any]) -> str:
    texts = [value for value in values if isinstance(value, str)]
    return next((sign for sign in SEPARATORS if any(sign in t for t in texts)), SEPARATORS[-1])


def members_of(task: str, column: str, value: Any, place: str, separator: str) -> set[Any]:
    if value is None:
        return set()
    if isinstance(value, str):
        return {part.strip() for part in value.split(separator)} - {""}
    if isinstance(value, list):
        return {value_of(task, column, member, place) for member in value}
    return {value_of(task, column, value, place)}


def number_of(task: str, column: str, value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TaskError(
            f"task {task!r}: column {column!r} must hold numbers, but {place} holds {value!r}.\n"
            "Correct the row, or name another column with `label:`."
        )
    return number


def in_order(value: Any) -> tuple[bool, Any]:
    """Sort numbers by size and before all else, which goes by its text."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)
