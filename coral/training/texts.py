"""Texts as token ids, padded into what models are called with."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from coral.training.batches import (
    Indices,
)
from coral.training.conversations import Rendered, encode

Content = str | tuple[str, ...]
"""What an example says: a text, or one or two of them."""


WRITTEN = ("messages", "prompt", "answer")
"""Inputs of tasks whose answers are written."""


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
        trained: ``(total tokens,)``, those that a language model learns to write; None for none.
        passing: they come by and go; what is computed of them is not kept for others.
        digest: identity of the texts.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    pad_id: int
    segments: NDArray[np.int8] | None = None
    trained: NDArray[np.bool_] | None = None
    passing: bool = False
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(np.ascontiguousarray(self.ids).data)
        digest.update(np.ascontiguousarray(self.starts).data)
        if self.segments is not None:
            digest.update(np.ascontiguousarray(self.segments).data)
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def lengths(self) -> Indices:
        lengths: Indices = np.diff(self.starts)
        return lengths

    @property
    def trained_tokens(self) -> Indices:
        """Tokens of each text that are trained, ``(n,)``."""
        if self.trained is None:
            return np.zeros(len(self.starts) - 1, dtype=np.int64)
        sums = np.concatenate([[0], np.cumsum(self.trained)])
        counts: Indices = sums[self.starts[1:]] - sums[self.starts[:-1]]
        return counts

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


def as_tokenized(texts: ModelInputs) -> TokenizedTexts:
    """Return inputs where only texts can be: who makes other inputs has a head and trains alone."""
    assert isinstance(texts, TokenizedTexts)
    return texts


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
    texts: Sequence[Content],
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
    by_token = np.array([*itertools.chain.from_iterable(segments)], dtype=np.int8)
    return TokenizedTexts(
        ids=np.array([*itertools.chain.from_iterable(ids)], dtype=np.int64),
        starts=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        pad_id=_pad_id(tokenizer),
        segments=by_token if by_token.any() else None,
    )


def tokenize_answers(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Rendered], sequence_len: int
) -> TokenizedTexts:
    """Tokenize what a language model learns to write, cut to ``sequence_len``."""
    ids, trained = encode(tokenizer, examples, sequence_len)
    return TokenizedTexts(
        ids=np.concatenate(ids),
        starts=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        pad_id=_pad_id(tokenizer),
        trained=np.concatenate(trained),
    )


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else 0


Tokenize = Callable[[Sequence[Content], int], TokenizedTexts]
"""Tokenizes texts, cut to a length; see ``tokenize``."""


def one_after_another(parts: Sequence[TokenizedTexts]) -> TokenizedTexts:
    """Return texts of several tasks as one; those of a single task stay where they are."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
    starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    segments = [
        np.zeros(len(part.ids), np.int8) if part.segments is None else part.segments
        for part in parts
    ]
    trained = [
        np.zeros(len(part.ids), dtype=np.bool_) if part.trained is None else part.trained
        for part in parts
    ]
    return TokenizedTexts(
        ids=np.concatenate([part.ids for part in parts]),
        starts=np.concatenate([*starts, offsets[-1:]]),
        pad_id=parts[0].pad_id,
        segments=None if all(part.segments is None for part in parts) else np.concatenate(segments),
        trained=None if all(part.trained is None for part in parts) else np.concatenate(trained),
    )
