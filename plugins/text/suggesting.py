"""Which task somebody's data are for."""

from __future__ import annotations

from typing import Any

from coral.ports import DataContext
from coral.tasks.columns import LABEL_NAMES, NUMBER_NAMES, label_columns, pair_in, text_columns
from coral.tasks.reading import Rows, read

LOOKED_AT = 2000
"""Rows that are looked at to tell what labels are."""
MOST_CLASSES = 20
"""Numbers of more different values than this are to be predicted as numbers."""


def suggest(data: str, context: DataContext) -> tuple[str, dict[str, Any]]:
    """Return the type of task that some data are for, and its options, the columns among them.

    Raises:
        TaskError: it can't be read, or the columns can't be guessed.
    """
    train = read(data, data, None, None, context.cache_dir)["train"]
    columns = list(train)
    pair = pair_in(columns)
    texts = pair or text_columns(data, columns, None, 1)
    usual = LABEL_NAMES if {c.lower() for c in columns} & set(LABEL_NAMES) else NUMBER_NAMES
    [label] = label_columns(data, columns, None, usual, texts)
    kind = "text-pair-classification" if pair else _kind(train, label)
    return kind, {"path": data, "text": list(pair) if pair else texts[0], "label": label}


def _kind(rows: Rows, label: str) -> str:
    values = [value for value in rows[label][:LOOKED_AT] if value is not None]
    if any(isinstance(value, list) for value in values):
        return "multilabel-classification"
    numbers = [value for value in values if isinstance(value, float)]
    if numbers and (len(set(numbers)) > MOST_CLASSES or any(not n.is_integer() for n in numbers)):
        return "regression"
    return "text-classification"
