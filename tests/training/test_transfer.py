from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coral.errors import CheckpointError
from coral.training.factors import Factors
from coral.training.transfer import Inherited, Moments, Parent, blend, cross, inherit, squeezed
from tests.training.adapters import (
    FLOAT32,
    distance,
    factors,
    make_factors,
    ranks,
    scalings,
    seeds,
    update,
)

LAYER_OF = {"embed": None, "0.query": 0, "0.value": 0, "1.query": 1, "1.value": 1}
NAMES = tuple(LAYER_OF)
HEADS = {"task.weight": torch.ones(3, 4), "task.bias": torch.ones(3)}
ZERO = torch.zeros(6, 5, dtype=torch.float64)

adapters = st.dictionaries(st.sampled_from(NAMES), factors(shape=(6, 5)))
mixings = st.floats(0.01, 0.99)


@st.composite
def fresh_adapters(draw: st.DrawFn) -> dict[str, Factors]:
    """New adapters: their update is zero."""
    modules = draw(st.dictionaries(st.sampled_from(NAMES), st.tuples(ranks, scalings(), seeds)))
    return {
        name: make_factors(rank, scaling=scaling, seed=seed, independent=0)
        for name, (rank, scaling, seed) in modules.items()
    }


def parent(modules: Mapping[str, Factors], value: float = 1.0) -> Parent:
    """A parent whose heads are full of ``value``, and whose moments are known by it."""
    moments = {}
    for name, module in modules.items():
        moments[f"{name}.a"] = moments_like(module.a, value)
        moments[f"{name}.b"] = moments_like(module.b, value)
        if module.magnitude is not None:
            moments[f"{name}.magnitude"] = moments_like(module.magnitude, value)
    heads = {name: value * tensor for name, tensor in HEADS.items()}
    moments |= {name: moments_like(tensor, value) for name, tensor in heads.items()}
    return Parent(modules=modules, heads=heads, moments=moments)


def moments_like(tensor: Tensor, value: float) -> Moments:
    filled = torch.full_like(tensor, value)
    return Moments(step=torch.tensor(value), exp_avg=filled, exp_avg_sq=filled)


def fresh(rank: int, names: tuple[str, ...] = NAMES, scaling: float = 0.5) -> dict[str, Factors]:
    return {name: make_factors(rank, scaling=scaling, seed=99, independent=0) for name in names}


def trained(rank: int, names: tuple[str, ...] = NAMES, seed: int = 0) -> dict[str, Factors]:
    return {name: make_factors(rank, seed=seed + i) for i, name in enumerate(names)}


def updates(modules: Mapping[str, Factors]) -> dict[str, Tensor]:
    return {name: update(module) for name, module in modules.items()}


def with_magnitude(modules: Mapping[str, Factors], value: float) -> dict[str, Factors]:
    return {n: replace(m, magnitude=torch.full((6,), value)) for n, m in modules.items()}


def crossed(
    child: Mapping[str, Factors], better: Parent, other: Parent, mode: str, **arguments: object
) -> Inherited:
    settings = {"mixing": 0.75, "take_other": {0}, "min_retained_energy": 0.0} | arguments
    return cross(child, better, other, mode=mode, layer_of=LAYER_OF, **settings)  # type: ignore[arg-type]


def assert_is_best_approximation(result: Inherited, of: Mapping[str, Tensor]) -> None:
    """Every module errs by the tail of the dense spectrum, and says so."""
    kept = total = 0.0
    assert result.retained.keys() == of.keys()
    for name, dense in of.items():
        size = float(dense.square().sum())
        total += size
        if name not in result.modules:
            assert result.retained[name] == 0
            continue
        tail = float(torch.linalg.svdvals(dense)[result.modules[name].rank :].norm())
        error = float((update(result.modules[name]) - dense).norm())
        assert error == pytest.approx(tail, abs=FLOAT32 * (1 + float(dense.norm())))
        share = 1 - tail**2 / size if size > 0 else 1.0
        assert result.retained[name] == pytest.approx(share, abs=FLOAT32)
        kept += share * size
    assert result.retained_energy == pytest.approx(kept / total if total > 0 else 1, abs=FLOAT32)
    assert 0 <= result.retained_energy <= 1


