"""What will be trained on, as the model sees it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from coral.ports import Examples, TaskData
from coral.training.conversations import Rendered, Renderer
from coral.training.texts import tokenize, tokenize_answers

SHOWN = 3
"""Examples of each task."""


def look_at(
    name: str, data: TaskData, tokenizer: PreTrainedTokenizerBase, sequence_len: int
) -> dict[str, Any]:
    """Return a task's splits, their lengths in tokens, what is cut, and some examples.

    Args:
        name: of the task.
        sequence_len: tokens that texts are cut to.

    Raises:
        ModelError, TaskError: answers can't be told apart, see ``Renderer``.
    """
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if data.causal is not None:
        renderer = Renderer(name, tokenizer, data.causal)
        rendered = {part: renderer.render(split) for part, split in splits.items()}
        shown = rendered["train"][:SHOWN]
        return {
            "splits": {
                part: _written_split(examples, tokenizer, sequence_len)
                for part, examples in rendered.items()
            },
            "examples": [_written(example, tokenizer, sequence_len) for example in shown],
            **_whole(data, splits),
        }
    cut = tokenize(tokenizer, data.train.contents[:SHOWN], sequence_len)
    return {
        "splits": {
            part: _split(split, data, tokenizer, sequence_len) for part, split in splits.items()
        },
        "examples": [
            {
                "label": _told(data, i),
                "tokens": int(cut.lengths[i]),
                "text": tokenizer.decode(cut.ids[cut.starts[i] : cut.starts[i + 1]]),
            }
            for i in range(len(cut.lengths))
        ],
        **_whole(data, splits),
    }


def _whole(data: TaskData, splits: Mapping[str, Examples]) -> dict[str, Any]:
    """Return what is said of a task's data as a whole."""
    return {
        "repeated_texts": len(data.train) - len(set(data.train.contents)),
        "shared_texts": {
            f"{one} and {two}": len(set(splits[one].contents) & set(splits[two].contents))
            for one, two in combinations(splits, 2)
        },
        "problem": data.problem,
        "notes": list(data.notes),
    }


def _written_split(
    examples: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase, sequence_len: int
) -> dict[str, Any]:
    """Return how long a split's examples are, and how much of them is trained."""
    whole = tokenize_answers(tokenizer, examples, sys.maxsize)
    trained = tokenize_answers(tokenizer, examples, sequence_len).trained_tokens
    return {
        "examples": len(examples),
        "trained_tokens": int(trained.sum()),
        "without_answer": int((trained == 0).sum()),
        **_lengths(whole.lengths, sequence_len),
    }


def _written(
    example: Rendered, tokenizer: PreTrainedTokenizerBase, sequence_len: int
) -> dict[str, Any]:
    """Return an example as the model sees it, in parts that are trained and parts that are not."""
    texts = tokenize_answers(tokenizer, [example], sequence_len)
    assert texts.trained is not None
    runs = np.flatnonzero(np.diff(texts.trained)) + 1
    parts = zip(np.split(texts.ids, runs), np.split(texts.trained, runs), strict=True)
    return {
        "tokens": len(texts.ids),
        "parts": [
            {"text": tokenizer.decode(ids), "trained": bool(trained[0])} for ids, trained in parts
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
        **_lengths(lengths, sequence_len),
    }


def _lengths(lengths: NDArray[np.int64], sequence_len: int) -> dict[str, Any]:
    return {
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
        case "causal_lm":
            return []
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
        case "causal_lm":
            return ""
        case "single_label":
            return data.label_names[int(label)]
        case "multi_label":
            return ", ".join(n for n, on in zip(data.label_names, label, strict=True) if on)
        case "regression":
            return ", ".join(f"{value:g}" for value in label)
