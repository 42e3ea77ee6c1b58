from __future__ import annotations

import math

import pytest

from coral.fidelity import NOT_PROMOTED, RuleAudit, audit_rules, proxy_trust, stage_trust
from coral.records import Objective, Trial, Verdict
from tests.fidelity.outcomes import climbed, outcome, trial

AUROC = Objective(metric="auroc")
LAST = 2


def condemned(
    number: int, *values: float, rule: str = "a rule", generation: int = 0, audited: bool = True
) -> Trial:
    verdict = Verdict(status="pruned", stage=0, rule=rule, audited=audited)
    return climbed(number, *values, verdict=verdict, generation=generation)


def false_kills(*trials: Trial, objective: Objective = AUROC) -> int:
    return sum(audit.false_kills for audit in audit_rules(trials, objective, LAST))


SURVIVORS = (climbed(0, 0.6, 0.7, 0.8), climbed(1, 0.6, 0.7, 0.9))


def test_a_false_kill_ends_at_least_as_good_as_the_best_survivor() -> None:
    assert false_kills(*SURVIVORS, condemned(2, 0.5, 0.7, 0.91)) == 1
    assert false_kills(*SURVIVORS, condemned(2, 0.5, 0.7, 0.9)) == 1
    assert false_kills(*SURVIVORS, condemned(2, 0.5, 0.7, 0.89)) == 0


def test_a_condemned_trial_is_measured_against_its_own_generation() -> None:
    better_later = climbed(9, 0.9, 0.9, 0.99, generation=1)
    assert false_kills(*SURVIVORS, better_later, condemned(2, 0.5, 0.7, 0.95)) == 1
    assert false_kills(*SURVIVORS, better_later, condemned(2, 0.5, 0.7, 0.95, generation=1)) == 0


def test_where_nobody_survived_there_is_nothing_to_be_better_than() -> None:
    assert false_kills(condemned(2, 0.5, 0.7, 0.95)) == 0


def test_smaller_is_better_where_the_objective_says_so() -> None:
    loss = Objective(metric="auroc", direction="min")
    assert false_kills(*SURVIVORS, condemned(2, 0.5, 0.7, 0.8), objective=loss) == 1
    assert false_kills(*SURVIVORS, condemned(2, 0.5, 0.7, 0.81), objective=loss) == 0


def test_a_verdict_that_was_not_audited_to_the_end_is_no_false_kill() -> None:
    assert false_kills(*SURVIVORS, condemned(2, 0.99, 0.99)) == 0
    assert false_kills(*SURVIVORS, condemned(2, 0.99, 0.99, 0.99, audited=False)) == 0


def test_a_final_value_that_is_not_a_number_is_no_false_kill() -> None:
    assert false_kills(*SURVIVORS, condemned(2, 0.9, 0.9, math.nan)) == 0


def test_each_rule_is_audited_on_its_own() -> None:
    trials = (
        *SURVIVORS,
        condemned(2, 0.5, 0.7, 0.95),
        condemned(3, 0.5, 0.7, 0.7),
        condemned(4, 0.5, audited=False),
        condemned(5, 0.6, 0.6, 0.6, rule=NOT_PROMOTED),
        trial(6, (outcome(failure="oom"),), Verdict(status="failed", stage=0, rule="oom")),
    )
    assert audit_rules(trials, AUROC, LAST) == (
        RuleAudit(rule="a rule", condemned=3, audited=2, false_kills=1),
        RuleAudit(rule=NOT_PROMOTED, condemned=1, audited=1, false_kills=0),
    )


def test_a_stage_is_trusted_as_far_as_it_ranks_like_the_last() -> None:
    trials = (climbed(0, 0.5, 0.7, 0.8), climbed(1, 0.6, 0.6, 0.7), climbed(2, 0.7, 0.5, 0.6))
    trust = stage_trust(trials, AUROC, LAST)
    assert [(item.stage, item.trials) for item in trust] == [(0, 3), (1, 3)]
    assert [item.tau for item in trust] == pytest.approx([-1, 1])


def test_trust_is_measured_on_trials_that_ended_the_last_stage_condemned_ones_too() -> None:
    trials = (
        climbed(0, 0.5, 0.7, 0.8),
        condemned(1, 0.6, 0.6, 0.7),
        condemned(2, 0.9, 0.9),
    )
    assert [item.trials for item in stage_trust(trials, AUROC, LAST)] == [2, 2]


def test_the_direction_of_the_objective_does_not_change_trust() -> None:
    trials = (climbed(0, 0.5, 0.7, 0.8), climbed(1, 0.6, 0.6, 0.7))
    loss = Objective(metric="auroc", direction="min")
    assert stage_trust(trials, loss, LAST) == stage_trust(trials, AUROC, LAST)


def test_a_proxy_is_trusted_as_far_as_it_ranks_what_it_stands_for_at_the_end() -> None:
    def run(number: int, cheap: float, final: float) -> Trial:
        early, late = outcome(0, cheap=cheap), outcome(1, cheap=1 - cheap, auroc=final)
        return trial(number, (early, late), Verdict(status="completed", stage=1))

    trials = [run(0, 0.1, 0.6), run(1, 0.2, 0.7), run(2, 0.3, 0.8)]
    early, late = proxy_trust(trials, {"cheap": "auroc"}, last=1)
    assert (early.proxy, early.metric, early.stage, early.tau, early.trials) == (
        "cheap",
        "auroc",
        0,
        1,
        3,
    )
    assert (late.stage, late.tau) == (1, -1)
    assert proxy_trust(trials, {}, last=1) == ()