@given(fresh_adapters(), adapters)
def test_a_child_has_its_own_shape_and_the_best_of_its_parents_updates(
    child: dict[str, Factors], modules: dict[str, Factors]
) -> None:
    result = inherit(child, parent(modules))
    for name, module in child.items():
        made = result.modules[name]
        assert (made.rank, made.scaling) == (module.rank, module.scaling)
        assert name in modules or made is module
    assert result.modules.keys() == child.keys()
    assert_is_best_approximation(result, updates(modules))
    shrunk = any(name in modules and child[name].rank < modules[name].rank for name in child)
    assert result.moments_reset == shrunk
    assert result.parents == 1


def test_a_child_of_the_same_shape_is_its_parents_equal_to_the_bit() -> None:
    source = parent(trained(3))
    result = inherit(trained(3, seed=50), source)
    for name, module in source.modules.items():
        assert torch.equal(result.modules[name].a, module.a)
        assert torch.equal(result.modules[name].b, module.b)
    assert result.heads == source.heads
    assert result.retained_energy == 1
    assert result.moments.keys() == source.moments.keys()
    for name, moments in source.moments.items():
        assert result.moments[name].step == moments.step
        assert torch.equal(result.moments[name].exp_avg, moments.exp_avg)
        assert torch.equal(result.moments[name].exp_avg_sq, moments.exp_avg_sq)


def optimized(source: Factors) -> dict[str, Moments]:
    """AdamW's moments after three steps that leave the weights as they are."""
    a, b = source.a.clone().requires_grad_(), source.b.clone().requires_grad_()
    optimizer = torch.optim.AdamW([a, b], lr=0.0, weight_decay=0.0)
    for step in range(3):
        slope = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
        (slope * (source.scaling * b @ a)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"m.a": Moments(**optimizer.state[a]), "m.b": Moments(**optimizer.state[b])}


@given(factors(shape=(6, 5)), st.integers(0, 4), scalings())
def test_moments_are_those_that_training_under_the_childs_scaling_would_have_made(
    source: Factors, more: int, scaling: float
) -> None:
    old = source.rank
    child = {"m": make_factors(old + more, scaling=scaling, independent=0)}
    result = inherit(child, Parent(modules={"m": source}, heads={}, moments=optimized(source)))
    expected = optimized(result.modules["m"])
    assert not result.moments_reset
    for name in ("step", "exp_avg", "exp_avg_sq"):
        a, b = (getattr(result.moments[f"m.{factor}"], name) for factor in "ab")
        a_expected, b_expected = (getattr(expected[f"m.{factor}"], name) for factor in "ab")
        if name == "step":
            assert a == a_expected == b == b_expected
            continue
        assert (a.shape, b.shape) == (a_expected.shape, b_expected.shape)
        assert distance(a[:old], a_expected[:old]) < FLOAT32
        assert distance(b[:, :old], b_expected[:, :old]) < FLOAT32
        for whole, new, known in ((a, a[old:], a[:old]), (b, b[:, old:], b[:, :old])):
            filled = known.mean() if name == "exp_avg_sq" else whole.new_zeros(())
            assert torch.allclose(new, filled.expand_as(new))


def test_what_has_grown_moves_no_faster_than_the_learning_rate() -> None:
    """A second moment of zero after many steps would let it: Adam takes it for unbiased."""
    source, slope = make_factors(2), 0.01
    steady = {
        f"m.{name}": Moments(
            step=torch.tensor(200.0),
            exp_avg=torch.full_like(tensor, slope),
            exp_avg_sq=torch.full_like(tensor, slope**2),
        )
        for name, tensor in (("a", source.a), ("b", source.b))
    }
    heir = inherit({"m": make_factors(4)}, Parent(modules={"m": source}, heads={}, moments=steady))
    b = torch.nn.Parameter(heir.modules["m"].b.clone())
    optimizer = torch.optim.AdamW([b], lr=1.0, weight_decay=0.0)
    moments = heir.moments["m.b"]
    optimizer.state[b] = {name: getattr(moments, name) for name in Moments.__slots__}
    for _ in range(30):
        before = b.detach().clone()
        b.grad = torch.full_like(b, slope)
        optimizer.step()
        assert float((b.detach() - before)[:, 2:].abs().max()) <= 1.001


