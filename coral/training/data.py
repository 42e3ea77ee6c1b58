"""Tokenized data, ready to be padded into batches."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from coral.errors import TaskError
from coral.ports import Examples, StratifiedTask, Task, TaskData, ViewedTask
from coral.training.batches import Indices, TrainIndex, build_index
from coral.training.targets import Target, strata


class ModelInputs(Protocol):
    """Examples that a model can be called with."""

    @property
    def lengths(self) -> Indices:
        """``(n,)`` tokens of each example."""
        ...

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return what the model is called with for some examples, padded on the right."""
        ...


class Padded(NamedTuple):
    """Texts as long as the longest of them, each ``(rows, longest)``.

    Attributes:
        segments: 0 for tokens of first texts and 1 for those of second ones; None if there are
            none, or if the model does not tell them apart.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor | None = None

    def on(self, device: torch.device) -> Padded:
        """Return them on a device."""
        return self.each(lambda tensor: on_device(tensor, device))

    def each(self, change: Callable[[Tensor], Tensor]) -> Padded:
        """Return them all changed in the same way."""
        segments = None if self.segments is None else change(self.segments)
        return Padded(change(self.ids), change(self.mask), segments)

    def inputs(self) -> dict[str, Tensor]:
        """Return them by the names that models give them."""
        named = {"input_ids": self.ids, "attention_mask": self.mask}
        return named if self.segments is None else {**named, "token_type_ids": self.segments}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedTexts:
    """Texts as token ids, one after another.

    Attributes:
        ids: ``(total tokens,)`` int64.
        starts: ``(n + 1,)``; text i is ``ids[starts[i]:starts[i + 1]]``.
        segments: ``(total tokens,)`` int8, as in ``Padded``.
        digest: identity of the texts.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    pad_id: int
    segments: NDArray[np.int8] | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = self.ids.tobytes() + self.starts.tobytes()
        if self.segments is not None:
            content += self.segments.tobytes()
        object.__setattr__(self, "digest", hashlib.sha256(content).hexdigest())

    @property
    def lengths(self) -> Indices:
        lengths: Indices = np.diff(self.starts)
        return lengths

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return ids and attention mask of some texts by the names that models give them."""
        return self.pad(rows).inputs()

    def pad(self, rows: Indices) -> Padded:
        """Return ids and attention mask of some texts."""
        lengths = self.lengths[rows]
        ids = np.full((len(rows), int(lengths.max())), self.pad_id, dtype=np.int64)
        segments = None if self.segments is None else np.zeros_like(ids)
        for i, row in enumerate(rows):
            own = slice(self.starts[row], self.starts[row + 1])
            ids[i, : lengths[i]] = self.ids[own]
            if segments is not None and self.segments is not None:
                segments[i, : lengths[i]] = self.segments[own]
        mask = np.arange(ids.shape[1])[None, :] < lengths[:, None]
        return Padded(
            torch.from_numpy(ids),
            torch.from_numpy(mask.astype(np.int64)),
            None if segments is None else torch.from_numpy(segments),
        )


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
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | tuple[str, ...]],
    sequence_len: int,
) -> TokenizedTexts:
    """Tokenize texts, or tuples of one or two, with special tokens, cut to ``sequence_len``.

    Of two texts the longer one is cut.
    """
    contents = [(text,) if isinstance(text, str) else text for text in texts]
    ids: list[list[int]] = [[] for _ in contents]
    segments: list[list[int]] = [[] for _ in contents]
    for width in {len(content) for content in contents}:
        members = [i for i, content in enumerate(contents) if len(content) == width]
        columns = zip(*(contents[i] for i in members), strict=True)
        encoded = tokenizer(*map(list, columns), truncation=True, max_length=sequence_len)
        types = encoded.get("token_type_ids") or [[0] * len(own) for own in encoded["input_ids"]]
        for i, own_ids, own_types in zip(members, encoded["input_ids"], types, strict=True):
            ids[i], segments[i] = own_ids, own_types
    pad_id = tokenizer.pad_token_id
    by_token = np.concatenate([np.asarray(own, dtype=np.int8) for own in segments])
    return TokenizedTexts(
        ids=np.concatenate([np.asarray(own, dtype=np.int64) for own in ids]),
        starts=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        pad_id=int(pad_id) if pad_id is not None else 0,
        segments=by_token if by_token.any() else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSet:
    """All tasks' train examples at one sequence length, one task after another.

    Attributes:
        labels: of each task's examples, as ``Target.losses`` takes them.
        starts: ``(tasks + 1,)`` rows where tasks begin.
    """

    texts: ModelInputs
    labels: tuple[Tensor, ...]
    starts: Indices
    index: TrainIndex

    def labels_of(self, task: int, rows: Indices) -> Tensor:
        """Return the labels of some rows, all of them of one task."""
        return self.labels[task][torch.from_numpy(rows - self.starts[task])]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTask:
    """A task with its data in memory."""

    task: Task
    data: TaskData

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def target(self) -> Target:
        """What its head predicts."""
        return Target.of(self.data)


def build_train_set(
    tasks: Mapping[str, LoadedTask],
    tokenizer: PreTrainedTokenizerBase,
    sequence_len: int,
    seed: int,
) -> TrainSet:
    """Return all tasks' train splits as one indexed set."""
    parts = {
        name: tokenize(tokenizer, loaded.data.train.contents, sequence_len)
        for name, loaded in tasks.items()
    }
    offsets = np.cumsum([0, *(len(part.ids) for part in parts.values())])
    starts = [
        part.starts[:-1] + offset for part, offset in zip(parts.values(), offsets, strict=False)
    ]
    segments = [
        np.zeros(len(part.ids), np.int8) if part.segments is None else part.segments
        for part in parts.values()
    ]
    texts = TokenizedTexts(
        ids=np.concatenate([part.ids for part in parts.values()]),
        starts=np.concatenate([*starts, offsets[-1:]]),
        pad_id=next(iter(parts.values())).pad_id,
        segments=None
        if all(part.segments is None for part in parts.values())
        else np.concatenate(segments),
    )
    return train_set_of(tasks, texts, {name: part.lengths for name, part in parts.items()}, seed)


