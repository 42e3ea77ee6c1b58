"""Tokenized data, ready to be padded into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from coral.errors import TaskError
from coral.ports import Examples, StratifiedTask, Task, TaskData, ViewedTask
from coral.training.batches import Indices, TrainIndex, build_index


class ModelInputs(Protocol):
    """Examples that a model can be called with."""

    @property
    def lengths(self) -> Indices:
        """``(n,)`` tokens of each example."""
        ...

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return what the model is called with for some examples, padded on the right."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedTexts:
    """Texts as token ids, one after another.

    Attributes:
        ids: ``(total tokens,)`` int64.
        starts: ``(n + 1,)``; text i is ``ids[starts[i]:starts[i + 1]]``.
        digest: identity of the texts.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    pad_id: int
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = self.ids.tobytes() + self.starts.tobytes()
        object.__setattr__(self, "digest", hashlib.sha256(content).hexdigest())

    @property
    def lengths(self) -> Indices:
        lengths: Indices = np.diff(self.starts)
        return lengths

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return ids and attention mask of some texts by the names that models have for them."""
        ids, mask = self.pad(rows)
        return {"input_ids": ids, "attention_mask": mask}

    def pad(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """Return ids and attention mask of some texts, each ``(rows, longest)``."""
        lengths = self.lengths[rows]
        ids = np.full((len(rows), int(lengths.max())), self.pad_id, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]] = self.ids[self.starts[row] : self.starts[row + 1]]
        mask = np.arange(ids.shape[1])[None, :] < lengths[:, None]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU is not waited for."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def tokens_at_once(device: torch.device) -> int:
    """Return how many tokens a pass without gradients takes, padding included.

    On a CPU what lies between two products should stay in its caches: 480 texts took 3.8 s with
    512 tokens, 4.3 s with 1 024 and 4.8 s with 4 096. A GPU wants large products.
    """
    return 16384 if device.type == "cuda" else 512


def batched_by_length(lengths: Indices, most_tokens: int) -> list[Indices]:
    """Cut texts, the shortest first, into batches of few padded tokens, one text at least.

    Args:
        lengths: ``(n,)`` tokens of each text.
        most_tokens: of a batch, padding included.

    Returns:
        Positions of texts, batch by batch.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        window = lengths[order[start : start + most_tokens]]
        fits = int((np.arange(1, len(window) + 1) * window <= most_tokens).sum())
        batches.append(order[start : start + max(1, fits)])
        start += len(batches[-1])
    return batches


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...], sequence_len: int
) -> TokenizedTexts:
    """Tokenize texts with special tokens, cut to ``sequence_len``."""
    encoded = tokenizer(list(texts), truncation=True, max_length=sequence_len)["input_ids"]
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    pad_id = tokenizer.pad_token_id
    return TokenizedTexts(
        ids=np.concatenate([np.asarray(ids, dtype=np.int64) for ids in encoded]),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        pad_id=int(pad_id) if pad_id is not None else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSet:
    """All tasks' train examples at one sequence length."""

    texts: ModelInputs
    labels: NDArray[np.int64]
    index: TrainIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTask:
    """A task with its data in memory."""

    task: Task
    data: TaskData

    @property
    def name(self) -> str:
        return self.task.name


def strata_of(loaded: LoadedTask, split: Examples) -> Indices | None:
    """Return the groups of examples whose shares a task wants kept; None if it names none.

    Raises:
        TaskError: they aren't one an example.
    """
    if not isinstance(loaded.task, StratifiedTask):
        return None
    strata = np.asarray(loaded.task.strata(split), dtype=np.int64)
    if strata.shape != (len(split),):
        raise TaskError(
            f"task {loaded.name}: strata() must return one number an example, got an array of"
            f" {strata.shape} for {len(split)}"
        )
    return strata


def build_train_set(
    tasks: Mapping[str, LoadedTask],
    tokenizer: PreTrainedTokenizerBase,
    sequence_len: int,
    seed: int,
) -> TrainSet:
    """Return all tasks' train splits as one indexed set."""
    parts = {
        name: tokenize(tokenizer, loaded.data.train.texts, sequence_len)
        for name, loaded in tasks.items()
    }
    labels = {name: loaded.data.train.labels for name, loaded in tasks.items()}
    offsets = np.cumsum([0, *(len(part.ids) for part in parts.values())])
    starts = [
        part.starts[:-1] + offset for part, offset in zip(parts.values(), offsets, strict=False)
    ]
    texts = TokenizedTexts(
        ids=np.concatenate([part.ids for part in parts.values()]),
        starts=np.concatenate([*starts, offsets[-1:]]),
        pad_id=next(iter(parts.values())).pad_id,
    )
    lengths = {name: part.lengths for name, part in parts.items()}
    alone = next(iter(tasks.values())) if len(tasks) == 1 else None
    strata = strata_of(alone, alone.data.train) if alone else None
    index = build_index(labels, lengths, seed, strata)
    return TrainSet(texts=texts, labels=np.concatenate(list(labels.values())), index=index)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One split of all tasks; a text that several tasks share is held, and encoded, once.

    Attributes:
        texts: the different texts.
        rows: task name to ``(n,)`` positions in ``texts``.
        labels: task name to ``(n,)`` class indices.
    """

    texts: ModelInputs
    rows: Mapping[str, Indices]
    labels: Mapping[str, Indices]


def build_evaluation_set(
    splits: Mapping[str, Examples], tokenizer: PreTrainedTokenizerBase, sequence_len: int
) -> EvaluationSet:
    """Return tasks' examples as one set, texts in order of first appearance."""
    positions: dict[str, int] = {}
    rows = {
        task: np.array([positions.setdefault(t, len(positions)) for t in split.texts], np.int64)
        for task, split in splits.items()
    }
    return EvaluationSet(
        texts=tokenize(tokenizer, tuple(positions), sequence_len),
        rows=rows,
        labels={task: split.labels for task, split in splits.items()},
    )


def evaluation_part(split: Examples, percentage: float) -> Examples:
    """Return a share of a split, nested between shares.

    The choice depends on the texts alone, so that tasks that share texts share the part as well.
    """
    count = max(1, int(np.ceil(len(split) * percentage / 100 - 1e-9)))
    order = sorted(
        range(len(split)), key=lambda i: hashlib.sha256(split.texts[i].encode()).digest()
    )
    chosen = sorted(order[:count])
    return split.take(chosen)


def as_viewed(task: ViewedTask, split: Examples, view: str) -> Examples:
    """Return a split as one of its task's views shows it.

    Raises:
        TaskError: the plugin changed more than what the examples look like.
    """
    seen = task.view(split, view)
    if len(seen) != len(split) or not np.array_equal(seen.labels, split.labels):
        raise TaskError(
            f"the view {view!r} must show the examples in their order with their labels, got"
            f" {len(seen)} of {len(split)} examples"
        )
    return seen


def data_digest(tasks: Mapping[str, LoadedTask]) -> str:
    """Return the identity of every split of every task."""
    digest = hashlib.sha256()
    for name, loaded in tasks.items():
        digest.update(f"{name}\x1e{loaded.data.label_names}\x1e".encode())
        for split in (loaded.data.train, loaded.data.validation, loaded.data.test):
            _update(digest, split)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, split: Examples) -> None:
    digest.update("\x1f".join(split.texts).encode())
    digest.update(np.ascontiguousarray(split.labels, dtype=np.int64).tobytes())
    for name, values in split.inputs.items():
        digest.update(f"{name}\x1e{list(values)!r}".encode())
