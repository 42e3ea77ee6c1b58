from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.fidelity import kendall_tau

# A coarse grid, so that ties on either side and on both come up.
value = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, math.inf])
pairs = st.lists(st.tuples(value, value), max_size=30)


def test_tau_is_one_for_the_same_order_and_minus_one_for_the_reverse() -> None:
    assert kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)


def test_tau_counts_pairs_in_order_against_pairs_out_of_order() -> None:
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)


def test_a_tie_on_one_side_counts_for_neither_order() -> None:
    # Of three pairs, the first side ranks two and the second three: 2 / sqrt(2 * 3).
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0, 1.0]])
def test_tau_is_not_defined_without_an_order(values: list[float]) -> None:
    assert math.isnan(kendall_tau(values, values))


def test_tau_is_not_defined_where_a_value_is_not_a_number() -> None:
    assert math.isnan(kendall_tau([1.0, math.nan, 3.0], [1.0, 2.0, 3.0]))
    assert math.isnan(kendall_tau([1.0, 2.0, 3.0], [math.nan, 2.0, 3.0]))


def test_both_rankings_are_of_the_same_things() -> None:
    with pytest.raises(ValueError, match="shorter"):
        kendall_tau([1.0, 2.0], [1.0])


@given(pairs)
def test_tau_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    from scipy import stats

    one, two = [x for x, _ in pairs], [y for _, y in pairs]
    expected = float(stats.kendalltau(one, two).statistic) if len(pairs) > 1 else math.nan
    assert kendall_tau(one, two) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(pairs)
def test_tau_does_not_care_which_side_comes_first_nor_in_what_order(
    pairs: list[tuple[float, float]],
) -> None:
    one, two = [x for x, _ in pairs], [y for _, y in pairs]
    tau = kendall_tau(one, two)
    assert kendall_tau(two, one) == pytest.approx(tau, nan_ok=True)
    assert kendall_tau(one[::-1], two[::-1]) == pytest.approx(tau, nan_ok=True)
