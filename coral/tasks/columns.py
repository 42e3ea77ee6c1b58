"""Which columns hold texts and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coral.errors import TaskError
from coral.tasks.reading import Rows

TEXT_NAMES = ("text", "sentence", "content", "review", "body", "comment", "message", "document")
PAIR_NAMES = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("query", "passage"),
)
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "topic", "stars")
NUMBER_NAMES = (*LABEL_NAMES, "score", "rating", "value", "similarity")

Named = str | Sequence[str] | None
"""Columns that the config names: one, several, or none, so that they are guessed."""


def text_columns(task: str, columns: Sequence[str], named: Named, count: int) -> tuple[str, ...]:
    """Return the columns of texts: those named, or the only ones with usual names.

    Args:
        count: texts an example.

    Raises:
        TaskError: there is no such column, too many or too few are named, or none can be guessed.
    """
    if named is None and count == 1:
        return (_guessed(task, "text", columns, TEXT_NAMES),)
    if named is None:
        if pair := pair_in(columns):
            return pair
        raise _unknown(task, "text", "can't be guessed", columns)
    names = (named,) if isinstance(named, str) else tuple(named)
    if len(names) != count:
        kinds = {1: "one column", 2: "two columns, such as [premise, hypothesis]"}
        raise TaskError(
            f"task {task!r}: text must name {kinds[count]}, got {', '.join(names) or 'none'}.\n"
            "Correct it, or choose another type of task."
        )
    return tuple(_checked(task, "text", name, columns) for name in names)


def label_columns(
    task: str, columns: Sequence[str], named: Named, usual: Sequence[str], besides: Sequence[str]
) -> tuple[str, ...]:
    """Return the columns of labels: those named, the only one left, or one with a usual name.

    Args:
        usual: names that such a column has, where none is named.
        besides: columns of texts.

    Raises:
        TaskError: there is no such column, or it can't be guessed.
    """
    others = [column for column in columns if column not in besides]
    if named is None and len(others) == 1:
        return (others[0],)
    if named is None:
        return (_guessed(task, "label", others, usual),)
    names = (named,) if isinstance(named, str) else tuple(named)
    if not names:
        raise _unknown(task, "label", "must be named", columns)
    return tuple(_checked(task, "label", name, columns) for name in names)


def one_column(
    task: str, role: str, columns: Sequence[str], named: str | None, usual: Sequence[str]
) -> str:
    """Return the column of another role, named or guessed.

    Raises:
        TaskError: there is no such column, or it can't be guessed.
    """
    if named is None:
        return _guessed(task, role, columns, usual)
    return _checked(task, role, named, columns)


def pair_in(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a pair with usual names; none if there isn't just one such pair."""
    pairs = [pair for pair in PAIR_NAMES if set(pair) <= set(columns)]
    return pairs[0] if len(pairs) == 1 else ()


def _checked(task: str, role: str, name: str, columns: Sequence[str]) -> str:
    if name not in columns:
        raise TaskError(
            f"task {task!r}: the {role} column {name!r} isn't in the data.\n"
            f"Its columns are {', '.join(columns)}."
        )
    return name


def _guessed(task: str, role: str, columns: Sequence[str], usual: Sequence[str]) -> str:
    likely = [name for name in columns if name.lower() in usual]
    if len(likely) == 1:
        return likely[0]
    told = f"could be {' or '.join(likely)}" if likely else "can't be guessed"
    raise _unknown(task, role, told, columns)


def _unknown(task: str, role: str, told: str, columns: Sequence[str]) -> TaskError:
    return TaskError(
        f"task {task!r}: the {role} column {told}.\n"
        f"Name it with `{role}:`, or {role}=COLUMN for coral init; the data's columns are"
        f" {', '.join(columns)}."
    )


def texts_in(task: str, rows: Rows, column: str) -> list[str]:
    """Return a column of texts.

    Raises:
        TaskError: one of them isn't a text.
    """
    return [text_of(task, column, value, f"row {i}") for i, value in enumerate(rows[column])]


def text_of(task: str, column: str, value: Any, place: str) -> str:
    """Return a value of a column of texts.

    Raises:
        TaskError: it isn't a text.
    """
    if not isinstance(value, str):
        raise TaskError(
            f"task {task!r}: column {column!r} must hold texts, but {place} holds {value!r}.\n"
            "Remove the row, or name another column with `text:`."
        )
    return value
