from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coral.errors import CheckpointError
from coral.training.factors import (
    Factors,
    concatenated,
    energy,
    grown,
    rank_for_energy,
    rescaled,
    spectrum,
    truncated,
)
from tests.training.adapters import (
    BFLOAT16,
    FLOAT32,
    change,
    distance,
    factors,
    make_factors,
    ranks,
    scalings,
    seeds,
    update,
)

shares = st.floats(0.01, 1)
weights = st.integers(-20, 20).map(lambda tenths: tenths / 10)


def fresh_rows(count: int, source: Factors) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    return torch.rand(count, source.shape[1], generator=generator) + 1


def in_bfloat16(source: Factors) -> Factors:
    return replace(source, a=source.a.bfloat16(), b=source.b.bfloat16())


@pytest.mark.parametrize(
    ("a", "b", "magnitude", "scaling", "message"),
    [
        ((2, 5), (6, 3), None, 1.0, r"a \(2, 5\) and b \(6, 3\)"),
        ((5,), (6, 5), None, 1.0, r"a \(5,\) and b \(6, 5\)"),
        ((0, 5), (6, 0), None, 1.0, "rank >= 1"),
        ((2, 5), (6, 2), (5,), 1.0, r"\(6,\), got \(5,\)"),
        ((2, 5), (6, 2), None, 0.0, "positive and finite, got 0"),
        ((2, 5), (6, 2), None, math.inf, "positive and finite, got inf"),
    ],
)
def test_factors_that_make_no_update_are_refused(
    a: tuple[int, ...],
    b: tuple[int, ...],
    magnitude: tuple[int, ...] | None,
    scaling: float,
    message: str,
) -> None:
    vector = None if magnitude is None else torch.ones(magnitude)
    with pytest.raises(CheckpointError, match=message):
        Factors(a=torch.ones(a), b=torch.ones(b), scaling=scaling, magnitude=vector)


@given(factors())
def test_energy_is_the_squared_norm_of_the_dense_update(source: Factors) -> None:
    assert energy(source) == pytest.approx(float(update(source).square().sum()))


@given(factors(), scalings())
def test_the_update_is_the_same_under_every_scaling(source: Factors, scaling: float) -> None:
    for form, tolerance in ((source, FLOAT32), (in_bfloat16(source), BFLOAT16)):
        other = rescaled(form, scaling)
        assert other.scaling == scaling
        assert other.b.dtype == form.b.dtype
        assert change(other, form) < tolerance


@given(factors(), st.integers(0, 5), scalings())
def test_growing_leaves_the_update_unchanged(source: Factors, more: int, scaling: float) -> None:
    rank = source.rank + more
    for form, tolerance in ((source, FLOAT32), (in_bfloat16(source), BFLOAT16)):
        larger = grown(form, rank, scaling, fresh_rows(more, form))
        assert (larger.rank, larger.scaling, larger.a.dtype) == (rank, scaling, form.a.dtype)
        assert change(larger, form) < tolerance


@given(factors(), st.integers(1, 5))
def test_what_grows_on_starts_as_an_adapter_does(source: Factors, more: int) -> None:
    fresh = fresh_rows(more, source)
    larger = grown(source, source.rank + more, source.scaling, fresh)
    assert torch.equal(larger.a, torch.cat([source.a, fresh]))
    assert torch.equal(larger.b[:, : source.rank], source.b)
    assert not larger.b[:, source.rank :].any()


@given(factors(), st.integers(0, 4), st.integers(0, 4), scalings(), scalings())
def test_growing_twice_is_growing_once(
    source: Factors, first: int, second: int, middle: float, last: float
) -> None:
    rank = source.rank + first + second
    fresh = fresh_rows(rank, source)
    once = grown(source, rank, last, fresh)
    early = grown(source, source.rank + first, middle, fresh[: source.rank + first])
    twice = grown(early, rank, last, fresh)
    assert torch.equal(once.a, twice.a)
    assert torch.allclose(once.b, twice.b, rtol=FLOAT32)


def test_growing_keeps_a_magnitude() -> None:
    magnitude = torch.arange(6.0)
    source = replace(make_factors(2), magnitude=magnitude)
    assert grown(source, 3, 1.0, fresh_rows(1, source)).magnitude is magnitude


