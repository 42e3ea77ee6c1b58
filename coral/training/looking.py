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
    cut = tokenize(tokenizer, data.train.texts[:SHOWN], sequence_len)
    return {
        "splits": {
            name: _split(split, data.label_names, tokenizer, sequence_len)
            for name, split in splits.items()
        },
        "shared_texts": {
            f"{one} and {two}": len(set(splits[one].texts) & set(splits[two].texts))
            for one, two in combinations(splits, 2)
        },
        "examples": [
            {
                "label": data.label_names[data.train.labels[i]],
                "tokens": int(cut.lengths[i]),
                "text": tokenizer.decode(cut.ids[cut.starts[i] : cut.starts[i + 1]]),
            }
            for i in range(len(cut.lengths))
        ],
    }


def _split(
    split: Examples,
    label_names: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    sequence_len: int,
) -> dict[str, Any]:
    lengths = np.array([len(ids) for ids in tokenizer(list(split.texts))["input_ids"]])
    counts = np.bincount(split.labels, minlength=len(label_names))
    return {
        "examples": len(split),
        "classes": dict(zip(label_names, counts.tolist(), strict=True)),
        "tokens": {
            "median": int(np.median(lengths)),
            "p95": int(np.quantile(lengths, 0.95)),
            "longest": int(lengths.max()),
        },
        "cut": float((lengths > sequence_len).mean()),
        "tokens_lost": float(np.maximum(lengths - sequence_len, 0).sum() / lengths.sum()),
    }
