"""Activations that are computed again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coral.training.recompute import recomputing


class Counted(nn.Module):
    """A layer that counts its passes and draws dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return nn.functional.dropout(self.map(x), 0.5)


def gradients(stack: nn.ModuleList, x: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    for layer in stack:
        x = layer(x)
    return list(torch.autograd.grad(x.sum(), list(stack.parameters())))


def test_layers_pass_twice_and_have_the_same_gradients_under_dropout() -> None:
    stack = nn.ModuleList([Counted() for _ in range(3)])
    x = torch.randn(2, 4)
    expected = gradients(stack, x)
    assert [layer.passes for layer in stack] == [1, 1, 1]
    with recomputing(stack, first=1):
        found = gradients(stack, x)
    assert [layer.passes for layer in stack] == [2, 3, 3]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    gradients(stack, x)
    assert [layer.passes for layer in stack] == [3, 4, 4]
