from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.fidelity import gradient_norm, loss_slope


def test_the_slope_of_a_line_is_its_fall_in_100_steps_over_the_initial_loss() -> None:
    assert loss_slope([2 - 0.001 * step for step in range(1000)]) == pytest.approx(-0.05, rel=0.01)


@given(st.floats(-0.001, 0.001), st.floats(0.1, 100))
def test_the_slope_does_not_depend_on_the_losses_scale(per_step: float, scale: float) -> None:
    losses = [1 + per_step * step for step in range(200)]
    scaled = [scale * loss for loss in losses]
    assert loss_slope(scaled) == pytest.approx(loss_slope(losses), rel=1e-6, abs=1e-9)


def test_a_falling_loss_has_a_negative_slope_and_a_rising_one_a_positive() -> None:
    falling, rising = list(range(25, 0, -1)), list(range(1, 26))
    assert loss_slope(falling) < 0 < loss_slope(rising)
    assert loss_slope([1.5] * 30) == pytest.approx(0)


def test_noise_on_a_flat_loss_hardly_shows_in_the_slope() -> None:
    assert loss_slope([1.0 + 0.1 * (-1) ** step for step in range(400)]) == pytest.approx(
        0, abs=0.002
    )


@pytest.mark.parametrize("losses", [[], [1.0], [4.0, 3.0, 2.0, 1.0], [1.0] * 19])
def test_a_curve_of_a_few_steps_has_no_slope(losses: list[float]) -> None:
    assert math.isnan(loss_slope(losses))


@pytest.mark.parametrize("losses", [[1.0, math.nan] * 15, [1.0, math.inf] * 15, [0.0] * 30])
def test_a_curve_without_a_finite_positive_loss_has_no_slope(losses: list[float]) -> None:
    assert math.isnan(loss_slope(losses))


def test_the_gradient_norm_is_the_median_of_the_last_ten_steps() -> None:
    assert gradient_norm([1000.0] * 50 + [1, 2, 3, 4, 5, 6, 7, 8, 9, 1000]) == 5.5


def test_the_gradient_norm_of_a_short_curve_is_its_median() -> None:
    assert gradient_norm([3.0, 1.0, 2.0]) == 2.0


def test_no_steps_have_no_gradient_norm() -> None:
    assert math.isnan(gradient_norm([]))
