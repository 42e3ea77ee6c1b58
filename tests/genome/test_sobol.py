from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.genome.sobol import BITS, TABLED_DIMENSIONS, sobol_digits, sobol_points
from tests.genome.strategies import seeds

dimensions = st.integers(1, TABLED_DIMENSIONS)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("dimensions", [1, 2, 3, 12, TABLED_DIMENSIONS])
def test_unshifted_points_are_those_of_scipy(count: int, dimensions: int) -> None:
    from scipy.stats import qmc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # not every count is a power of two
        expected = qmc.Sobol(dimensions, scramble=False, bits=BITS).random(count)
    np.testing.assert_array_equal(sobol_digits(count, dimensions) / 2**BITS, expected)


def test_the_first_points_are_those_of_the_paper() -> None:
    expected = [
        [0, 0, 0],
        [4, 4, 4],
        [6, 2, 2],
        [2, 6, 6],
        [3, 3, 5],
        [7, 7, 1],
        [5, 1, 7],
        [1, 5, 3],
    ]
    np.testing.assert_array_equal(sobol_digits(8, 3) >> (BITS - 3), expected)


@given(dimensions, seeds, st.integers(0, 9), st.data())
def test_each_dyadic_interval_of_each_coordinate_holds_equally_many(
    dimensions: int, seed: int, log_count: int, data: st.DataObject
) -> None:
    log_intervals = data.draw(st.integers(0, log_count), label="log_intervals")
    intervals = np.floor(sobol_points(2**log_count, dimensions, seed) * 2**log_intervals)
    for column in intervals.astype(int).T:
        counts = np.bincount(column, minlength=2**log_intervals)
        assert set(counts) == {2 ** (log_count - log_intervals)}


@given(seeds)
def test_the_first_two_coordinates_fill_every_dyadic_rectangle(seed: int) -> None:
    """The first two dimensions are a (0, m, 2)-net (Sobol 1967)."""
    points = sobol_points(64, 2, seed)
    for wide in range(7):
        cells = np.floor(points * [2**wide, 2 ** (6 - wide)])
        assert len(np.unique(cells, axis=0)) == 64


@given(dimensions, seeds)
def test_a_shift_moves_every_point_by_the_same_digits(dimensions: int, seed: int) -> None:
    shifted = (sobol_points(16, dimensions, seed) * 2**BITS).astype(np.uint32)
    assert len(np.unique(shifted ^ sobol_digits(16, dimensions), axis=0)) == 1


@given(st.integers(0, TABLED_DIMENSIONS + 9), st.integers(0, 20), seeds)
def test_points_lie_in_the_half_open_cube(dimensions: int, count: int, seed: int) -> None:
    points = sobol_points(count, dimensions, seed)
    assert points.shape == (count, dimensions)
    assert np.all((points >= 0) & (points < 1))


def test_points_follow_their_seed() -> None:
    np.testing.assert_array_equal(sobol_points(5, 70, seed=1), sobol_points(5, 70, seed=1))
    assert not np.any(sobol_points(5, 70, seed=1) == sobol_points(5, 70, seed=2))


def test_shorter_designs_are_the_beginning_of_longer_ones() -> None:
    np.testing.assert_array_equal(sobol_points(3, 12, seed=0), sobol_points(9, 12, seed=0)[:3])


def test_dimensions_beyond_the_table_are_random_and_do_not_move_the_others() -> None:
    few = sobol_points(64, TABLED_DIMENSIONS, seed=3)
    many = sobol_points(64, TABLED_DIMENSIONS + 2, seed=3)
    np.testing.assert_array_equal(many[:, :TABLED_DIMENSIONS], few)
    assert abs(np.corrcoef(many[:, TABLED_DIMENSIONS:].T)[0, 1]) < 0.5
    assert np.all(abs(many[:, TABLED_DIMENSIONS:].mean(axis=0) - 0.5) < 0.15)
