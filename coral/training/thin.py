"""LoRA's thin products, in the order that a CPU multiplies them fastest.

A product with few columns takes MKL up to five times as long as its transpose with few rows: the
gradient of a 1536 x 8 factor over 480 tokens 1.36 ms instead of 0.24 ms. PEFT's forward pass and
autograd make such products for both factors, and pass over all outputs and inputs once more to add
them. Here they are laid flat and added in place. Results differ from PEFT's by rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


def lay_flat(layers: Iterable[Any], adapter: str) -> None:
    """Let plain LoRA on float32 linear maps of the CPU multiply flat.

    GPUs were not measured, and in half precision sums would be rounded elsewhere than in PEFT.

    Args:
        layers: PEFT's; those of other kinds stay as they are.
        adapter: PEFT's name of the adapter.
    """
    for layer in layers:
        if not isinstance(layer, Linear) or layer.lora_variant:
            continue
        weight = layer.get_base_layer().weight
        if weight.dtype == torch.float32 and weight.device.type == "cpu":
            vars(layer)["forward"] = partial(_forward, layer, adapter)


def _forward(layer: Any, adapter: str, x: Tensor) -> Tensor:
    base: nn.Module = layer.get_base_layer()
    if layer.merged:
        plain: Tensor = base(x)
        return plain
    weight: Any = base.weight
    dropped = layer.lora_dropout[adapter](x)
    result: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
        x,
        None if dropped is x else dropped,
        base,
        weight.T if layer.fan_in_fan_out else weight,
        layer.lora_A[adapter].weight,
        layer.lora_B[adapter].weight,
        layer.scaling[adapter],
    )
    return result


class _Adapted(torch.autograd.Function):
    """``base(x) + scaling * dropped @ a.T @ b.T``, with gradients for all but the frozen ``base``.

    ``weight`` is that of ``base``, ``(out, in)``; ``dropped`` is ``x`` after dropout, None for
    ``x`` itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        base: nn.Module,
        weight: Tensor,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        adapted = x if dropped is None else dropped
        inner = (a @ adapted.flatten(0, -2).T).mul_(scaling)
        output: Tensor = base(x).contiguous()
        output.flatten(0, -2).addmm_(inner.T, b.T)
        ctx.save_for_backward(adapted, weight, a, b, inner)
        ctx.scaling, ctx.drops = scaling, dropped is not None
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        adapted, weight, a, b, inner = ctx.saved_tensors
        by_token = gradient.flatten(0, -2)
        back = (b.T @ by_token.T).mul_(ctx.scaling)
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            through = by_token @ weight
            if not ctx.drops:
                through.addmm_(back.T, a)
            of_x = through.view_as(adapted)
        if ctx.needs_input_grad[1]:
            of_dropped = (back.T @ a).view_as(adapted)
        of_a, of_b = back @ adapted.flatten(0, -2), (inner @ by_token).T
        return of_x, of_dropped, None, None, of_a, of_b, None
