"""What checkpoints are good for, and which go first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from coral.evolution import (
    Claim,
    EvolutionState,
    Use,
    advance,
    claims,
    spare,
    writes_ahead,
)
from coral.records import (
    Candidate,
    Contestant,
    Derivation,
    Failure,
    GenerationStarted,
    Legacy,
    Lineage,
    Operator,
    Outcome,
    RunConfirmed,
    StageFinished,
    Trial,
    Verdict,
)
from coral.settings import SoupSettings, SqueezeSettings
from tests.evolution.generations import SPEC as PLAIN
from tests.evolution.generations import strangers

SPEC = replace(PLAIN, soup=SoupSettings(candidates=2), squeeze=SqueezeSettings(sources=1))
LAST = SPEC.last_stage
GENOME = strangers(EvolutionState(train_examples=1), 1)[0].genome
REACHED = Verdict(status="completed", stage=LAST)


def outcome(trial: int, stage: int, auroc: float = 0.5, seed: str = "") -> Outcome:
    return Outcome(
        key=f"{trial}/{stage}{seed}",
        stage=stage,
        metrics={"auroc": auroc},
        checkpoint=f"{trial}@{stage}{seed}",
        checkpoint_bytes=10,
    )


def candidate(
    number: int,
    *legacy: tuple[int, int],
    operator: Operator = "mutation",
    entry: int = 0,
) -> Candidate:
    return Candidate(
        number=number,
        generation=0,
        genome=GENOME,
        digest=f"digest {number}",
        lineage=Lineage(operator=operator),
        legacy=tuple(Legacy(trial=trial, stage=stage) for trial, stage in legacy),
        entry=entry,
        derivation=Derivation(kind="squeeze", rank=2) if operator == "squeeze" else None,
    )


def trial(
    number: int,
    *stages: int,
    auroc: float = 0.5,
    verdict: Verdict = REACHED,
    legacy: Sequence[tuple[int, int]] = (),
    operator: Operator = "mutation",
) -> Trial:
    return Trial(
        candidate=candidate(number, *legacy, operator=operator),
        outcomes=tuple(outcome(number, stage, auroc) for stage in stages),
        verdict=verdict,
    )


def pruned(stage: int, *, audited: bool = False) -> Verdict:
    return Verdict(status="pruned", stage=stage, rule="not promoted", audited=audited)


TRIALS = (
    trial(0, LAST, operator="reference", auroc=0.51),
    trial(1, 1, verdict=pruned(1)),
    trial(2, 0, LAST, auroc=0.6),
    trial(3, LAST, auroc=0.95, legacy=[(8, 1)]),
    trial(4, LAST, auroc=0.94),
    trial(5, LAST, auroc=0.7, legacy=[(3, LAST)]),
    trial(6, LAST, auroc=0.96),
    trial(7, LAST, operator="squeeze", legacy=[(6, LAST)]),
    trial(8, 1, verdict=pruned(1)),
)
STATE = EvolutionState(
    train_examples=1000,
    generation=1,
    derived=1,
    trials=TRIALS,
    population=(6, 5),
    finishers=(6, 3),
    front=(6, 7),
    champion=6,
)
"""Trial 8's weights went into 3's, 3's into 5's, and 6's into 7's."""


def told(found: Sequence[Claim]) -> list[tuple[str, Use]]:
    return [(claim.address, claim.use) for claim in found]


def uses(state: EvolutionState) -> dict[str, Use]:
    return dict(told(claims(state, SPEC)))


def queued(state: EvolutionState) -> set[str]:
    return {address for address, use in uses(state).items() if use is Use.QUEUED}


def begun(*candidates: Candidate) -> EvolutionState:
    return advance(STATE, GenerationStarted(generation=1, candidates=candidates), SPEC)


def after(state: EvolutionState, number: int, done: Outcome) -> EvolutionState:
    return advance(state, StageFinished(trial=number, outcome=done), SPEC)


def test_what_is_least_likely_to_be_needed_again_goes_first() -> None:
    assert told(claims(STATE, SPEC)) == [
        ("2@0", Use.SUPERSEDED),
        ("1@1", Use.UNUSED),
        (f"2@{LAST}", Use.UNUSED),
        (f"4@{LAST}", Use.UNUSED),
        ("8@1", Use.ANCESTOR),
        (f"3@{LAST}", Use.SOUP),
        (f"7@{LAST}", Use.FRONT),
        (f"5@{LAST}", Use.POPULATION),
        (f"0@{LAST}", Use.REFERENCE),
        (f"6@{LAST}", Use.CHAMPION),
    ]


def test_a_smaller_copy_leaves_the_front_before_what_was_trained() -> None:
    state = replace(STATE, front=(2, 7), champion=None, population=())
    order = [claim.trial for claim in claims(state, SPEC) if claim.use is Use.FRONT]
    assert order == [7, 2]


def test_the_worst_parents_go_first() -> None:
    state = replace(STATE, population=(2, 5, 1, 4), front=(), champion=None)
    order = [claim.trial for claim in claims(state, SPEC) if claim.use is Use.POPULATION]
    assert order == [4, 1, 5, 2]


def test_every_claim_says_why() -> None:
    reasons = {claim.address: claim.reason for claim in claims(STATE, SPEC)}
    assert reasons["2@0"] == "the trial went on from it"
    assert reasons["1@1"] == "pruned, and in nothing that is left"
    assert reasons["8@1"] == "it went into trial 5"


def test_an_audited_trial_keeps_what_it_is_worth_as_a_parent_and_what_it_reached() -> None:
    audited = trial(9, 0, 1, LAST, verdict=pruned(1, audited=True))
    state = replace(STATE, trials=(*TRIALS, audited))

    def found(state: EvolutionState) -> list[Use]:
        return [uses(state)[f"9@{stage}"] for stage in (0, 1, LAST)]

    assert found(state) == [Use.SUPERSEDED, Use.UNUSED, Use.UNUSED]
    chosen = replace(state, population=(9, 6), front=(9,))
    assert found(chosen) == [Use.SUPERSEDED, Use.POPULATION, Use.FRONT]


def test_an_address_that_trials_share_counts_once_for_the_best_use() -> None:
    shared = replace(TRIALS[1], outcomes=(replace(outcome(1, 1), checkpoint=f"6@{LAST}"),))
    state = replace(STATE, trials=(TRIALS[0], shared, *TRIALS[2:]))
    found = [claim for claim in claims(state, SPEC) if claim.address == f"6@{LAST}"]
    assert [(claim.trial, claim.use) for claim in found] == [(6, Use.CHAMPION)]


class TestUnderWay:
    def test_a_candidate_needs_its_parents_until_it_has_weights_of_its_own(self) -> None:
        state = begun(candidate(9, (2, LAST), (1, 1), entry=1), candidate(10))
        assert queued(state) == {f"2@{LAST}", "1@1"}
        state = after(state, 9, outcome(9, 1))
        assert queued(state) == {"9@1"}
        assert uses(state)["1@1"] is Use.UNUSED

    def test_only_its_latest_weights_are_needed(self) -> None:
        state = after(after(begun(candidate(9)), 9, outcome(9, 0)), 9, outcome(9, 1))
        assert queued(state) == {"9@1"}
        assert uses(state)["9@0"] is Use.SUPERSEDED

    def test_a_failed_one_needs_nothing(self) -> None:
        state = after(begun(candidate(9, (2, LAST))), 9, outcome(9, 0))
        broken = Failure(kind="diverged", message="no")
        state = after(state, 9, Outcome(key="9/1", stage=1, failure=broken))
        assert queued(state) == set()

    def test_a_copy_needs_its_model_where_it_was_copied(self) -> None:
        state = begun(candidate(9), candidate(10, (9, 0), operator="exploit", entry=1))
        state = after(after(state, 9, outcome(9, 0)), 9, outcome(9, 1))
        assert queued(state) == {"9@0", "9@1"}


def test_what_soups_and_smaller_adapters_are_made_of_is_needed_until_they_are_made() -> None:
    finished = replace(STATE, derived=0)
    assert queued(finished) == {f"6@{LAST}", f"3@{LAST}"}
    assert queued(STATE) == set()
    alone = replace(SPEC, soup=SoupSettings(candidates=0))
    found = [c.address for c in claims(finished, alone) if c.use is Use.QUEUED]
    assert found == [f"6@{LAST}"]


class TestAtTheEnd:
    ENDED = replace(STATE, generation=3, derived=3)

    def test_whoever_is_scored_or_handed_over_is_needed(self) -> None:
        assert queued(self.ENDED) == {f"0@{LAST}", f"6@{LAST}", f"7@{LAST}"}
        state = after(self.ENDED, 6, outcome(6, LAST, seed="/1"))
        [rematch] = [claim for claim in claims(state, SPEC) if claim.stage is None]
        assert (rematch.trial, rematch.use) == (6, Use.QUEUED)
        assert queued(state) == queued(self.ENDED) | {f"6@{LAST}/1"}

    def test_a_run_that_its_budget_ended_needs_the_same_once_rematches_begin(self) -> None:
        state = after(STATE, 6, outcome(6, LAST, seed="/1"))
        assert queued(state) == queued(self.ENDED) | {f"6@{LAST}/1"}

    def test_of_the_contestants_the_winner_alone_stays(self) -> None:
        contestants = tuple(
            Contestant(
                kind="cold", trial=6, seed=seed, metrics={}, optimizer_steps=1, checkpoint=address
            )
            for seed, address in enumerate(("lost", "won"))
        )
        event = RunConfirmed(champion=6, reference=0, scores=(), contestants=contestants, winner=1)
        state = advance(self.ENDED, event, SPEC)
        assert queued(state) == {"won", f"6@{LAST}", f"7@{LAST}"}
        assert uses(state)["lost"] is Use.UNUSED

    def test_rematches_that_the_state_has_forgotten_go_before_all_others(self) -> None:
        made = [(2, outcome(2, LAST)), (6, outcome(6, LAST, seed="/1"))]
        first, second = claims(STATE, SPEC, made)[:2]
        assert (first.address, first.stage) == (f"6@{LAST}/1", None)
        assert first.reason == "of an earlier confirmation"
        assert second.address == "2@0"


FOUND = claims(begun(candidate(9, (1, 1))), SPEC)
SIZES = {claim.address: 10 for claim in FOUND}


class TestSparing:
    def spared(self, limit: float, sizes: Mapping[str, int] = SIZES) -> list[str]:
        return [claim.address for claim in spare(FOUND, sizes, limit)]

    def test_nothing_goes_while_there_is_room(self) -> None:
        assert self.spared(100) == []

    def test_the_least_valuable_go_until_the_rest_fits(self) -> None:
        assert self.spared(99) == ["2@0"]
        assert self.spared(75) == ["2@0", f"2@{LAST}", f"4@{LAST}"]

    def test_what_is_gone_already_is_passed_over_and_counts_nothing(self) -> None:
        assert self.spared(75, {**SIZES, "2@0": 0}) == [f"2@{LAST}", f"4@{LAST}"]

    def test_what_a_queued_job_needs_stays_in_any_case(self) -> None:
        gone = self.spared(0)
        assert "1@1" not in gone
        assert len(gone) == len(FOUND) - 1


def test_room_is_left_for_what_is_written_before_the_next_event() -> None:
    assert writes_ahead(begun(candidate(9)), SPEC, workers=3) == 3
    assert writes_ahead(STATE, SPEC, workers=3) == 3
    squeezing = replace(SPEC, squeeze=SqueezeSettings(ranks=(8, 4, 2), energies=(0.9,), sources=3))
    before_soup = replace(STATE, derived=0)
    assert writes_ahead(before_soup, squeezing, workers=2) == (2 + 1 + 12) / 3
    assert writes_ahead(before_soup, replace(SPEC, squeeze=SqueezeSettings(sources=0)), 2) == 2
