from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import GenomeError
from coral.genome import (
    ChoiceGene,
    FloatGene,
    Gene,
    IntGene,
    SimplexGene,
    SubsetGene,
    extremes,
    flag,
    nearest,
)
from coral.records import GeneValue
from tests.genome.strategies import (
    choice_genes,
    float_genes,
    genes,
    int_genes,
    points,
    seeds,
    simplex_genes,
    strengths,
    subset_genes,
)


def value_of(data: st.DataObject, gene: Gene) -> GeneValue:
    return gene.decode(data.draw(points(gene.dimensions)))


@given(genes, st.data())
def test_every_point_of_the_cube_is_a_value_in_range(gene: Gene, data: st.DataObject) -> None:
    gene.check(value_of(data, gene))


@given(genes, st.data(), seeds, strengths)
def test_a_mutated_value_stays_in_range(
    gene: Gene, data: st.DataObject, seed: int, strength: float
) -> None:
    value = value_of(data, gene)
    for _ in range(5):
        value = gene.mutate(value, strength, np.random.default_rng(seed))
        gene.check(value)


@given(st.one_of(int_genes(), choice_genes, subset_genes()), st.data(), seeds, strengths)
def test_a_discrete_gene_always_changes_when_it_mutates(
    gene: IntGene | ChoiceGene | SubsetGene, data: st.DataObject, seed: int, strength: float
) -> None:
    value = value_of(data, gene)
    assert gene.mutate(value, strength, np.random.default_rng(seed)) != value


@given(genes, st.data(), seeds)
def test_the_same_generator_makes_the_same_mutation(
    gene: Gene, data: st.DataObject, seed: int
) -> None:
    value = value_of(data, gene)
    one, two = (gene.mutate(value, 0.2, np.random.default_rng(seed)) for _ in range(2))
    assert one == two


@given(genes, st.data())
def test_a_value_in_range_is_nearest_to_itself(gene: Gene, data: st.DataObject) -> None:
    value = value_of(data, gene)
    if isinstance(gene, SimplexGene):
        assert isinstance(value, tuple)
        assert nearest(gene, value) == pytest.approx(value, abs=2e-6)
    else:
        assert nearest(gene, value) == value


@given(genes)
def test_a_gene_allows_its_own_extremes(gene: Gene) -> None:
    for value in extremes(gene):
        gene.check(value)


@given(float_genes())
def test_the_ends_of_the_unit_interval_are_the_ends_of_a_range(gene: FloatGene) -> None:
    assert gene.decode(np.array([0.0])) == pytest.approx(gene.low, rel=1e-5, abs=1e-9)
    assert gene.decode(np.array([1.0])) == pytest.approx(gene.high, rel=1e-5, abs=1e-9)


@given(float_genes(), st.floats(0, 1))
def test_encoding_a_number_undoes_decoding_it(gene: FloatGene, u: float) -> None:
    value = gene.decode(np.array([u]))
    assert gene.decode(np.array([gene.encode(value)])) == pytest.approx(value, rel=2e-5, abs=1e-8)


@given(int_genes(), st.data())
def test_encoding_a_whole_number_lands_in_its_own_cell(gene: IntGene, data: st.DataObject) -> None:
    value = data.draw(st.integers(gene.low, gene.high))
    assert gene.decode(np.array([gene.encode(value)])) == value


