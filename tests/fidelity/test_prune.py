from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from coral.errors import PlanError
from coral.fidelity import DEFAULT_RULES, PruneRule, PruneSettings, breach, threshold_of
from coral.records import Outcome
from tests.fidelity.outcomes import outcome

NORMS = [outcome(gradient_norm=value) for value in (1.0, 2.0, 3.0, 9.0, 11.0)]
RELATIVE = PruneRule(metric="gradient_norm", above="3x median")


def broken(rule: PruneRule, judged: Outcome, peers: Sequence[Outcome]) -> str | None:
    return breach(rule, judged, threshold_of(rule, peers))


def test_a_value_above_the_threshold_is_condemned_and_one_on_it_is_not() -> None:
    rule = PruneRule(metric="loss_slope", above=0.0)
    assert broken(rule, outcome(loss_slope=0.25), ()) == "loss_slope 0.25 is above 0"
    assert broken(rule, outcome(loss_slope=0.0), ()) is None
    assert broken(rule, outcome(loss_slope=-0.25), ()) is None


def test_a_value_below_the_threshold_is_condemned_and_one_on_it_is_not() -> None:
    rule = PruneRule(metric="auroc", below=0.55)
    assert broken(rule, outcome(auroc=0.51234), ()) == "auroc 0.512 is below 0.55"
    assert broken(rule, outcome(auroc=0.55), ()) is None
    assert broken(rule, outcome(auroc=0.9), ()) is None


def test_a_relative_threshold_is_a_multiple_of_the_peers_median() -> None:
    condemned = [broken(RELATIVE, peer, NORMS) is not None for peer in NORMS]
    assert condemned == [False, False, False, False, True]
    assert broken(RELATIVE, NORMS[-1], NORMS) == "gradient_norm 11 is above 9"


def test_a_relative_threshold_may_bound_from_below() -> None:
    rule = PruneRule(metric="gradient_norm", below="0.5x median")
    assert broken(rule, NORMS[0], NORMS) == "gradient_norm 1 is below 1.5"
    assert broken(rule, NORMS[1], NORMS) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_condemned_by_a_relative_threshold(value: float) -> None:
    odd = outcome(gradient_norm=value)
    assert broken(RELATIVE, odd, [*NORMS, odd]) == f"gradient_norm is {value}"
    assert broken(RELATIVE, odd, [odd]) == f"gradient_norm is {value}"


def test_peers_that_are_not_finite_do_not_move_the_median() -> None:
    peers = [*NORMS, outcome(gradient_norm=math.nan), outcome(gradient_norm=math.inf), outcome()]
    assert broken(RELATIVE, NORMS[-2], peers) is None
    assert broken(RELATIVE, NORMS[-1], peers) == "gradient_norm 11 is above 9"


def test_a_threshold_is_relative_to_nothing_where_no_peer_is_finite() -> None:
    assert math.isnan(threshold_of(RELATIVE, [outcome(gradient_norm=math.inf), outcome()]))
    assert threshold_of(PruneRule(metric="auroc", below=0.6), ()) == 0.6


def test_an_absolute_threshold_passes_over_nan() -> None:
    assert broken(PruneRule(metric="loss_slope", above=0), outcome(loss_slope=math.nan), ()) is None


def test_a_trial_without_the_metric_is_not_condemned() -> None:
    assert broken(RELATIVE, outcome(auroc=0.5), NORMS) is None


@pytest.mark.parametrize("sides", [{}, {"above": 1.0, "below": 0.0}])
def test_a_rule_has_exactly_one_of_above_and_below(sides: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="exactly one of above and below"):
        PruneRule(metric="auroc", **sides)


@pytest.mark.parametrize("threshold", ["five", "5x mean", "x median", "-5x median"])
def test_a_threshold_that_cannot_be_read_is_refused(threshold: str) -> None:
    with pytest.raises(PlanError, match=re.escape(f"like '5x median', got {threshold!r}")):
        PruneRule(metric="auroc", above=threshold)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_that_is_not_finite_is_refused(threshold: float) -> None:
    with pytest.raises(PlanError, match=f"must be finite, got {threshold}"):
        PruneRule(metric="auroc", below=threshold)


@pytest.mark.parametrize("threshold", ["5x median", "5 x median", "5.0xmedian", " 5x  median "])
def test_spaces_in_a_relative_threshold_do_not_matter(threshold: str) -> None:
    rule = PruneRule(metric="gradient_norm", above=threshold)
    assert broken(rule, NORMS[-1], NORMS) is None
    assert broken(rule, outcome(gradient_norm=15.1), NORMS) is not None


def test_a_rule_reads_as_a_sentence() -> None:
    assert [str(rule) for rule in DEFAULT_RULES] == [
        "gradient_norm above 5x median at S0_sanity",
        "loss_slope above 0.0 at S0_sanity",
        "auroc below 0.55 at S1_shakeout",
    ]
    assert str(PruneRule(metric="log_loss", above=2)) == "log_loss above 2"


def test_the_audited_share_is_a_fraction() -> None:
    with pytest.raises(PlanError, match=r"audit_fraction must be <= 1, got 1\.5"):
        PruneSettings(audit_fraction=1.5)
