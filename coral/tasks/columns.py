"""Which columns hold texts and labels, and what is in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.tasks.reading import Rows

TEXT_NAMES = ("text", "sentence", "content", "review", "body", "comment", "message", "document")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "topic", "stars")


def text_and_label(
    task: str, columns: Sequence[str], text: str | None = None, label: str | None = None
) -> tuple[str, str]:
    """Return the columns of texts and labels: those named, or the only ones with usual names.

    Raises:
        TaskError: there is no such column, or it can't be guessed.
    """
    texts = chosen_column(task, "text", text, columns, TEXT_NAMES)
    return texts, chosen_column(task, "label", label, columns, LABEL_NAMES, besides=texts)


def chosen_column(
    task: str,
    role: str,
    named: str | None,
    columns: Sequence[str],
    usual: Sequence[str],
    besides: str | None = None,
) -> str:
    """Return the column of a role."""
    if named is not None:
        if named in columns:
            return named
        raise TaskError(
            f"task {task!r}: the {role} column {named!r} isn't in the data.\n"
            f"Its columns are {', '.join(columns)}."
        )
    likely = [name for name in columns if name.lower() in usual and name != besides]
    if len(likely) == 1:
        return likely[0]
    told = f"could be {' or '.join(likely)}" if likely else "can't be guessed"
    raise TaskError(
        f"task {task!r}: the {role} column {told}.\n"
        f"Name it with `{role}:`; the data's columns are {', '.join(columns)}."
    )


def texts_in(task: str, rows: Rows, column: str) -> list[str]:
    """Return a column of texts.

    Raises:
        TaskError: one of them isn't a text.
    """
    values = rows[column]
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise TaskError(
                f"task {task!r}: column {column!r} must hold texts, but row {number} holds"
                f" {value!r}.\nRemove the row, or name another column with `text:`."
            )
    return list(values)


def labels_in(
    task: str, parts: Mapping[str, Rows], column: str
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Return class indices by split, and the names of the classes.

    Raises:
        TaskError: a label is missing, there are no two classes, or one is not in the train split.
    """
    known = parts["train"].names_of(column)
    values = {
        part: [_class(task, column, v, i) for i, v in enumerate(rows[column])]
        for part, rows in parts.items()
    }
    seen = set(values["train"])
    classes: list[Any] = list(range(len(known))) if known else sorted(seen, key=_order)
    for part, own in values.items():
        if unseen := sorted(set(own) - seen, key=_order):
            raise TaskError(
                f"task {task!r}: the labels of {part} must be in train too; {unseen[0]!r} isn't.\n"
                "Add examples of it to the train data, or remove it."
            )
    if len(seen) < 2:
        raise TaskError(
            f"task {task!r}: column {column!r} must hold at least two classes, it holds"
            f" {', '.join(map(repr, seen)) or 'none'}.\nName another column with `label:`."
        )
    if len(seen) > max(20, len(values["train"]) // 2):
        raise TaskError(
            f"task {task!r}: column {column!r} holds {len(seen)} different values in"
            f" {len(values['train'])} rows: these are no classes.\nName another with `label:`."
        )
    index = {value: number for number, value in enumerate(classes)}
    labels = {part: np.array([index[v] for v in own], np.int64) for part, own in values.items()}
    return labels, tuple(known or map(str, classes))


def _class(task: str, column: str, value: Any, number: int) -> Any:
    """Return a label as it is compared: whole numbers are the same however they are written."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise TaskError(
            f"task {task!r}: column {column!r} has no label in row {number}.\nFill it in, or"
            " remove the row."
        )
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _order(value: Any) -> tuple[bool, Any]:
    """Sort numbers by size and before all else, which goes by its text."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)
