from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from coral.fidelity import (
    NOT_PROMOTED,
    Contender,
    Decision,
    PruneRule,
    PruneSettings,
    Stage,
    judge,
)
from coral.records import Outcome, Verdict
from tests.fidelity.outcomes import outcome

LADDER = (
    Stage(name="first", epoch_budget=0.1, data_percentage=10, survival_rate=0.5),
    Stage(name="second", epoch_budget=0.5, data_percentage=50, survival_rate=0.5),
    Stage(name="last", epoch_budget=1.0, data_percentage=100, survival_rate=0.1),
)
CHANCE = PruneRule(metric="auroc", below=0.55, stage="first")
CONDEMNED = Verdict(status="pruned", stage=0, reason="was poor", rule="a rule", audited=True)


def best(outcomes: Sequence[Outcome], k: int) -> Sequence[int]:
    finite = [i for i, o in enumerate(outcomes) if math.isfinite(o.metrics["auroc"])]
    return sorted(finite, key=lambda i: -outcomes[i].metrics["auroc"])[:k]


def decide(
    contenders: Sequence[Contender],
    stage: int = 0,
    *,
    rules: tuple[PruneRule, ...] = (CHANCE,),
    audit_fraction: float = 0.0,
    seed: int = 0,
) -> list[Decision]:
    prune = PruneSettings(rules=rules, audit_fraction=audit_fraction)
    return judge(contenders, LADDER, stage, prune, best, seed)


def contenders(*values: float, stage: int = 0) -> list[Contender]:
    return [
        Contender(trial=i, outcome=outcome(stage, auroc=value)) for i, value in enumerate(values)
    ]


def rules_of(decisions: Sequence[Decision]) -> list[str | None]:
    return [decision.verdict.rule if decision.verdict else None for decision in decisions]


def test_the_best_share_goes_on_and_the_others_are_not_promoted() -> None:
    decisions = decide(contenders(0.7, 0.9, 0.6, 0.8))
    assert [decision.climbs for decision in decisions] == [False, True, False, True]
    assert rules_of(decisions) == [NOT_PROMOTED, None, NOT_PROMOTED, None]
    verdict = decisions[0].verdict
    assert verdict is not None
    assert (verdict.status, verdict.stage) == ("pruned", 0)
    assert verdict.reason == "not among the best 2 of 4 that entered first"


def test_a_failure_falls_whatever_its_metrics_say() -> None:
    crashed = Contender(trial=0, outcome=outcome(failure="crashed", auroc=0.99))
    decision = decide([crashed, *contenders(0.7)])[0]
    assert not decision.climbs
    assert decision.verdict == Verdict(
        status="failed", stage=0, reason="it crashed", rule="crashed"
    )


def test_a_trial_that_diverged_is_pruned_for_the_genome_itself_is_to_blame() -> None:
    decision = decide([Contender(trial=0, outcome=outcome(failure="diverged"))])[0]
    assert decision.verdict is not None
    assert (decision.verdict.status, decision.verdict.rule) == ("pruned", "diverged")
    assert not decision.climbs


def test_the_quota_counts_everyone_who_entered_the_fallen_too() -> None:
    fallen = [Contender(trial=9, outcome=outcome(failure="oom"))] * 4
    decisions = decide([*fallen, *contenders(0.6, 0.9, 0.7, 0.8, 0.5)])
    # Nine entered, so five may go on; four failed, and a rule condemned one.
    assert [decision.climbs for decision in decisions[4:]] == [True] * 4 + [False]


def test_a_rule_condemns_before_the_quota_is_filled() -> None:
    decisions = decide(contenders(0.5, 0.9))
    assert rules_of(decisions) == ["auroc below 0.55 at first", None]
    assert decisions[0].verdict is not None
    assert decisions[0].verdict.reason == "auroc 0.5 is below 0.55"


def test_the_first_rule_that_is_broken_gives_the_reason() -> None:
    rules = (PruneRule(metric="auroc", above=0.99), CHANCE, PruneRule(metric="auroc", below=0.8))
    assert rules_of(decide(contenders(0.5, 0.9), rules=rules))[0] == str(CHANCE)


def test_a_rule_holds_at_its_own_stage_only() -> None:
    assert rules_of(decide(contenders(0.5, stage=1), 1)) == [None]
    everywhere = PruneRule(metric="auroc", below=0.55)
    assert rules_of(decide(contenders(0.5, stage=1), 1, rules=(everywhere,))) == [str(everywhere)]


