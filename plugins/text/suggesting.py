"""Which task somebody's data are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coral.ports import DataContext
from coral.tasks.columns import LABEL_NAMES, NUMBER_NAMES, label_columns, pair_in, text_columns
from coral.tasks.reading import Rows, read

from .conversing import suggest_answers

LOOKED_AT = 2000
"""Rows that are looked at to tell what labels are."""
MOST_CLASSES = 20
"""Numbers of more different values than this are to be predicted as numbers."""


def suggest(
    data: str, context: DataContext, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the type of task that some data are for, and its options, the columns among them.

    Args:
        options: that are given; the columns ``text`` and ``label`` among them need no guess.

    Raises:
        TaskError: it can't be read, or the columns can't be guessed.
    """
    train = read(data, data, None, None, context.cache_dir)["train"]
    columns = list(train)
    if not {"text", "label"} & set(options) and (answered := suggest_answers(data, columns)):
        return "sft", {**answered, **options}
    named, label = options.get("text"), options.get("label")
    is_pair = bool(pair_in(columns)) if named is None else not isinstance(named, str)
    texts = text_columns(data, columns, named, 2 if is_pair else 1)
    usual = LABEL_NAMES if {c.lower() for c in columns} & set(LABEL_NAMES) else NUMBER_NAMES
    labels = label_columns(data, columns, label, usual, texts)
    kind = "text-pair-classification" if is_pair else _kind(train, labels)
    found = {
        "text": list(texts) if is_pair else texts[0],
        "label": labels[0] if len(labels) == 1 else list(labels),
    }
    return kind, {"path": data, **found, **options}


def _kind(rows: Rows, labels: Sequence[str]) -> str:
    if len(labels) > 1:
        return "multilabel-classification"
    [label] = labels
    values = [value for value in rows[label][:LOOKED_AT] if value is not None]
    if any(isinstance(value, list) for value in values):
        return "multilabel-classification"
    numbers = [value for value in values if isinstance(value, float)]
    if numbers and (len(set(numbers)) > MOST_CLASSES or any(not n.is_integer() for n in numbers)):
        return "regression"
    return "text-classification"
