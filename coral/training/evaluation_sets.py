"""Splits to be evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from coral.ports import CausalSettings, Examples
from coral.training.batches import (
    Indices,
)
from coral.training.conversations import Rendered
from coral.training.data import LoadedTask
from coral.training.texts import (
    ModelInputs,
    Tokenize,
    TokenizedTexts,
    tokenize,
    tokenize_answers,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One split of a task whose answers are written.

    Attributes:
        rendered: its examples, in their order.
        texts: the same as tokens.
    """

    rendered: tuple[Rendered, ...]
    texts: TokenizedTexts
    settings: CausalSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One split of all tasks; a text that several tasks share is held, and encoded, once.

    Attributes:
        texts: the different texts of tasks with heads.
        rows: name of a task with a head to ``(n,)`` positions in ``texts``.
        labels: task name to labels as in ``ports.Examples``.
        answers: by task whose answers are written.
    """

    texts: ModelInputs
    rows: Mapping[str, Indices]
    labels: Mapping[str, NDArray[Any]]
    answers: Mapping[str, Answers] = field(default_factory=dict)

    @property
    def lengths(self) -> Indices:
        """Tokens of every text."""
        parts = [self.texts.lengths, *(own.texts.lengths for own in self.answers.values())]
        return np.concatenate(parts)


def build_evaluation_set(
    splits: Mapping[str, Examples],
    tokenizer: PreTrainedTokenizerBase,
    sequence_len: int,
    tasks: Mapping[str, LoadedTask] | None = None,
    plain: Tokenize | None = None,
) -> EvaluationSet:
    """Return tasks' examples as one set, texts in order of first appearance.

    Args:
        tasks: those of ``splits``; None if all of them have heads.
        plain: tokenizes texts without answers; None for ``tokenize``.
    """
    positions: dict[tuple[str, ...], int] = {}
    rows, answers = {}, {}
    for name, split in splits.items():
        loaded = (tasks or {}).get(name)
        if loaded is not None and loaded.data.causal is not None:
            rendered = loaded.rendered(split, tokenizer)
            texts = tokenize_answers(tokenizer, rendered, sequence_len)
            settings = loaded.data.causal
            answers[name] = Answers(rendered=tuple(rendered), texts=texts, settings=settings)
        else:
            places = [positions.setdefault(own, len(positions)) for own in split.contents]
            rows[name] = np.array(places, dtype=np.int64)
    return EvaluationSet(
        texts=(plain or partial(tokenize, tokenizer))(tuple(positions), sequence_len),
        rows=rows,
        labels={task: split.labels for task, split in splits.items()},
        answers=answers,
    )


def evaluation_part(split: Examples, percentage: float) -> Examples:
    """Return a share of a split, nested between shares.

    The choice depends on the texts alone, so that tasks that share texts share the part as well.
    """
    count = max(1, int(np.ceil(len(split) * percentage / 100 - 1e-9)))
    contents = ["\x1f".join(content).encode() for content in split.contents]
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(contents[i]).digest())
    return split.take(sorted(order[:count]))
