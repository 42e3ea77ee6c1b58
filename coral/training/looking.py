"""What will be trained on, as the model sees it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from coral.ports import Examples, TaskData
from coral.training.data import tokenize

SHOWN = 3
"""Examples of each task."""


def look_at(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, sequence_len: int
) -> dict[str, Any]:
    """Return a task's splits, their lengths in tokens, what is cut, and some examples.

    Args:
        sequence_len: tokens that texts are cut to.
    """
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    cut = tokenize(tokenizer, data.train.contents[:SHOWN], sequence_len)
    return {
        "splits": {
            name: _split(split, data, tokenizer, sequence_len) for name, split in splits.items()
        },
        "shared_texts": {
            f"{one} and {two}": len(set(splits[one].contents) & set(splits[two].contents))
            for one, two in combinations(splits, 2)
        },
        "problem": data.problem,
        "notes": list(data.notes),
        "examples": [
            {
                "label": _told(data, i),
                "tokens": int(cut.lengths[i]),
                "text": tokenizer.decode(cut.ids[cut.starts[i] : cut.starts[i + 1]]),
            }
            for i in range(len(cut.lengths))
        ],
    }


def _split(
    split: Examples, data: TaskData, tokenizer: PreTrainedTokenizerBase, sequence_len: int
) -> dict[str, Any]:
    columns = [split.texts, split.pairs] if split.pairs else [split.texts]
    lengths = np.array([len(ids) for ids in tokenizer(*map(list, columns))["input_ids"]])
    return {
        "examples": len(split),
        "labels": dict(zip(data.label_names, _counts(split, data), strict=True)),
        "tokens": {
            "median": int(np.median(lengths)),
            "p95": int(np.quantile(lengths, 0.95)),
            "longest": int(lengths.max()),
        },
        "cut": float((lengths > sequence_len).mean()),
        "tokens_lost": float(np.maximum(lengths - sequence_len, 0).sum() / lengths.sum()),
    }


def _counts(split: Examples, data: TaskData) -> list[float]:
    """Return how many examples have each label; of numbers, the mean of each."""
    match data.problem:
        case "single_label":
            counts = np.bincount(split.labels, minlength=len(data.label_names))
        case "multi_label":
            counts = split.labels.sum(axis=0)
        case "regression":
            counts = split.labels.mean(axis=0)
    return [float(count) for count in counts]


def _told(data: TaskData, row: int) -> str:
    """Return what a train example's label says."""
    label = data.train.labels[row]
    match data.problem:
        case "single_label":
            return data.label_names[int(label)]
        case "multi_label":
            return ", ".join(n for n, on in zip(data.label_names, label, strict=True) if on)
        case "regression":
            return ", ".join(f"{value:g}" for value in label)
