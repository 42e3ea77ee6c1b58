from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import PlanError
from coral.plan import AdapterPlan, adapted_modules, layer_indices, scaling_of

DEPTH = 3
MODULES = (
    *(
        (f"encoder.layer.{layer}.{name}", layer)
        for layer in range(DEPTH)
        for name in ("attention.query", "attention.value", "output.dense")
    ),
    ("pooler.dense", None),
)


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        ("all", 6, [0, 1, 2, 3, 4, 5]),
        ("top-2", 6, [4, 5]),
        ("bottom-2", 6, [0, 1]),
        ("1-3", 6, [1, 2, 3]),
        ("5-5", 6, [5]),
        ("top-9", 6, [0, 1, 2, 3, 4, 5]),
        ("bottom-9", 2, [0, 1]),
        ("4-9", 6, [4, 5]),
    ],
)
def test_a_range_of_layers_is_cut_to_the_stack(
    layers: str, depth: int, expected: list[int]
) -> None:
    assert list(layer_indices(layers, depth)) == expected


@given(st.integers(1, 40), st.integers(1, 40))
def test_top_and_bottom_split_the_stack_without_overlap(count: int, depth: int) -> None:
    top = layer_indices(f"top-{count}", depth)
    assert len(top) == min(count, depth)
    assert depth - 1 in top
    if count < depth:
        rest = layer_indices(f"bottom-{depth - count}", depth)
        assert [*rest, *top] == list(range(depth))


def test_a_range_wholly_outside_the_stack_is_refused() -> None:
    with pytest.raises(PlanError, match=re.escape("'6-8' lie outside a stack of 6 layers (0-5)")):
        layer_indices("6-8", 6)


@pytest.mark.parametrize("layers", ["", "some", "top", "top-", "top--1", "-2", "1-", "1..3", "ALL"])
def test_a_misspelt_range_of_layers_is_refused(layers: str) -> None:
    with pytest.raises(PlanError, match="layers must be 'all', 'top-N', 'bottom-N'"):
        AdapterPlan(layers=layers)


@pytest.mark.parametrize("layers", ["top-0", "bottom-0"])
def test_a_range_of_no_layers_is_refused(layers: str) -> None:
    with pytest.raises(PlanError, match=f"at least one layer, got '{layers}'"):
        AdapterPlan(layers=layers)


def test_a_range_of_layers_that_runs_backwards_is_refused() -> None:
    with pytest.raises(PlanError, match="FIRST <= LAST, got '3-1'"):
        AdapterPlan(layers="3-1")


def test_all_linear_means_every_linear_module_of_the_stack_and_none_outside() -> None:
    assert adapted_modules(AdapterPlan(), MODULES, DEPTH) == tuple(
        name for name, layer in MODULES if layer is not None
    )


def test_all_linear_keeps_to_the_wanted_layers() -> None:
    assert adapted_modules(AdapterPlan(layers="top-1"), MODULES, DEPTH) == (
        "encoder.layer.2.attention.query",
        "encoder.layer.2.attention.value",
        "encoder.layer.2.output.dense",
    )


def test_all_linear_over_layers_without_linear_modules_is_refused() -> None:
    with pytest.raises(PlanError, match="layers top-1 hold no linear module"):
        adapted_modules(AdapterPlan(layers="top-1"), MODULES, DEPTH + 1)


@pytest.mark.parametrize("targets", ["query", ("query",), "attention.query"])
def test_a_target_names_the_end_of_the_dotted_name(targets: str | tuple[str, ...]) -> None:
    plan = AdapterPlan(target_modules=targets, layers="0-1")
    assert adapted_modules(plan, MODULES, DEPTH) == (
        "encoder.layer.0.attention.query",
        "encoder.layer.1.attention.query",
    )


def test_a_target_is_a_whole_part_of_the_name_never_a_piece_of_one() -> None:
    with pytest.raises(PlanError, match="target modules uery match nothing"):
        adapted_modules(AdapterPlan(target_modules="uery"), MODULES, DEPTH)


def test_a_named_module_outside_the_stack_is_adapted_when_layers_are_all() -> None:
    plan = AdapterPlan(target_modules=("pooler.dense", "query"))
    assert "pooler.dense" in adapted_modules(plan, MODULES, DEPTH)
    assert "encoder.layer.0.attention.query" in adapted_modules(plan, MODULES, DEPTH)


def test_a_named_module_outside_the_stack_is_out_of_reach_of_a_range_of_layers() -> None:
    plan = AdapterPlan(target_modules=("pooler.dense", "query"), layers="top-1")
    with pytest.raises(PlanError, match=r"target modules pooler\.dense match nothing in .*top-1"):
        adapted_modules(plan, MODULES, DEPTH)


def test_each_target_that_matches_nothing_is_named() -> None:
    plan = AdapterPlan(target_modules=("query", "gate_proj", "up_proj"))
    with pytest.raises(PlanError, match="target modules gate_proj, up_proj match nothing"):
        adapted_modules(plan, MODULES, DEPTH)


@pytest.mark.parametrize("targets", ["", ()])
def test_an_adapter_without_targets_is_refused(targets: str | tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="target_modules must name at least one module"):
        AdapterPlan(target_modules=targets)


def test_alpha_is_the_scaling_times_the_rank() -> None:
    assert AdapterPlan(rank=16, scaling=2.0).alpha == 32


def test_alpha_is_the_scaling_times_the_root_of_the_rank_with_rslora() -> None:
    assert AdapterPlan(rank=16, scaling=2.0, rslora=True).alpha == 8


@given(st.integers(1, 512), st.floats(1e-3, 1e3), st.booleans())
def test_the_scaling_of_a_plans_alpha_is_its_scaling(
    rank: int, scaling: float, rslora: bool
) -> None:
    plan = AdapterPlan(rank=rank, scaling=scaling, rslora=rslora)
    assert scaling_of(plan.alpha, rank, rslora=rslora) == pytest.approx(scaling)