@pytest.mark.parametrize(("rank", "rows"), [(1, 3), (4, 1)])
def test_growing_must_not_shrink_and_needs_fresh_rows(rank: int, rows: int) -> None:
    source = make_factors(2)
    with pytest.raises(ValueError, match=f"from rank 2 to {rank} .* got {rows}"):
        grown(source, rank, 1.0, fresh_rows(rows, source))


@given(factors(), st.integers(0, 5), scalings())
def test_shrinking_undoes_growing(source: Factors, more: int, scaling: float) -> None:
    larger = grown(source, source.rank + more, scaling, fresh_rows(more, source))
    back, retained = truncated(
        spectrum(larger), source.rank, source.scaling, fresh_rows(source.rank, source)
    )
    assert back.rank == source.rank
    assert change(back, source) < FLOAT32
    assert retained == pytest.approx(1)


@given(st.lists(st.tuples(weights, factors(shape=(6, 5))), min_size=1, max_size=4))
def test_concatenation_is_the_exact_weighted_sum(parts: list[tuple[float, Factors]]) -> None:
    whole = concatenated(parts)
    expected = torch.stack([weight * update(part) for weight, part in parts]).sum(dim=0)
    size = sum(float((weight * update(part)).norm()) for weight, part in parts)
    assert float((update(whole) - expected).norm()) <= FLOAT32 * size
    assert whole.rank == sum(part.rank for _, part in parts)


@given(*[st.tuples(weights, factors(shape=(6, 5)))] * 3, weights, weights)
def test_a_concatenation_of_concatenations_is_one(
    one: tuple[float, Factors],
    two: tuple[float, Factors],
    three: tuple[float, Factors],
    left: float,
    right: float,
) -> None:
    nested = concatenated([(left, concatenated([one, two])), (right, concatenated([three]))])
    flat = concatenated(
        [(left * one[0], one[1]), (left * two[0], two[1]), (right * three[0], three[1])]
    )
    assert torch.equal(nested.a, flat.a)
    assert torch.allclose(nested.b, flat.b, rtol=FLOAT32)


def test_only_updates_of_one_shape_can_be_added() -> None:
    parts = [(0.5, make_factors(2, shape=shape)) for shape in ((6, 5), (6, 4))]
    with pytest.raises(CheckpointError, match=r"\[\(6, 4\), \(6, 5\)\]"):
        concatenated(parts)
    with pytest.raises(ValueError, match="at least one part"):
        concatenated([])


@given(factors())
def test_the_spectrum_is_that_of_the_dense_update(source: Factors) -> None:
    parts = spectrum(source)
    dense = update(source)
    expected = torch.linalg.svdvals(dense)
    count = min(source.rank, *source.shape)
    assert torch.allclose(parts.values, expected[:count], atol=1e-12 * (1 + float(expected[0])))
    assert distance(parts.left * parts.values @ parts.right, dense) < 1e-12
    identity = torch.eye(count, dtype=torch.float64)
    assert torch.allclose(parts.left.T @ parts.left, identity)
    assert torch.allclose(parts.right @ parts.right.T, identity)


@given(factors(), ranks, scalings())
def test_truncation_is_the_best_approximation_there_is(
    source: Factors, rank: int, scaling: float
) -> None:
    """The error is the tail of the dense spectrum, the least possible (Eckart and Young)."""
    for form, tolerance in ((source, FLOAT32), (in_bfloat16(source), BFLOAT16)):
        dense = update(form)
        tail = torch.linalg.svdvals(dense)[rank:].norm()
        small, retained = truncated(spectrum(form), rank, scaling, fresh_rows(rank, form))
        assert (small.rank, small.scaling) == (rank, scaling)
        assert (small.a.dtype, small.b.dtype) == (form.a.dtype, form.b.dtype)
        error = (update(small) - dense).norm()
        assert abs(float(error - tail)) <= tolerance * float(dense.norm())
        assert 0 <= retained <= 1
        assert (1 - retained) * float(dense.square().sum()) == pytest.approx(
            float(tail.square()), abs=1e-9 * (1 + float(dense.square().sum()))
        )


