"""Laying LoRA's products flat changes how they are computed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coral.training import thin
from coral.training.dropout import SeededDropout
from coral.training.thin import lay_flat

NAME = "default"


def build(base: nn.Module, rank: int, *, share_dropped: float = 0.0, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=["0"], **options)
    layer: Any = get_peft_model(nn.Sequential(base), config).base_model.model[0]  # type: ignore[arg-type]
    nn.init.normal_(layer.lora_B[NAME].weight)
    layer.lora_dropout[NAME] = SeededDropout(share_dropped) if share_dropped else nn.Identity()
    return layer  # type: ignore[no-any-return]


def frozen_map(kind: str, inputs: int, outputs: int) -> nn.Module:
    torch.manual_seed(1)
    if kind == "Conv1D":
        return Conv1D(outputs, inputs)
    return nn.Linear(inputs, outputs, bias=kind == "Linear with bias")


def outputs_and_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    own = x.clone().requires_grad_()
    torch.manual_seed(2)
    result = layer(own)
    weights = torch.linspace(-1, 1, result.numel()).view_as(result)
    (result * weights).sum().backward()
    a, b = layer.lora_A[NAME].weight.grad, layer.lora_B[NAME].weight.grad  # type: ignore
    assert own.grad is not None
    return [result.detach(), own.grad, a, b]


@given(
    kind=st.sampled_from(["Linear", "Linear with bias", "Conv1D"]),
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    rank=st.integers(1, 6),
    share_dropped=st.sampled_from([0.0, 0.5]),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
)
def test_outputs_and_gradients_are_those_of_peft(
    kind: str,
    inputs: int,
    outputs: int,
    rank: int,
    share_dropped: float,
    shape: tuple[int, ...],
) -> None:
    x = torch.randn(*shape, inputs, generator=torch.Generator().manual_seed(1))
    peft, flat = (
        build(frozen_map(kind, inputs, outputs), rank, share_dropped=share_dropped)
        for _ in range(2)
    )
    lay_flat([flat], NAME)
    found, expected = outputs_and_gradients(flat, x), outputs_and_gradients(peft, x)
    assert "forward" in vars(flat)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_input_that_needs_no_gradient_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build(nn.Linear(4, 4), 2)
    lay_flat([layer], NAME)
    given: list[tuple[Any, ...]] = []
    backward = thin._Adapted.backward

    def listen(*arguments: Any) -> Any:
        given.append(backward(*arguments))
        return given[-1]

    monkeypatch.setattr(thin._Adapted, "backward", staticmethod(listen))
    layer(torch.randn(3, 4)).sum().backward()
    assert [gradient is not None for gradient in given[0]] == [False] * 4 + [True, True, False]


@pytest.mark.parametrize(
    "layer",
    [
        build(nn.Linear(4, 4), 2, use_dora=True),
        build(nn.Linear(4, 4), 2).to(torch.bfloat16),
        nn.Linear(4, 4),
    ],
    ids=["dora", "half precision", "no adapter"],
)
def test_what_would_change_stays_as_it_is(layer: nn.Module) -> None:
    lay_flat([layer], NAME)
    assert "forward" not in vars(layer)


def test_a_merged_adapter_is_not_added_twice() -> None:
    layer = build(nn.Linear(4, 4), 2)
    lay_flat([layer], NAME)
    x = torch.randn(9, 4)
    before = layer(x)
    layer.merge()  # type: ignore[operator]
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-5)
