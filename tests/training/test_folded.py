"""Folding LoRA into its weight changes how much is computed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from coral.training import folded as folded_module
from coral.training.folded import fold

NAME = "default"


def build(inputs: int, outputs: int, rank: int, *, bias: bool = True, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    config = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=["0"], **options)
    layer: nn.Module = get_peft_model(model, config).base_model.model[0]  # type: ignore[arg-type]
    nn.init.normal_(layer.lora_B[NAME].weight)  # type: ignore[index, union-attr]
    return layer


def outputs_and_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    own = x.clone().requires_grad_()
    result = layer(own)
    weights = torch.linspace(-1, 1, result.numel()).view_as(result)
    (result * weights).sum().backward()
    a, b = layer.lora_A[NAME].weight.grad, layer.lora_B[NAME].weight.grad  # type: ignore
    assert own.grad is not None
    return [result.detach(), own.grad, a, b]


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each pass that was folded."""
    seen: list[int] = []
    apply = folded_module._Folded.apply

    def listen(x: Tensor, *rest: Any) -> Any:
        seen.append(x.numel() // x.shape[-1])
        return apply(x, *rest)

    monkeypatch.setattr(folded_module._Folded, "apply", listen)
    return seen


@given(
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    rank=st.integers(1, 6),
    bias=st.booleans(),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
)
def test_outputs_and_gradients_are_those_of_peft(
    inputs: int, outputs: int, rank: int, bias: bool, shape: tuple[int, ...]
) -> None:
    x = torch.randn(*shape, inputs, generator=torch.Generator().manual_seed(1))
    expected = outputs_and_gradients(build(inputs, outputs, rank, bias=bias), x)
    layer = build(inputs, outputs, rank, bias=bias)
    fold([layer], NAME)
    for found, wanted in zip(outputs_and_gradients(layer, x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_few_tokens_are_not_worth_a_weight(folds: list[int]) -> None:
    layer = build(8, 8, 2)
    fold([layer], NAME)
    for tokens in (3, 4, 5):  # 8 * 8 / (8 + 8)
        layer(torch.zeros(tokens, 8))
    assert folds == [4, 5]


@pytest.mark.parametrize(
    "layer",
    [
        build(4, 4, 2, use_dora=True),
        build(4, 4, 2, lora_dropout=0.5),
        build(4, 4, 2).to(torch.bfloat16),
        nn.Linear(4, 4),
    ],
    ids=["dora", "dropout", "half precision", "no adapter"],
)
def test_what_would_change_stays_as_it_is(layer: nn.Module) -> None:
    fold([layer], NAME)
    assert "forward" not in vars(layer)


def test_a_merged_adapter_is_not_added_twice(folds: list[int]) -> None:
    layer = build(4, 4, 2)
    fold([layer], NAME)
    x = torch.randn(9, 4)
    before = layer(x)
    layer.merge()  # type: ignore[operator]
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-5)
    assert folds == [9]
