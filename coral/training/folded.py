"""LoRA folded into its frozen weight for the length of a pass.

PEFT multiplies every token by the frozen weight and by both factors, and adds the results. With
many tokens in a batch it takes less to add ``scaling * b @ a`` to the weight first and to multiply
once: thin products and passes over all inputs and outputs are saved. The gradients of the factors
stay thin products. Results differ from PEFT's by rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


def fold(layers: Iterable[Any], adapter: str) -> None:
    """Let plain LoRA on float32 linear maps of the CPU run folded, wherever that takes less.

    In half precision the sum would lose what the update adds, and GPUs were not measured.

    Args:
        layers: PEFT's; those of other kinds stay as they are.
        adapter: PEFT's name of the adapter.
    """
    for layer in layers:
        plain = isinstance(layer, Linear) and not layer.lora_variant and not layer.fan_in_fan_out
        dropping = plain and not isinstance(layer.lora_dropout[adapter], nn.Identity)
        if not plain or dropping:
            continue
        base = layer.get_base_layer()
        exact = isinstance(base, nn.Linear) and base.weight.dtype == torch.float32
        if exact and base.weight.device.type == "cpu":
            layer.forward = partial(_forward, layer, layer.forward, adapter)


def _forward(layer: Any, unfolded: Any, adapter: str, x: Tensor) -> Tensor:
    base = layer.get_base_layer()
    outputs, inputs = base.weight.shape
    tokens = x.numel() // inputs
    if layer.merged or tokens * (inputs + outputs) < inputs * outputs:
        plain: Tensor = unfolded(x)
        return plain
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    scaling = layer.scaling[adapter]
    result: Tensor = _Folded.apply(x, base.weight, base.bias, a, b, scaling)  # type: ignore[no-untyped-call]
    return result


class _Folded(torch.autograd.Function):
    """``x @ (weight + scaling * b @ a).T + bias`` with gradients for ``x``, ``a`` and ``b``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        folded = torch.addmm(weight, b, a, alpha=scaling)
        ctx.save_for_backward(x, folded, a, b)
        ctx.scaling = scaling
        return nn.functional.linear(x, folded, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, folded, a, b = ctx.saved_tensors
        by_token, tokens = gradient.flatten(0, -2), x.flatten(0, -2)
        inner = (tokens @ a.T).mul_(ctx.scaling)
        back = (by_token @ b).mul_(ctx.scaling)
        of_x = (by_token @ folded).view_as(x) if ctx.needs_input_grad[0] else None
        return of_x, None, None, back.T @ tokens, by_token.T @ inner, None
