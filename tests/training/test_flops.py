from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.flops import adapter_parameters, step_cost
from coral.plan import AdapterPlan, TrainingPlan
from coral.ports import LinearModule
from coral.training.base import BaseModel, load_base
from coral.training.encoder import adapted
from tests.training.models import save_model, targets

DEPTH, WIDTH = 4, 16
MODULES = tuple(
    LinearModule(name=f"layer.{layer}.{name}", layer=layer, in_features=WIDTH, out_features=out)
    for layer in range(DEPTH)
    for name, out in (("query", WIDTH), ("dense", 2 * WIDTH))
)


def cost(length: int = 8, **values: Any) -> float:
    return step_cost(AdapterPlan(**values), MODULES, DEPTH, WIDTH).teraflops(4, length)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"layers": "top-1"},
        {"layers": "0-1"},
        {"target_modules": ("query", "value")},
        {"target_modules": ("intermediate.dense",), "layers": "bottom-2"},
        {"target_modules": ("dense",)},
    ],
    ids=str,
)
@pytest.mark.parametrize("rank", [1, 7])
def test_adapter_parameters_are_those_that_peft_trains(
    base: BaseModel, values: dict[str, Any], rank: int, *, dora: bool
) -> None:
    adapter = AdapterPlan(rank=rank, dora=dora, **values)
    with adapted(base, TrainingPlan(adapter=adapter), targets({"task": 2}), seed=0) as encoder:
        trained = sum(parameter.numel() for parameter in encoder.adapter_parameters())
    assert adapter_parameters(adapter, base.linear_modules, base.depth) == trained


@pytest.mark.parametrize("family", ["modernbert", "qwen3", "gpt2"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_adapter_parameters_are_those_that_peft_trains_in(
    family: str, tmp_path: Path, *, dora: bool
) -> None:
    folder = save_model(tmp_path, family)
    base = load_base(str(folder), device="cpu", trust_remote_code=False)
    adapter = AdapterPlan(rank=3, dora=dora)
    with adapted(base, TrainingPlan(adapter=adapter), targets({"task": 2}), seed=0) as encoder:
        trained = sum(parameter.numel() for parameter in encoder.adapter_parameters())
    assert adapter_parameters(adapter, base.linear_modules, base.depth) == trained


@given(rank=st.integers(1, 64), layers=st.sampled_from(["all", "top-1", "bottom-2", "1-2"]))
@settings(deadline=None)
def test_a_step_costs_more_at_higher_rank(rank: int, layers: str) -> None:
    assert cost(rank=rank, layers=layers) < cost(rank=rank + 1, layers=layers)


@pytest.mark.parametrize("fewer", range(1, DEPTH))
def test_a_step_costs_more_the_deeper_the_adapter_reaches(fewer: int) -> None:
    assert cost(layers=f"top-{fewer}") < cost(layers=f"top-{fewer + 1}")


def test_the_top_layer_alone_is_cheaper_than_all_and_the_bottom_layer_hardly() -> None:
    """Gradients flow down to the lowest adapted layer."""
    assert cost(layers="top-1") < cost(layers="bottom-1") < cost(layers="all")


def test_attention_grows_with_the_square_of_the_length() -> None:
    assert cost(length=16) > 2 * cost(length=8)


def test_the_cost_of_one_adapted_map_is_the_sum_worked_out_by_hand() -> None:
    modules = (
        LinearModule(name="l.0.a", layer=0, in_features=2, out_features=3),
        LinearModule(name="l.1.a", layer=1, in_features=2, out_features=3),
        LinearModule(name="pooler", layer=None, in_features=9, out_features=9),
    )
    made = step_cost(AdapterPlan(rank=1, layers="top-1"), modules, depth=2, hidden_size=2)
    # Layer 0 forward 2*6; layer 1 forward and backward 4*6; adapter 6*(2+3).
    assert made.per_token == 12 + 24 + 30
    # Attention forward in both layers, twice that backward in one: 4*2*(2 + 2).
    assert made.per_pair == 32
    assert made.teraflops(3, 5) == pytest.approx(15 * (66 + 32 * 5) / 1e12)
