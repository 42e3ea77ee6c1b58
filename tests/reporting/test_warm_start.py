"""The warm-start gap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coral.records import Objective, Trial
from coral.reporting.warm_start import warm_start_facts
from tests.reporting.runs import WARM, bred, confirmed, outcome, state_of

STATE = state_of(bred(), WARM)


def _last(trials: list[Trial]) -> Any:
    return warm_start_facts(replace(STATE, trials=tuple(trials)), WARM)[-1]


def _scored(number: int, model: int, auroc: float) -> Trial:
    """A trial that began as ``model`` did and ended with another score."""
    trial = STATE.trials[model]
    return replace(
        trial,
        candidate=replace(trial.candidate, number=number),
        outcomes=(outcome(number, 1, auroc),),
    )


def test_children_that_inherited_stand_beside_those_that_started_cold() -> None:
    first, last = warm_start_facts(STATE, WARM)
    assert first["stage"] == "S0"
    assert first["inherited"] == {"trials": 0, "median": None}
    assert first["cold"] == {"trials": 2, "median": pytest.approx(0.61)}
    assert first["difference"] is None
    assert last["inherited"] == {"trials": 2, "median": pytest.approx((0.95 + 0.88) / 2)}
    assert last["cold"] == {"trials": 2, "median": pytest.approx(0.84)}
    assert last["difference"]["estimate"] == pytest.approx(0.075)


def test_only_bred_children_count() -> None:
    trials = [t for t in STATE.trials if t.number in (7, 9)]
    others = [t for t in STATE.trials if t.candidate.lineage.operator in ("soup", "exploit")]
    assert len(others) == 2
    assert _last(trials + others) == _last(trials)


def test_the_interval_holds_the_difference_and_is_the_same_every_time() -> None:
    warm = [_scored(n, 7, 0.9 + n / 1000) for n in range(20)]
    cold = [_scored(n, 9, 0.8 + n / 1000) for n in range(20)]
    gap = _last(warm + cold)["difference"]
    assert gap["estimate"] == pytest.approx(0.1)
    assert gap["low"] < gap["estimate"] < gap["high"]
    assert gap["high"] - gap["low"] < 0.02
    assert gap == _last(warm + cold)["difference"]


def test_an_interval_of_many_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [_scored(n, 7 + n % 2 * 2, (n + 1) ** -0.5) for n in range(100)]
    whole = _last(trials)
    monkeypatch.setattr("coral.reporting.warm_start._AT_ONCE", 120)
    assert _last(trials) == whole


@pytest.mark.parametrize("numbers", [(7, 9), (7, 8, 9), (7, 9, 10)])
def test_one_on_a_side_gives_no_interval(numbers: tuple[int, ...]) -> None:
    gap = _last([STATE.trials[number] for number in numbers])["difference"]
    assert gap["estimate"] > 0
    assert (gap["low"], gap["high"]) == (None, None)


def test_scores_that_are_not_finite_do_not_count() -> None:
    broken = _scored(3, 9, float("nan"))
    assert _last([*STATE.trials, broken]) == _last(list(STATE.trials))


def test_the_primary_objective_is_compared() -> None:
    spec = replace(WARM, objectives=(Objective(metric="accuracy"),))
    assert warm_start_facts(STATE, spec)[-1]["cold"]["median"] == pytest.approx(0.74)


def test_a_run_where_nobody_inherits_has_no_gap() -> None:
    assert warm_start_facts(state_of(confirmed()), WARM) == []