def test_only_what_shrinks_loses_its_moments() -> None:
    modules = with_magnitude(trained(4), 1.0)
    child = with_magnitude({**fresh(4), **fresh(2, ("0.query",))}, 2.0)
    result = inherit(child, parent(modules))
    lost = {f"0.query.{tensor}" for tensor in ("a", "b", "magnitude")}
    assert result.moments.keys() == parent(modules).moments.keys() - lost
    assert result.moments_reset


def test_a_tensor_that_was_never_trained_has_no_moments() -> None:
    result = inherit(fresh(4), replace(parent(trained(4)), moments={}))
    assert result.moments == {}
    assert not result.moments_reset


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_a_magnitude_is_the_parents_or_left_to_whoever_has_the_base_weights(rank: int) -> None:
    plain, dora = trained(3, ("embed",)), with_magnitude(trained(3, ("embed",)), 1.0)
    child, child_dora = fresh(rank, ("embed",)), with_magnitude(fresh(rank, ("embed",)), 2.0)
    magnitudes = [
        inherit(own, parent(of)).modules["embed"].magnitude
        for own, of in ((child_dora, dora), (child_dora, plain), (child, dora), (child, plain))
    ]
    assert magnitudes[0] is dora["embed"].magnitude
    assert magnitudes[1:] == [None, None, None]


def test_a_module_that_only_the_child_has_keeps_its_fresh_magnitude() -> None:
    child = with_magnitude(fresh(3), 2.0)
    result = inherit(child, parent(trained(3, ("embed",))))
    assert result.modules["0.query"].magnitude is child["0.query"].magnitude


def test_the_moments_of_a_magnitude_go_where_it_goes() -> None:
    source = parent(with_magnitude(trained(3, ("embed",)), 1.0))
    with_it = inherit(with_magnitude(fresh(3, ("embed",)), 2.0), source)
    assert with_it.moments["embed.magnitude"] is source.moments["embed.magnitude"]
    assert "embed.magnitude" not in inherit(fresh(3, ("embed",)), source).moments


def test_adapters_of_different_base_models_do_not_mix() -> None:
    wide = {"embed": make_factors(2, shape=(6, 8))}
    with pytest.raises(CheckpointError, match=r"embed .* \(6, 8\) and \(6, 5\)"):
        inherit(fresh(2), parent(wide))


def dense_blend(
    mixing: float, one: Mapping[str, Factors], two: Mapping[str, Factors]
) -> dict[str, Tensor]:
    return {
        name: mixing * (update(one[name]) if name in one else ZERO)
        + (1 - mixing) * (update(two[name]) if name in two else ZERO)
        for name in one.keys() | two.keys()
    }


@given(fresh_adapters(), adapters, adapters, mixings)
def test_a_blend_is_the_best_approximation_of_the_weighted_mean_of_both_updates(
    child: dict[str, Factors],
    one: dict[str, Factors],
    two: dict[str, Factors],
    mixing: float,
) -> None:
    result = crossed(child, parent(one), parent(two), "blend", mixing=mixing)
    for name, module in child.items():
        made = result.modules[name]
        assert (made.rank, made.scaling) == (module.rank, module.scaling)
        assert name in one or name in two or made is module
    assert_is_best_approximation(result, dense_blend(mixing, one, two))
    assert (result.parents, result.moments, result.moments_reset) == (2, {}, True)


@pytest.mark.parametrize("rank", [2, 3, 8])
def test_factors_of_opposite_signs_do_not_cancel_in_a_blend(rank: int) -> None:
    """Two parents with one update; the mean of their factors is zero."""
    one = trained(3)
    two = {name: replace(module, a=-module.a, b=-module.b) for name, module in one.items()}
    result = crossed(fresh(rank), parent(one), parent(two), "blend", mixing=0.5)
    assert_is_best_approximation(result, updates(one))


def test_a_blend_averages_heads_with_the_weights_of_the_updates() -> None:
    result = crossed(fresh(4), parent(trained(2), 1.0), parent(trained(2), 5.0), "blend")
    assert result.heads.keys() == HEADS.keys()
    for name, head in HEADS.items():
        assert torch.equal(result.heads[name], 2 * head)


@pytest.mark.parametrize(("mixing", "chosen"), [(1.0, 0), (0.0, 1)])
def test_a_parent_without_weight_leaves_no_trace(mixing: float, chosen: int) -> None:
    parents = [parent(trained(2, NAMES[:3]), 1.0), parent(trained(4, NAMES[2:], seed=9), 5.0)]
    result = crossed(fresh(4), *parents, "blend", mixing=mixing)
    assert result.parents == 1
    assert_is_best_approximation(result, updates(parents[chosen].modules))
    assert torch.equal(result.heads["task.bias"], parents[chosen].heads["task.bias"])