def test_a_log_scale_gives_each_decade_the_same_room() -> None:
    gene = FloatGene(path="schedule.learning_rate", low=1e-5, high=1e-1, log=True)
    quarters = [gene.decode(np.array([u])) for u in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert quarters == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


def test_a_linear_scale_gives_equal_lengths_the_same_room() -> None:
    gene = FloatGene(path="adapter.scaling", low=1, high=5)
    assert [gene.decode(np.array([u])) for u in (0.0, 0.25, 0.5)] == [1, 2, 3]


def test_a_mutation_on_a_log_scale_multiplies_alike_everywhere() -> None:
    gene = FloatGene(path="schedule.learning_rate", low=1e-6, high=1.0, log=True)
    factors = [
        gene.mutate(value, 0.05, np.random.default_rng(7)) / value for value in (1e-4, 1e-3, 1e-2)
    ]
    assert factors == pytest.approx([factors[0]] * 3, rel=1e-4)
    assert factors[0] != pytest.approx(1)


def test_a_float_gene_yields_floats_even_where_its_bounds_are_whole() -> None:
    gene = FloatGene(path="adapter.scaling", low=1, high=4)
    values = (gene.decode(np.array([0.0])), gene.decode(np.array([1.0])))
    clipped = (nearest(gene, 0), nearest(gene, 9))
    assert [type(value) for value in (*values, *clipped)] == [float] * 4


def test_every_whole_number_of_a_linear_range_has_a_cell_of_the_same_size() -> None:
    gene = IntGene(path="adapter.rank", low=1, high=4)
    grid = (np.arange(400) + 0.5) / 400
    values = [gene.decode(np.array([u])) for u in grid]
    assert [values.count(n) for n in (1, 2, 3, 4)] == [100] * 4


def test_every_option_of_a_choice_has_a_cell_of_the_same_size() -> None:
    gene = ChoiceGene(path="schedule.scheduler", options=("linear", "cosine", "constant"))
    values = [gene.decode(np.array([u])) for u in (np.arange(300) + 0.5) / 300]
    assert [values.count(option) for option in gene.options] == [100] * 3


def test_a_choice_mutates_to_each_other_option() -> None:
    gene = ChoiceGene(path="schedule.scheduler", options=("linear", "cosine", "constant"))
    rng = np.random.default_rng(0)
    assert {gene.mutate("linear", 0.1, rng) for _ in range(50)} == {"cosine", "constant"}


def test_a_larger_strength_moves_a_number_farther() -> None:
    gene = FloatGene(path="adapter.scaling", low=0.0, high=1.0)

    def spread(strength: float) -> float:
        rng = np.random.default_rng(0)
        return float(np.std([gene.mutate(0.5, strength, rng) for _ in range(300)]))

    assert spread(0.01) == pytest.approx(0.01, rel=0.2)
    assert spread(0.1) == pytest.approx(0.1, rel=0.2)


@given(simplex_genes(), st.data(), seeds, strengths)
def test_shares_sum_to_one_and_stay_above_their_floor(
    gene: SimplexGene, data: st.DataObject, seed: int, strength: float
) -> None:
    drawn = gene.decode(data.draw(points(gene.dimensions)))
    for shares in (drawn, gene.mutate(drawn, strength, np.random.default_rng(seed))):
        assert sum(shares) == pytest.approx(1, abs=1e-9)
        assert min(shares) >= gene.floor - 1e-6


def test_the_uniform_cube_gives_uniform_shares() -> None:
    gene = SimplexGene(path="tasks.weights", names=("a", "b"), floor=0.0)
    rng = np.random.default_rng(0)
    first = [gene.decode(rng.random(2))[0] for _ in range(4000)]
    quartiles = [float(q) for q in np.quantile(first, [0.25, 0.5, 0.75])]
    assert quartiles == pytest.approx([0.25, 0.5, 0.75], abs=0.03)


@given(subset_genes(), st.data(), seeds)
def test_a_subset_keeps_at_least_as_many_names_as_it_must(
    gene: SubsetGene, data: st.DataObject, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    value = gene.decode(data.draw(points(gene.dimensions)))
    for _ in range(20):
        assert len(value) >= gene.least
        assert list(value) == [name for name in gene.options if name in value]
        value = gene.mutate(value, 0.1, rng)


def test_a_subset_mutates_by_one_name_at_a_time() -> None:
    gene = SubsetGene(path="adapter.target_modules", options=("query", "value", "dense"))
    rng = np.random.default_rng(0)
    for _ in range(30):
        toggled = set(gene.mutate(("query", "value"), 0.1, rng)) ^ {"query", "value"}
        assert len(toggled) == 1


def test_a_subset_too_small_is_topped_up_with_the_next_highest_coordinate() -> None:
    gene = SubsetGene(path="adapter.target_modules", options=("query", "value", "dense"), least=2)
    assert gene.decode(np.array([0.1, 0.9, 0.4])) == ("value", "dense")


@pytest.mark.parametrize("kind", [FloatGene, IntGene])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"low": 64, "high": 8}, "low <= high must hold, got low=64, high=8"),
        ({"low": 8, "high": 8}, "the range is empty, got low=high=8"),
        ({"low": 0, "high": 8, "log": True}, "a log scale needs low > 0, got low=0"),
        ({"low": -3, "high": 8, "log": True}, "a log scale needs low > 0, got low=-3"),
        ({"low": math.nan, "high": 8}, "low and high must be finite, got low=nan, high=8"),
        ({"low": 8, "high": math.inf}, "low and high must be finite, got low=8, high=inf"),
    ],
)
def test_a_range_that_holds_nothing_is_refused(
    kind: type[Any], bounds: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenomeError, match=re.escape(message)):
        kind(path="adapter.rank", **bounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "choices must not be empty"),
        ((16,), "a choice needs at least two options, got [16]"),
        (("linear", "cosine", "linear"), "options must differ"),
    ],
)
def test_a_choice_without_a_choice_is_refused(options: tuple[GeneValue, ...], message: str) -> None:
    with pytest.raises(GenomeError, match=re.escape(message)):
        ChoiceGene(path="schedule.scheduler", options=options)


