from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.fidelity import DEFAULT_LADDER, Ledger, book, ladder_steps
from coral.records import Cost, Operator, Trial, Verdict
from tests.fidelity.outcomes import outcome, trial

EXAMPLES = 1000
LAST = len(DEFAULT_LADDER) - 1


@st.composite
def trials(draw: st.DrawFn) -> Trial:
    """A trial that fell at one stage and perhaps trained on."""
    fell = draw(st.integers(0, LAST))
    reached = draw(st.integers(fell, LAST))
    outcomes = tuple(
        outcome(stage, cost=Cost(optimizer_steps=draw(st.integers(0, 99)), teraflops=0.5))
        for stage in range(reached + 1)
    )
    operator: Operator = draw(st.sampled_from(["reference", "sobol", "mutation"]))
    verdict = Verdict(status="pruned", stage=fell, audited=reached > fell)
    return trial(0, outcomes, verdict, operator=operator)


@given(st.lists(trials(), max_size=6), st.lists(trials(), max_size=6))
def test_search_audit_and_confirmation_add_up_to_everything_spent(
    first: list[Trial], second: list[Trial]
) -> None:
    ledger = Ledger()
    for finished in (first, second):
        ledger = book(ledger, finished, [16] * len(finished), DEFAULT_LADDER, EXAMPLES)
    spent = sum((one.cost for one in (*first, *second)), start=Cost())
    booked = sum(ledger.search, start=ledger.audit + ledger.confirmation)
    assert booked.optimizer_steps == spent.optimizer_steps
    assert booked.teraflops == pytest.approx(spent.teraflops)
    assert ledger.searched.optimizer_steps + ledger.confirmation.optimizer_steps == (
        spent.optimizer_steps
    )


@given(st.lists(st.integers(1, 64), max_size=8))
def test_naive_is_the_full_ladder_for_every_trial_at_its_own_batch_size(sizes: list[int]) -> None:
    verdict = Verdict(status="failed", stage=0)
    fallen = [trial(i, (outcome(),), verdict) for i in range(len(sizes))]
    ledger = book(Ledger(), fallen, sizes, DEFAULT_LADDER, EXAMPLES)
    full = [ladder_steps(DEFAULT_LADDER, EXAMPLES, size)[-1] for size in sizes]
    assert ledger.naive.optimizer_steps == sum(full)
    assert ledger.naive.examples == sum(n * size for n, size in zip(full, sizes, strict=True))


def test_what_is_spent_goes_to_its_stage_until_the_verdict_and_then_to_the_audit() -> None:
    outcomes = tuple(outcome(i, cost=Cost(optimizer_steps=10**i)) for i in range(4))
    verdict = Verdict(status="pruned", stage=1, audited=True)
    ledger = book(Ledger(), [trial(3, outcomes, verdict)], [16], DEFAULT_LADDER, EXAMPLES)
    assert [cost.optimizer_steps for cost in ledger.search] == [1, 10, 0, 0]
    assert ledger.audit.optimizer_steps == 1100
    assert ledger.confirmation.optimizer_steps == 0
    assert ledger.searched.optimizer_steps == 1111


def test_the_reference_beyond_its_verdict_is_confirmation_not_search() -> None:
    outcomes = tuple(outcome(i, cost=Cost(optimizer_steps=10**i)) for i in range(4))
    verdict = Verdict(status="pruned", stage=1, audited=True)
    reference = trial(0, outcomes, verdict, operator="reference")
    ledger = book(Ledger(), [reference], [16], DEFAULT_LADDER, EXAMPLES)
    assert ledger.confirmation.optimizer_steps == 1100
    assert ledger.audit.optimizer_steps == 0
    assert ledger.searched.optimizer_steps == 11


def test_the_share_of_naive_is_in_optimizer_steps() -> None:
    ledger = Ledger(
        search=(Cost(optimizer_steps=10), Cost(optimizer_steps=20)),
        audit=Cost(optimizer_steps=5),
        confirmation=Cost(optimizer_steps=1000),
        naive=Cost(optimizer_steps=100),
    )
    assert ledger.share_of_naive == pytest.approx(0.35)


def test_an_empty_ledger_has_spent_no_share() -> None:
    assert Ledger().share_of_naive == 0