def test_failures_are_no_peers_for_relative_thresholds() -> None:
    rule = PruneRule(metric="auroc", above="1.5x median")
    wild = [Contender(trial=9, outcome=outcome(failure="oom", auroc=100.0))] * 5
    assert rules_of(decide([*wild, *contenders(0.4, 0.4, 0.7)], rules=(rule,)))[-1] == str(rule)


def test_an_outcome_without_a_finite_objective_is_not_promoted() -> None:
    assert rules_of(decide(contenders(math.nan, 0.6))) == [NOT_PROMOTED, None]
    assert rules_of(decide(contenders(math.nan))) == [NOT_PROMOTED]


def test_whoever_ends_the_last_stage_completes() -> None:
    decisions = decide(
        contenders(0.1, 0.9, stage=2), 2, rules=(PruneRule(metric="auroc", below=1),)
    )
    assert [decision.verdict for decision in decisions] == [
        Verdict(status="completed", stage=2)
    ] * 2
    assert not any(decision.climbs for decision in decisions)


def test_a_failure_in_the_last_stage_does_not_complete() -> None:
    decision = decide([Contender(trial=0, outcome=outcome(2, failure="timeout"))], 2)[0]
    assert decision.verdict is not None
    assert (decision.verdict.status, decision.verdict.rule) == ("failed", "timeout")


def test_an_audit_fraction_of_one_audits_all_the_condemned() -> None:
    decisions = decide(contenders(0.5, 0.6, 0.9, 0.8), audit_fraction=1)
    assert all(decision.climbs for decision in decisions)
    assert [d.verdict.audited if d.verdict else None for d in decisions] == [True, True, None, None]
    assert rules_of(decisions) == [str(CHANCE), NOT_PROMOTED, None, None]


def test_without_an_audit_nobody_condemned_climbs() -> None:
    decisions = decide(contenders(*[0.5] * 20, 0.9))
    assert [decision.climbs for decision in decisions] == [False] * 20 + [True]


def test_failures_are_never_audited() -> None:
    diverged = Contender(trial=0, outcome=outcome(failure="diverged"))
    decision = decide([diverged, *contenders(0.9)], audit_fraction=1)[0]
    assert not decision.climbs
    assert decision.verdict is not None
    assert not decision.verdict.audited


def test_who_is_audited_hangs_on_the_trial_not_on_the_order() -> None:
    field = contenders(*[0.5 + 0.001 * i for i in range(40)])

    def audited(order: Sequence[Contender], seed: int) -> set[int]:
        decisions = decide(order, audit_fraction=0.5, seed=seed)
        return {
            c.trial
            for c, d in zip(order, decisions, strict=True)
            if d.verdict and d.verdict.audited
        }

    assert audited(field, 1) == audited(field[::-1], 1)
    assert audited(field, 1) != audited(field, 2)
    assert 10 <= len(audited(field, 1)) <= 30


def test_an_audited_trial_climbs_on_with_its_verdict_kept() -> None:
    audited = Contender(trial=7, outcome=outcome(1, auroc=0.99), verdict=CONDEMNED)
    decisions = decide([audited, *contenders(0.6, 0.7, stage=1)], 1)
    assert decisions[0] == Decision(verdict=CONDEMNED, climbs=True)
    # It takes nobody's place: one of the two who are really climbing goes on.
    assert [decision.climbs for decision in decisions[1:]] == [False, True]
    assert decide([replace(audited, outcome=outcome(2, auroc=0.99))], 2) == [
        Decision(verdict=CONDEMNED, climbs=False)
    ]


def test_an_audited_trial_that_fails_stops_with_its_verdict_kept() -> None:
    audited = Contender(trial=7, outcome=outcome(1, failure="oom"), verdict=CONDEMNED)
    assert decide([audited], 1) == [Decision(verdict=CONDEMNED, climbs=False)]


def test_an_exempt_trial_climbs_whatever_its_verdict() -> None:
    reference = Contender(trial=0, outcome=outcome(auroc=0.5), exempt=True)
    decision = decide([reference, *contenders(0.9)])[0]
    assert decision.climbs
    assert decision.verdict is not None
    assert decision.verdict.rule == str(CHANCE)
    again = replace(reference, outcome=outcome(1, auroc=0.5), verdict=decision.verdict)
    assert decide([again], 1) == [Decision(verdict=decision.verdict, climbs=True)]


def test_an_exempt_trial_that_fails_does_not_climb() -> None:
    reference = Contender(trial=0, outcome=outcome(failure="crashed"), exempt=True)
    assert not decide([reference])[0].climbs


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_nobody_left_is_nobody_judged(stage: int) -> None:
    assert decide([], stage) == []
