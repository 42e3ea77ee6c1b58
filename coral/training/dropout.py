"""Dropout whose draws do not depend on who else is trained in the same pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SeededDropout(nn.Module):
    """Dropout that draws as ``dropout_mask`` does, from torch's own generator.

    torch's dropout draws in another order on GPUs, where it is fused with the product.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * dropout_mask(x.shape, self.share, like=x)


def dropout_mask(
    shape: Sequence[int], share: float, *, like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Return zeros for the ``share`` that is dropped, else what makes up for it.

    Args:
        like: gives dtype and device.
        generator: torch's own if None.
    """
    kept = torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    return kept.bernoulli_(1 - share, generator=generator).div_(1 - share)
