"""Which linear maps of a layer come first: what they give follows from what enters the layer alone.

In most transformers these are the projections to queries, keys and values. Where the layer is the
lowest that an adapter changes, their frozen part is the same for every genome, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from coral.flops import Start
from coral.ports import LinearModule

TRIED_TOKENS = 4


def with_entries(
    model: nn.Module, stack: nn.ModuleList, modules: Sequence[LinearModule]
) -> tuple[LinearModule, ...]:
    """Return the linear maps of a plain model, those marked that come first in their layer.

    The model reads a few tokens, and gradients tell what depends on what. Where it can't, or where
    a map is not called, nothing is marked.

    Args:
        stack: its layers.
    """
    first: dict[str, bool] = {}
    handles = [layer.register_forward_pre_hook(_detached) for layer in stack]
    for module in modules:
        if module.layer is not None:
            notice = partial(_notice, first, module.name)
            handles.append(model.get_submodule(module.name).register_forward_hook(notice))
    device = next(model.parameters()).device
    ids = torch.arange(TRIED_TOKENS, device=device).unsqueeze(0)
    try:
        with torch.enable_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
        AssertionError,
    ):
        first.clear()  # it takes something else than tokens
    finally:
        for handle in handles:
            handle.remove()
    return tuple(replace(module, entry=first.get(module.name, False)) for module in modules)


def entry_maps(model: nn.Module, modules: Sequence[LinearModule], start: Start) -> list[nn.Module]:
    """Return the frozen maps whose products a start knows, whether or not they are adapted now."""
    found = [model.get_submodule(m.name) for m in modules if start.knows(m)]
    return [m.get_base_layer() if isinstance(m, LoraLayer) else m for m in found]


def _detached(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.detach() if isinstance(value, Tensor) else value for value in inputs)


def _notice(
    first: dict[str, bool], name: str, _: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> Tensor:
    """Note whether a map depends on another one of its layer; let all behind it depend on it."""
    first[name] = first.get(name, True) and not inputs[0].requires_grad
    return output.detach().requires_grad_().clone()