@pytest.mark.parametrize("mode", ["blend", "layers"])
def test_a_child_too_small_for_both_inherits_from_the_better_parent_alone(mode: str) -> None:
    better, other = parent(trained(1), 1.0), parent(trained(4, seed=9), 5.0)
    attempt = crossed(fresh(1), better, other, mode)
    assert attempt.parents == 2
    just_enough = attempt.retained_energy
    same = crossed(fresh(1), better, other, mode, min_retained_energy=just_enough)
    assert same.parents == 2
    result = crossed(fresh(1), better, other, mode, min_retained_energy=just_enough + 1e-6)
    assert (result.parents, result.retained_energy, result.moments_reset) == (1, 1.0, False)
    assert_is_best_approximation(result, updates(better.modules))
    assert result.heads == better.heads
    assert result.moments.keys() == better.moments.keys()


def test_a_crossover_keeps_four_fifths_of_the_energy_unless_told_otherwise() -> None:
    def spread(weak: float) -> dict[str, Factors]:
        b = torch.zeros(6, 2)
        b[0, 0], b[1, 1] = 1.0, weak
        return {"embed": Factors(a=torch.eye(5)[:2], b=b, scaling=1.0)}

    for weak, parents in ((0.49, 2), (0.51, 1)):  # a fifth of the energy is at 0.5
        child = cross(
            fresh(1, ("embed",)),
            parent(spread(weak)),
            parent(spread(weak)),
            mixing=0.5,
            mode="blend",
            layer_of=LAYER_OF,
            take_other=(),
        )
        assert child.parents == parents


@given(fresh_adapters(), adapters, adapters, st.sets(st.sampled_from([0, 1])))
def test_layers_come_whole_from_one_parent(
    child: dict[str, Factors],
    one: dict[str, Factors],
    two: dict[str, Factors],
    take_other: set[int],
) -> None:
    better, other = parent(one, 1.0), parent(two, 5.0)
    result = crossed(child, better, other, "layers", take_other=take_other)
    chosen = {name: two if LAYER_OF[name] in take_other else one for name in NAMES}
    expected = {name: of[name] for name, of in chosen.items() if name in of}
    assert_is_best_approximation(result, updates(expected))
    assert result.heads == better.heads
    for name, module in child.items():
        if name not in expected:
            assert result.modules[name] is module
        elif module.rank >= expected[name].rank:
            step = 5.0 if chosen[name] is two else 1.0
            assert result.moments[f"{name}.a"].step == result.moments[f"{name}.b"].step == step
        else:
            assert f"{name}.a" not in result.moments and f"{name}.b" not in result.moments
    assert result.moments["task.bias"].step == 1
    used = any(chosen[name] is two for name in child.keys() & expected.keys())
    assert result.parents == (2 if used else 1)


@given(
    st.lists(st.tuples(st.integers(1, 9), adapters), min_size=1, max_size=4),
    mixings | st.sampled_from([0.0, 1.0]),
)
def test_a_soup_is_the_weighted_mean_of_any_adapters_and_a_soup_of_soups_is_one(
    shares: list[tuple[int, dict[str, Factors]]], outer: float
) -> None:
    total = sum(share for share, _ in shares)
    parents = [
        (share / total, parent(modules, float(i))) for i, (share, modules) in enumerate(shares)
    ]
    modules, heads = blend(parents)
    assert modules.keys() == set().union(*(p.modules for _, p in parents))
    for name, module in modules.items():
        having = [(w, update(p.modules[name])) for w, p in parents if name in p.modules]
        error = update(module) - torch.stack([w * dense for w, dense in having]).sum(dim=0)
        assert float(error.norm()) <= FLOAT32 * sum(w * float(dense.norm()) for w, dense in having)
    value = sum(w * i for i, (w, _) in enumerate(parents))
    assert torch.allclose(heads["task.bias"], value * HEADS["task.bias"])

    inner = Parent(modules=modules, heads=heads)
    last = parent(trained(2))
    nested, nested_heads = blend([(outer, inner), (1 - outer, last)])
    flat, flat_heads = blend([*((outer * w, p) for w, p in parents), (1 - outer, last)])
    assert nested.keys() == flat.keys()
    for name in nested:
        assert torch.equal(nested[name].a, flat[name].a)
        assert torch.allclose(nested[name].b, flat[name].b, rtol=1e-5)
    assert torch.allclose(nested_heads["task.bias"], flat_heads["task.bias"])


