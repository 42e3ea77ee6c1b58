"""Batches of which single tokens are predicted, and what that costs.

Texts lie in rows, one or several in each. Their positions begin anew, by which the model keeps them
apart: it attends within a text and backwards alone, so the padding behind them changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coral.training.batches import Indices
from coral.training.causal import LanguageHead
from coral.training.texts import TokenizedTexts, on_device

CHUNK = 1024
"""Tokens whose logits are held at a time: a vocabulary of 150 000 takes 0.6 MB for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Some texts in rows.

    Attributes:
        ids, positions: ``(rows, width)``.
        lengths: ``(texts,)`` tokens of each text, on the CPU.
        places: ``(tokens,)``, where in the flattened rows each lies, text by text; on the CPU.
        sources: ``(targets,)``, where the token before each trained one lies.
        targets: ``(targets,)`` trained tokens.
        owners: ``(targets,)``, which of the texts each belongs to.
    """

    ids: Tensor
    positions: Tensor
    lengths: Tensor
    places: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor

    def arranged(self, hidden: Tensor) -> Tensor:
        """Return in rows what is known of tokens by text, ``(texts, longest, size)``."""
        real = torch.arange(hidden.shape[1])[None, :] < self.lengths[:, None]
        rows = hidden.new_zeros(self.ids.numel(), hidden.shape[-1])
        rows[self.places] = hidden[real]
        return rows.view(*self.ids.shape, -1)

    def states(self, hidden: Tensor) -> Tensor:
        """Return the states from which trained tokens are told, ``(targets, size)``."""
        return hidden.flatten(0, 1)[self.sources]


def token_batch(
    texts: TokenizedTexts, rows: Indices, device: torch.device, capacity: int | None = None
) -> TokenBatch:
    """Lay some texts into rows.

    Args:
        texts: with what is trained of them.
        capacity: tokens that share a row, or of the longest text; None for one text a row.
    """
    assert texts.trained is not None
    lengths = texts.lengths[rows]
    row, start = shared_rows(lengths, capacity) if capacity else (np.arange(len(rows)), 0 * lengths)
    width = int((start + lengths).max())
    taken = np.concatenate([np.arange(texts.starts[i], texts.starts[i + 1]) for i in rows])
    owner = np.repeat(np.arange(len(rows)), lengths)
    place = np.concatenate(
        [r * width + s + np.arange(n) for r, s, n in zip(row, start, lengths, strict=True)]
    )
    ids = np.full((int(row.max()) + 1, width), texts.pad_id, dtype=np.int64)
    ids.flat[place] = texts.ids[taken]
    begins = np.zeros(ids.shape, dtype=np.int64)
    begins[row, start] = start
    positions = np.arange(width) - np.maximum.accumulate(begins, axis=1)
    trained = np.flatnonzero(texts.trained[taken])

    def there(values: NDArray[np.int64]) -> Tensor:
        return on_device(torch.from_numpy(values), device)

    return TokenBatch(
        ids=there(ids),
        positions=there(positions),
        lengths=torch.from_numpy(lengths),
        places=torch.from_numpy(place),
        sources=there(place[trained - 1]),
        targets=there(texts.ids[taken][trained]),
        owners=there(owner[trained]),
    )


def shared_rows(lengths: Indices, capacity: int) -> tuple[Indices, Indices]:
    """Return each text's row and its start there: longest first, into the first row with room.

    Source: Johnson 1973 (first fit decreasing).
    """
    room: list[int] = []
    row, start = np.zeros_like(lengths), np.zeros_like(lengths)
    width = max(capacity, int(lengths.max()))
    for text in np.argsort(-lengths, kind="stable"):
        length = int(lengths[text])
        found = next((r for r, left in enumerate(room) if left >= length), len(room))
        if found == len(room):
            room.append(width)
        row[text], start[text] = found, width - room[found]
        room[found] -= length
    return row, start


def summed_loss(
    head: LanguageHead, states: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return the summed negative log-likelihood of tokens.

    Logits of many tokens are made again for the gradients, chunk by chunk.

    Args:
        weights: ``(tokens,)``; None for 1.
    """
    if weights is None:
        weights = torch.ones_like(targets, dtype=torch.float32)
    if len(targets) <= CHUNK:
        return _loss(head, states, targets, weights)
    total = states.new_zeros((), dtype=torch.float32)
    parts = (tensor.split(CHUNK) for tensor in (states, targets, weights))
    for own, wanted, counted in zip(*parts, strict=True):
        total = total + checkpoint(_loss, head, own, wanted, counted, use_reentrant=False)
    return total


def _loss(head: LanguageHead, states: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    losses = nn.functional.cross_entropy(head.logits(states), targets, reduction="none")
    return (losses * weights).sum()


def token_statistics(
    head: LanguageHead, batch: TokenBatch, hidden: Tensor, texts: int
) -> NDArray[np.float64]:
    """Return for each text of a batch: negative log-likelihood, trained tokens, correct ones.

    Args:
        hidden: ``(rows, width, size)``.

    Returns:
        ``(texts, 3)``, sums over the trained tokens of a text.
    """
    found = torch.zeros(texts, 3, dtype=torch.float64, device=hidden.device)
    states = batch.states(hidden)
    parts = (tensor.split(CHUNK) for tensor in (states, batch.targets, batch.owners))
    for own, targets, owners in zip(*parts, strict=True):
        logits = head.logits(own)
        losses = nn.functional.cross_entropy(logits, targets, reduction="none").double()
        correct = (logits.argmax(dim=-1) == targets).double()
        found.index_add_(0, owners, torch.stack([losses, torch.ones_like(losses), correct], dim=1))
    return found.cpu().numpy()