@given(factors(), ranks, ranks)
def test_truncating_by_way_of_a_larger_rank_loses_no_more(
    source: Factors, one: int, two: int
) -> None:
    large, small = max(one, two), min(one, two)
    fresh = fresh_rows(large, source)
    middle, first = truncated(spectrum(source), large, 3.0, fresh)
    _, second = truncated(spectrum(middle), small, 1.0, fresh)
    _, at_once = truncated(spectrum(source), small, 1.0, fresh)
    assert first * second == pytest.approx(at_once, abs=FLOAT32)


@given(factors(), ranks)
def test_truncated_factors_are_sized_as_trained_ones(source: Factors, rank: int) -> None:
    kept = min(rank, *source.shape, source.rank)
    small, _ = truncated(spectrum(source), kept, 0.5)
    gram = small.a.double() @ small.a.double().T
    row_norm = source.a.double().square().sum(dim=1).mean()
    assert torch.allclose(gram, row_norm * torch.eye(kept, dtype=torch.float64), atol=1e-5)


@given(ranks, ranks, seeds)
def test_an_update_of_zero_stays_zero_and_can_learn(rank: int, target: int, seed: int) -> None:
    source = make_factors(rank, seed=seed, independent=0)
    small, retained = truncated(spectrum(source), target, 1.0, fresh_rows(target, source))
    assert retained == 1
    assert not small.b.any()
    assert (small.a.norm(dim=1) > 0.1).all()


def test_a_source_without_any_size_gives_unit_rows() -> None:
    source = replace(make_factors(3), a=torch.zeros(3, 5))
    small, retained = truncated(spectrum(source), 2, 1.0)
    assert torch.allclose(small.a.norm(dim=1), torch.ones(2))
    assert retained == 1


def test_a_rank_above_the_number_of_directions_is_filled_with_fresh_rows() -> None:
    source = make_factors(9, shape=(4, 5))
    fresh = fresh_rows(6, source)
    wide, retained = truncated(spectrum(source), 6, 1.0, fresh)
    assert torch.equal(wide.a[4:], fresh[4:])
    assert not wide.b[:, 4:].any()
    assert change(wide, source) < FLOAT32
    assert retained == 1
    with pytest.raises(ValueError, match="needs 2 fresh rows, got 0"):
        truncated(spectrum(source), 6, 1.0)


def test_a_rank_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        truncated(spectrum(make_factors(2)), 0, 1.0)


def test_truncation_keeps_a_magnitude() -> None:
    magnitude = torch.arange(6.0)
    source = replace(make_factors(3), magnitude=magnitude)
    assert truncated(spectrum(source), 2, 1.0)[0].magnitude is magnitude


@given(factors(), ranks)
def test_strides_do_not_matter(source: Factors, rank: int) -> None:
    strided = replace(source, a=source.a.T.contiguous().T, b=source.b.T.contiguous().T)
    fresh = fresh_rows(rank, source)
    one, retained = truncated(spectrum(source), rank, 1.0, fresh)
    two, retained_strided = truncated(spectrum(strided), rank, 1.0, fresh)
    assert change(one, two) < FLOAT32
    assert retained == pytest.approx(retained_strided)


@given(factors(), shares)
def test_the_rank_for_an_energy_is_the_smallest_that_retains_it(
    source: Factors, share: float
) -> None:
    parts = spectrum(source)
    rank = rank_for_energy(parts.values, share)
    assert truncated(parts, rank, 1.0)[1] >= share
    assert rank == 1 or truncated(parts, rank - 1, 1.0)[1] < share


def test_the_rank_for_an_energy_counts_squares() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert rank_for_energy(values, 9 / 14) == 1
    assert rank_for_energy(values, 0.65) == 2
    assert rank_for_energy(values, 1) == 3
    assert rank_for_energy(torch.zeros(3), 1) == 1


@pytest.mark.parametrize("share", [0.0, 1.1, math.nan])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        rank_for_energy(torch.ones(2), share)


@given(seeds, scalings())
def test_repeated_directions_are_told_from_noise(seed: int, scaling: float) -> None:
    source = make_factors(2, seed=seed, scaling=scaling)
    repeated = concatenated([(0.2, source), (0.7, source), (0.1, source)])
    assert rank_for_energy(spectrum(repeated).values, 1) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_refused(value: float) -> None:
    source = make_factors(2)
    source.b[0, 0] = value
    for function in (energy, spectrum):
        with pytest.raises(CheckpointError, match="must be finite"):
            function(source)