@pytest.mark.parametrize("weights", [(0.5, 0.6), (1.5, -0.5), (math.nan, 0.5), ()])
def test_weights_are_those_of_a_mean(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="at least 0 and sum to 1"):
        blend([(weight, parent(trained(2))) for weight in weights])


def test_parents_share_their_heads_and_the_shapes_of_them() -> None:
    one = parent(trained(2))
    wide = replace(one, heads=one.heads | {"task.bias": torch.ones(7)})
    with pytest.raises(CheckpointError, match=r"task.bias has \(3,\) and \(7,\)"):
        blend([(0.5, one), (0.5, wide)])
    less = replace(one, heads={"task.weight": HEADS["task.weight"]})
    with pytest.raises(CheckpointError, match=r"only some have \['task.bias'\]"):
        blend([(0.5, one), (0.5, less)])


def test_magnitudes_are_averaged_where_every_parent_has_one() -> None:
    one = parent(with_magnitude(trained(2, ("embed", "0.query", "0.value")), 1.0))
    two = parent(with_magnitude(trained(2, ("embed",)), 5.0) | trained(2, ("0.query",)))
    modules, _ = blend([(0.75, one), (0.25, two)])
    assert torch.equal(modules["embed"].magnitude, torch.full((6,), 2.0))
    assert modules["0.query"].magnitude is None  # one of both has none
    assert modules["0.value"].magnitude is None  # one of both lacks the module
    child = with_magnitude(fresh(4, ("embed", "0.query", "0.value")), 9.0)
    result = crossed(child, one, two, "blend")
    assert torch.equal(result.modules["embed"].magnitude, torch.full((6,), 2.0))
    assert result.modules["0.query"].magnitude is None


@given(adapters, ranks)
def test_squeezing_to_a_rank_touches_only_what_is_above_it(
    modules: dict[str, Factors], rank: int
) -> None:
    small, retained = squeezed(modules, rank=rank)
    assert small.keys() == retained.keys() == modules.keys()
    for name, source in modules.items():
        made = small[name]
        assert made.scaling == source.scaling
        if source.rank <= rank:
            assert made is source and retained[name] == 1
            continue
        assert made.rank == min(rank, *source.shape)
        dense = update(source)
        tail = float(torch.linalg.svdvals(dense)[rank:].norm())
        size = float(dense.norm())
        assert float((update(made) - dense).norm()) == pytest.approx(tail, abs=FLOAT32 * (1 + size))
        share = 1 - (tail / size) ** 2 if size > 0 else 1.0
        assert retained[name] == pytest.approx(share, abs=FLOAT32)


@given(adapters, st.floats(0.01, 1))
def test_squeezing_by_energy_gives_every_module_the_least_rank_that_retains_it(
    modules: dict[str, Factors], share: float
) -> None:
    small, retained = squeezed(modules, energy=share)
    for name, source in modules.items():
        assert retained[name] >= share
        assert distance(update(small[name]), update(source)) <= math.sqrt(1 - share) + 1e-5
        assert small[name] is source or small[name].rank < source.rank
        rank = small[name].rank
        assert rank >= 1
        assert rank == 1 or squeezed({name: source}, rank=rank - 1)[1][name] < share


def test_squeezing_takes_a_rank_or_an_energy() -> None:
    for arguments in ({}, {"rank": 2, "energy": 0.5}):
        with pytest.raises(ValueError, match="exactly one of rank and energy"):
            squeezed(trained(3), **arguments)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        squeezed(trained(3), rank=0)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        squeezed(trained(3), energy=1.5)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_shrinking_ten_wide_modules_takes_less_than_two_seconds_of_one_core() -> None:
    names = tuple(str(index) for index in range(10))
    wide = {name: make_factors(64, shape=(4096, 4096)) for name in names}
    child = {name: make_factors(16, shape=(4096, 4096), independent=0) for name in names}
    started = time.process_time()
    result = inherit(child, Parent(modules=wide, heads={}))
    assert time.process_time() - started < 2
    assert 0 < result.retained_energy < 1
