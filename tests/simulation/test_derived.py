"""Soups and squeezed adapters: weights that are made of others' and never trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.plan import TrainingPlan
from coral.ports import TrainingJob
from coral.records import Curve, Derivation, Outcome
from coral.settings import FaultRates
from coral.simulation import Profile, dump_profile, read_profile
from coral.simulation.profile import Inheritance
from coral.simulation.transfer import blended, energy_share
from coral.simulation.weights import Luck, SimulatedWeights, address_of, weights_at
from tests.simulation.worlds import (
    LADDER,
    PROFILE,
    QUIET,
    climbed,
    job_of,
    legacy,
    plan_of,
    run,
    trained,
    trainer_of,
)

LAST = len(LADDER) - 1
BELIEF = Inheritance()


def weights(plan: TrainingPlan | None = None, profile: Profile = QUIET) -> SimulatedWeights:
    """Return the weights that a plan ends with."""
    found = climbed(plan or plan_of(), profile)[-1].checkpoint
    assert found is not None
    return weights_at(found)


def unlike(count: int) -> list[SimulatedWeights]:
    """Return weights as far apart as training runs are on average."""
    places = [tuple(float(i == j) for j in range(6)) for i in range(count)]
    return [replace(weights(), place=place) for place in places]


def of_quality(auroc: float, model: SimulatedWeights) -> SimulatedWeights:
    """Return weights with that AUROC on every task."""
    error = math.log((1 - auroc) / 0.5)
    return replace(model, errors=dict.fromkeys(model.errors, error))


def derivation_job(
    how: Derivation,
    sources: Sequence[SimulatedWeights],
    shares: Sequence[float] = (),
    **fields: Any,
) -> TrainingJob:
    return job_of(
        plan_of(adapter__rank=how.rank or 16),
        LAST,
        inherits=legacy(*map(address_of, sources), weights=shares),
        entry=LAST,
        derivation=how,
        **fields,
    )


def squeezed(source: SimulatedWeights, profile: Profile = QUIET, **how: Any) -> Outcome:
    return trained(derivation_job(Derivation(kind="squeeze", **how), [source]), profile)


def soup(
    *members: SimulatedWeights,
    shares: Sequence[float] = (),
    rank: int = 64,
    profile: Profile = QUIET,
) -> Outcome:
    job = derivation_job(Derivation(kind="soup", rank=rank), members, shares)
    return trained(job, profile)


class TestNothingIsTrained:
    @pytest.mark.parametrize(
        "outcome",
        [squeezed(weights(), rank=2), soup(*unlike(2))],
        ids=["squeeze", "soup"],
    )
    def test_only_the_evaluation_costs(self, outcome: Outcome) -> None:
        assert outcome.failure is None
        assert outcome.cost.optimizer_steps == outcome.cost.examples == outcome.cost.tokens == 0
        assert outcome.cost.teraflops == outcome.cost.train_seconds == 0
        assert outcome.cost.evaluation_seconds > 0
        assert outcome.curve == Curve()
        assert math.isnan(outcome.metrics["gradient_norm"])
        assert math.isnan(outcome.metrics["loss_slope"])
        assert outcome.checkpoint is not None

    def test_steps_and_cost_are_those_of_the_longest_line(self) -> None:
        one, two = unlike(2)
        outcome = soup(replace(one, steps=10, teraflops=9.0), replace(two, steps=70))
        assert outcome.cumulative_steps == 70
        assert outcome.metrics["train_cost"] == 9.0

    def test_no_loss_is_not_finite_where_there_is_none(self) -> None:
        job = derivation_job(Derivation(kind="squeeze", rank=2), [weights()])
        assert trained(job, QUIET, faults=FaultRates(nan=1.0)).failure is None
        crashed = trained(job, QUIET, faults=FaultRates(crash=1.0)).failure
        assert crashed is not None
        assert crashed.kind == "crashed"

    def test_a_lost_source_is_trained_again(self) -> None:
        maker = job_of(plan_of(), LAST)
        squeeze = derivation_job(Derivation(kind="squeeze", rank=2), [weights()])
        source = replace(squeeze.inherits[0], key=maker.key, address="gone")
        outcome = trained(replace(squeeze, inherits=(source,), ancestors=(maker,)), QUIET)
        assert outcome.cost.optimizer_steps == trained(maker, QUIET).cost.optimizer_steps
        assert outcome.notes == ("trial 10 made again, for its weights are lost",)
        assert outcome.metrics["auroc"] == trained(squeeze, QUIET).metrics["auroc"]

    def test_the_outcome_is_the_same_in_every_repetition(self) -> None:
        job = derivation_job(Derivation(kind="soup", rank=8), [weights(), *unlike(2)])
        assert repr(trained(job)) == repr(trained(job))

    def test_scoring_a_finalist_makes_the_same_weights(self) -> None:
        source = weights(profile=PROFILE)
        squeeze = derivation_job(Derivation(kind="squeeze", rank=16), [source])
        whole = job_of(plan_of(), LAST)
        same, reference = trainer_of().score([squeeze, whole], 0)
        assert same.metrics == reference.metrics
        assert same.difference["auroc"].low == same.difference["auroc"].high == 0


class TestSqueezing:
    def test_less_rank_costs_more_and_little_until_there_are_few_left(self) -> None:
        source = of_quality(0.84, weights())
        values = [squeezed(source, rank=rank).metrics["auroc"] for rank in (1, 2, 4, 8, 16)]
        assert values == sorted(values)
        assert values[-1] == pytest.approx(0.84)
        assert 0.84 - values[-2] < 0.002
        assert 0.84 - values[0] > 0.01

    @pytest.mark.parametrize(
        ("whole", "measured"),
        [
            (0.8408, {8: 0.8393, 4: 0.8375, 2: 0.8321}),
            (0.8379, {4: 0.8374, 2: 0.8335}),
        ],
    )
    def test_the_loss_is_near_the_measured_one(
        self, whole: float, measured: dict[int, float]
    ) -> None:
        source = of_quality(whole, weights())
        for rank, auroc in measured.items():
            found = squeezed(source, rank=rank).metrics["auroc"]
            assert found == pytest.approx(auroc, abs=0.004)

    def test_parameters_follow_the_rank(self) -> None:
        sizes = [squeezed(weights(), rank=rank).trainable_parameters for rank in (2, 4, 16, 32)]
        assert sizes[1:3] == [2 * sizes[0], 8 * sizes[0]]
        assert sizes[3] == sizes[2] == trained(job_of(plan_of(), LAST)).trainable_parameters

    def test_energy_takes_as_little_rank_as_holds_it(self) -> None:
        single = squeezed(weights(), rank=1).trainable_parameters
        for energy in (0.5, 0.9, 0.99):
            outcome = squeezed(weights(), energy=energy)
            rank = outcome.trainable_parameters // single
            assert outcome.inheritance is not None
            assert outcome.inheritance.retained_energy >= energy
            assert energy_share(rank, 16, BELIEF.spectrum) >= energy
            assert energy_share(rank - 1, 16, BELIEF.spectrum) < energy

    def test_a_squeezed_adapter_shares_its_sources_luck(self) -> None:
        source = weights(profile=PROFILE)
        whole, cut = (squeezed(source, PROFILE, rank=rank) for rank in (16, 8))
        assert 0 < whole.metrics["auroc"] - cut.metrics["auroc"] < 0.002
        assert whole.metrics["auroc"] == climbed(plan_of())[-1].metrics["auroc"]

    def test_squeezing_again_starts_from_what_is_left(self) -> None:
        half = squeezed(weights(), rank=4)
        assert half.checkpoint is not None
        quarter = squeezed(weights_at(half.checkpoint), rank=2)
        assert quarter.inheritance is not None
        assert quarter.inheritance.retained_energy == pytest.approx(
            energy_share(2, 4, BELIEF.spectrum)
        )

    def test_a_profile_says_what_it_costs(self) -> None:
        hard = replace(QUIET, inheritance=Inheritance(squeeze_loss=1.0))
        losses = [
            weights().errors["kind"] - weights_at(made.checkpoint or "").errors["kind"]
            for made in (squeezed(weights(), profile, rank=2) for profile in (QUIET, hard))
        ]
        assert losses[1] == pytest.approx(losses[0] / BELIEF.squeeze_loss)


class TestSoups:
    @pytest.mark.parametrize(
        ("members", "shares", "measured"),
        [
            ((0.8379, 0.8168), (0.76, 0.24), 0.8408),
            ((0.8379, 0.8365, 0.8363, 0.8271, 0.8168), (0.2,) * 5, 0.8471),
        ],
    )
    def test_the_gain_is_near_the_measured_one(
        self, members: tuple[float, ...], shares: tuple[float, ...], measured: float
    ) -> None:
        apart = unlike(len(members))
        cooked = [of_quality(auroc, each) for auroc, each in zip(members, apart, strict=True)]
        found = soup(*cooked, shares=shares).metrics["auroc"]
        assert found == pytest.approx(measured, abs=0.002)

    def test_weak_members_spoil_a_blind_average(self) -> None:
        apart = unlike(6)
        qualities = (0.948, 0.94, 0.93, 0.92, 0.75, 0.6)
        cooked = [of_quality(auroc, each) for auroc, each in zip(qualities, apart, strict=True)]
        assert soup(*cooked).metrics["auroc"] < 0.93 < soup(*cooked[:3]).metrics["auroc"]

    def test_like_members_gain_nothing(self) -> None:
        one = weights()
        assert soup(one, one).metrics["auroc"] == pytest.approx(
            trained(job_of(plan_of(), LAST), QUIET).metrics["auroc"]
        )

    @given(shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=6))
    def test_the_gain_grows_with_the_effective_number_of_members(self, shares: list[float]) -> None:
        total = sum(shares)
        parts = [share / total for share in shares]
        mixed = blended(list(zip(parts, MEMBERS, strict=False)), BELIEF)
        gain = MEMBERS[0].errors["kind"] - mixed.errors["kind"]
        assert gain == pytest.approx(BELIEF.diversity * (1 - sum(part**2 for part in parts)))

    def test_what_a_soup_gained_its_child_begins_with(self) -> None:
        made = soup(*unlike(4)).checkpoint
        assert made is not None
        cold, heir = (
            climbed(plan_of(), QUIET, inherits=inherits)
            for inherits in (legacy(address_of(weights())), legacy(made))
        )
        gains = [b.metrics["auroc"] - a.metrics["auroc"] for a, b in zip(cold, heir, strict=True)]
        assert gains[0] > gains[-1] > 0
        assert heir[0].inheritance is not None
        assert not heir[0].inheritance.moments_kept

    def test_weights_are_shares_of_their_sum(self) -> None:
        one, two = unlike(2)
        assert repr(soup(one, two, shares=(3.0, 1.0)).metrics) == repr(
            soup(one, two, shares=(0.75, 0.25)).metrics
        )

    def test_luck_with_the_choice_of_examples_averages_out(self) -> None:
        noisy = replace(QUIET, tasks=PROFILE.tasks, noise=replace(QUIET.noise, shared=0.0))
        model = of_quality(0.8, weights())
        one, two = (replace(model, luck=(Luck(identity=name, step=1),)) for name in "ab")
        alone = [squeezed(each, noisy, rank=16).metrics["auroc"] for each in (one, two)]
        assert alone[0] != pytest.approx(alone[1])
        mixed = soup(one, two, shares=(0.75, 0.25), profile=noisy).metrics["auroc"]
        assert mixed == pytest.approx(0.75 * alone[0] + 0.25 * alone[1])

    def test_luck_averages_out(self) -> None:
        def spread(count: int) -> float:
            members = [weights(plan_of(adapter__rank=4 + i), PROFILE) for i in range(24)]
            cooked = [
                blended([(1 / count, each) for each in members[i : i + count]], BELIEF)
                for i in range(0, 24, count)
            ]
            values = [each.deviation["kind"] for each in cooked]
            middle = sum(values) / len(values)
            return sum((value - middle) ** 2 for value in values) / len(values)

        assert spread(4) < 0.7 * spread(1)

    def test_a_soup_adapts_every_module_of_its_members(self) -> None:
        parts = [
            weights(plan_of(adapter__target_modules=(name,), adapter__rank=4))
            for name in ("query", "value")
        ]
        outcome = soup(*parts, rank=16)
        assert outcome.inheritance is not None
        modules = outcome.inheritance.by_module
        assert {name.rsplit(".", 1)[1] for name in modules} == {"query", "value"}
        assert set(modules.values()) == {1.0}
        assert outcome.trainable_parameters == 4 * 2 * 4 * 128
        assert outcome.inheritance.sources == (10, 11)

    def test_a_soup_needs_more_rank_than_its_members(self) -> None:
        alone = squeezed(weights(), rank=4).inheritance
        together = soup(*unlike(4), rank=4).inheritance
        assert alone is not None
        assert together is not None
        assert together.retained_energy < alone.retained_energy

    def test_magnitudes_are_counted_with_the_parameters(self) -> None:
        how = Derivation(kind="squeeze", rank=2)
        job = derivation_job(how, [weights()])
        plan = replace(job.plan, adapter=replace(job.plan.adapter, dora=True))
        plain, dora = trained(job), trained(replace(job, plan=plan))
        assert dora.trainable_parameters - plain.trainable_parameters == 4 * (64 + 64 + 256)


MEMBERS = unlike(6)


def test_a_run_makes_soups_and_squeezed_adapters_of_its_own() -> None:
    state = run()
    made = [trial for trial in state.trials if trial.candidate.derivation is not None]
    assert {trial.candidate.lineage.operator for trial in made} == {"soup", "squeeze"}
    for trial in made:
        (outcome,) = trial.outcomes
        assert outcome.cost.optimizer_steps == 0
        lines = [
            found.cumulative_steps
            for item in trial.candidate.legacy
            if (found := state.outcome_of(item.trial, item.stage))
        ]
        assert outcome.cumulative_steps == max(lines)


def test_a_profile_without_the_newer_numbers_has_their_defaults(tmp_path: Path) -> None:
    text = dump_profile(replace(QUIET, inheritance=Inheritance(kept=0.7, squeeze_loss=0.5)))
    older = "".join(
        line
        for line in text.splitlines(keepends=True)
        if not line.lstrip().startswith(("spectrum:", "squeeze_loss:", "diversity:"))
    )
    assert older != text
    path = tmp_path / "older.yaml"
    path.write_text(older)
    assert read_profile(path).inheritance == Inheritance(kept=0.7)