@pytest.mark.parametrize("options", [(), ("query",), ("query", "query")])
def test_a_subset_of_fewer_than_two_names_is_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(GenomeError, match="at least two different names"):
        SubsetGene(path="adapter.target_modules", options=options)


@pytest.mark.parametrize("least", [0, 2, 3])
def test_a_subset_that_leaves_no_freedom_is_refused(least: int) -> None:
    with pytest.raises(GenomeError, match=re.escape("least must lie in [1, 1] for 2 names, got")):
        SubsetGene(path="adapter.target_modules", options=("query", "value"), least=least)


@pytest.mark.parametrize("names", [(), ("a",), ("a", "a")])
def test_a_simplex_of_fewer_than_two_parts_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(GenomeError, match="at least two different names"):
        SimplexGene(path="tasks.weights", names=names)


@pytest.mark.parametrize("floor", [-0.1, 0.5, 0.6])
def test_a_floor_that_leaves_no_room_is_refused(floor: float) -> None:
    with pytest.raises(GenomeError, match=f"leave room for 2 shares, got {floor}"):
        SimplexGene(path="tasks.weights", names=("a", "b"), floor=floor)


@pytest.mark.parametrize(
    ("gene", "value", "message"),
    [
        (FloatGene(path="x.y", low=0, high=1), 1.5, "x.y must lie in [0, 1], got 1.5"),
        (FloatGene(path="x.y", low=0, high=1), math.nan, "x.y must lie in [0, 1], got nan"),
        (FloatGene(path="x.y", low=0, high=1), "1", "x.y must be a number, got '1'"),
        (FloatGene(path="x.y", low=0, high=1), True, "x.y must be a number, got True"),
        (IntGene(path="x.y", low=1, high=4), 5, "x.y must be a whole number in [1, 4], got 5"),
        (IntGene(path="x.y", low=1, high=4), 2.0, "x.y must be a whole number in [1, 4], got 2.0"),
        (ChoiceGene(path="x.y", options=("a", "b")), "c", "x.y must be one of ['a', 'b'], got 'c'"),
        (SubsetGene(path="x.y", options=("a", "b")), (), "x.y must hold at least 1 names, got ()"),
        (SubsetGene(path="x.y", options=("a", "b")), ("c",), "must hold names of ['a', 'b'], got"),
        (SubsetGene(path="x.y", options=("a", "b")), "a", "must hold at least 1 names, got 'a'"),
        (SimplexGene(path="x.y", names=("a", "b")), (1.0,), "x.y needs 2 shares, got (1.0,)"),
        (SimplexGene(path="x.y", names=("a", "b")), (0.4, 0.5), "must sum to 1 with shares of at"),
        (SimplexGene(path="x.y", names=("a", "b")), (0.98, 0.02), "shares of at least 0.05"),
    ],
)
def test_a_value_out_of_range_is_refused_with_path_rule_and_value(
    gene: Gene, value: GeneValue, message: str
) -> None:
    with pytest.raises(GenomeError, match=re.escape(message)):
        gene.check(value)


@pytest.mark.parametrize(
    ("gene", "value", "expected"),
    [
        (FloatGene(path="x.y", low=0.5, high=1), 9, 1.0),
        (FloatGene(path="x.y", low=0.5, high=1), -9.0, 0.5),
        (IntGene(path="x.y", low=2, high=8), 100, 8),
        (IntGene(path="x.y", low=2, high=8), 3.6, 4),
        (ChoiceGene(path="x.y", options=(8, 16, 32)), 20, 16),
        (ChoiceGene(path="x.y", options=("a", "b")), "z", "a"),
        (SubsetGene(path="x.y", options=("a", "b", "c")), ("c", "z", "a"), ("a", "c")),
        (SubsetGene(path="x.y", options=("a", "b", "c"), least=2), ("c",), ("a", "b", "c")),
        (SubsetGene(path="x.y", options=("a", "b")), "all-linear", ("a", "b")),
        (SimplexGene(path="x.y", names=("a", "b"), floor=0.1), (1.0, 0.0), (0.9, 0.1)),
        (SimplexGene(path="x.y", names=("a", "b", "c", "d")), (), (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_a_value_out_of_range_has_a_nearest_one(
    gene: Gene, value: GeneValue, expected: GeneValue
) -> None:
    gene.check(nearest(gene, value))
    assert nearest(gene, value) == expected


def test_a_flag_is_the_choice_of_yes_or_no() -> None:
    assert flag("adapter.dora").options == (False, True)