def train_set_of(
    tasks: Mapping[str, LoadedTask], texts: ModelInputs, lengths: Mapping[str, Indices], seed: int
) -> TrainSet:
    """Return all tasks' train splits, one after another in ``texts``, as an indexed set."""
    return TrainSet(
        texts=texts,
        labels=tuple(loaded.target.encode(loaded.data.train.labels) for loaded in tasks.values()),
        starts=np.cumsum([0, *(len(loaded.data.train) for loaded in tasks.values())]),
        index=build_index(
            {name: strata_of(loaded) for name, loaded in tasks.items()},
            lengths,
            seed,
            keep_strata=any(isinstance(t.task, StratifiedTask) for t in tasks.values()),
        ),
    )


def strata_of(loaded: LoadedTask) -> Indices:
    """Return the groups of a task's train examples whose shares parts of them keep.

    Raises:
        TaskError: a task's own aren't one an example, numbered from 0.
    """
    split = loaded.data.train
    if not isinstance(loaded.task, StratifiedTask):
        return strata(loaded.data.problem, split.labels)
    found = np.asarray(loaded.task.strata(split), dtype=np.int64)
    if found.shape != (len(split),) or found.min() < 0:
        raise TaskError(
            f"task {loaded.name}: strata() must return one number >= 0 an example, got an array"
            f" of {found.shape} for {len(split)}"
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One split of all tasks; a text that several tasks share is held, and encoded, once.

    Attributes:
        texts: the different texts.
        rows: task name to ``(n,)`` positions in ``texts``.
        labels: task name to labels as in ``ports.Examples``.
    """

    texts: ModelInputs
    rows: Mapping[str, Indices]
    labels: Mapping[str, NDArray[Any]]


def build_evaluation_set(
    splits: Mapping[str, Examples], tokenizer: PreTrainedTokenizerBase, sequence_len: int
) -> EvaluationSet:
    """Return tasks' examples as one set, texts in order of first appearance."""
    positions: dict[tuple[str, ...], int] = {}
    rows = {
        task: np.array([positions.setdefault(c, len(positions)) for c in split.contents], np.int64)
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
    contents = ["\x1f".join(content).encode() for content in split.contents]
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(contents[i]).digest())
    return split.take(sorted(order[:count]))


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
    digest.update("\x1f".join(itertools.chain.from_iterable(split.contents)).encode())
    digest.update(np.ascontiguousarray(split.labels).tobytes())
    for name, values in split.inputs.items():
        digest.update(f"{name}\x1e{list(values)!r}".encode())
