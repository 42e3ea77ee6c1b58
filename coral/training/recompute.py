"""Activations that are computed again for gradients, instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputing(stack: nn.ModuleList, first: int = 0) -> Iterator[None]:
    """Let layers of a stack keep nothing but their inputs in passes of the scope.

    It costs a second forward pass through them. Dropout draws the same again.

    Args:
        first: layer from which on; those below are left as they are.

    Source: Chen et al. 2016 (sublinear memory cost).
    """
    layers = list(stack)[first:]
    try:
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
