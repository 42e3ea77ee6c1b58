"""Children that begin with their parents' weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.evolution.lineage import legacy_of
from coral.loop import evolve
from coral.plan import TrainingPlan
from coral.ports import TrainingJob
from coral.records import Candidate, Legacy, Lineage, Outcome, StageFinished, Trial, Verdict
from coral.retention import RememberedSizes
from coral.simulation import WeightsInAddresses
from coral.simulation.profile import Inheritance
from coral.simulation.transfer import energy_share
from coral.simulation.weights import Luck, Part, SimulatedWeights, address_of, weights_at
from coral.work import work_of
from tests.scripted_runs import MemoryRunStore
from tests.simulation.families import KEEPING, PLAN, address, begun
from tests.simulation.worlds import (
    COLD,
    LADDER,
    QUIET,
    SPEC,
    climbed,
    course_of,
    job_of,
    legacy,
    plan_of,
    ports_of,
    run,
    trained,
    with_evolution,
    world_of,
)

WARM = with_evolution(generations=3)


def kept_by(plan: TrainingPlan, parent: str) -> tuple[float, float]:
    """Return the shares of the parent's progress on ``origin`` that a child begins with."""
    child = begun(plan, parent).weights.progress["origin"]
    head, adapter = weights_at(parent).progress["origin"]
    return child[0] / head, child[1] / adapter


class TestOneParent:
    def test_a_child_with_its_parents_plan_begins_at_its_progress(self) -> None:
        assert kept_by(PLAN, address()) == pytest.approx((1.0, 1.0))

    def test_a_profile_says_what_share_is_kept(self) -> None:
        parent = address()
        made = begun(PLAN, parent, profile=replace(QUIET, inheritance=Inheritance(kept=0.6)))
        theirs = weights_at(parent).progress["origin"]
        assert made.weights.progress["origin"][1] == pytest.approx(0.6 * theirs[1])

    @pytest.mark.parametrize(
        ("changed", "loses"),
        [
            ({"adapter__rank": 4}, (False, True)),
            ({"adapter__target_modules": ("query",)}, (False, True)),
            ({"adapter__layers": "top-2"}, (False, True)),
            ({"encoding__pooling": "cls"}, (True, False)),
            ({"tasks__weights": {"origin": 0.8, "kind": 0.2}}, (True, True)),
            ({"adapter__rank": 32}, (False, False)),
            ({"adapter__target_modules": "all-linear"}, (False, False)),
            ({"schedule__learning_rate": 1e-3}, (False, False)),
        ],
    )
    def test_what_a_child_changes_decides_what_it_loses(
        self, changed: dict[str, Any], loses: tuple[bool, bool]
    ) -> None:
        values = {"adapter__rank": 8, "adapter__target_modules": ("query", "value"), **changed}
        kept = kept_by(plan_of(**values), address())
        assert tuple(share < 0.99 for share in kept) == loses
        assert all(0 < share <= 1 + 1e-6 for share in kept)

    @given(
        ranks=st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64)),
        spread=st.floats(0.5, 20),
    )
    def test_a_smaller_rank_never_keeps_more(
        self, ranks: tuple[int, int, int], spread: float
    ) -> None:
        full, small, large = ranks[0], min(ranks[1:]), max(ranks[1:])
        shares = [energy_share(rank, full, spread) for rank in (small, large)]
        assert 0 < shares[0] <= shares[1] <= 1
        assert (shares[1] == 1) == (large >= full) or shares[1] > 1 - 1e-12

    def test_what_was_kept_is_told_module_by_module(self) -> None:
        account = begun(plan_of(adapter__rank=4, adapter__target_modules=("query",)), address())
        kept = energy_share(4, 8, KEEPING.inheritance.spectrum)
        expected = {
            f"layer.{layer}.{name}": pytest.approx(kept if name == "query" else 0, abs=1e-6)
            for layer in range(4)
            for name in ("query", "value")
        }
        assert account.account.by_module == expected
        assert account.account.retained_energy == pytest.approx(kept / 2)
        assert account.account.sources == (10,)
        assert set(expected) <= {module.name for module in world_of().survey.linear_modules}

    @pytest.mark.parametrize(("rank", "kept"), [(4, False), (8, True), (16, True)])
    def test_moments_are_kept_unless_a_module_shrinks(self, rank: int, kept: bool) -> None:
        plan = plan_of(adapter__rank=rank, adapter__target_modules=("query", "value"))
        assert begun(plan, address()).account.moments_kept == kept

    def test_a_warm_child_is_ahead_of_a_cold_one_from_the_first_stage(self) -> None:
        cold = climbed(PLAN, KEEPING)
        warm = climbed(PLAN, KEEPING, inherits=legacy(address()))
        for one, two in zip(cold, warm, strict=True):
            assert two.metrics["auroc"] > one.metrics["auroc"]
        assert warm[0].metrics["auroc"] >= cold[-1].metrics["auroc"]
        assert warm[0].curve.loss[0] < cold[0].curve.loss[0]

    def test_a_child_of_a_lucky_parent_is_lucky_at_first(self) -> None:
        parent = weights_at(address())
        means = []
        for luck in (-0.5, 0.0):
            blessed = replace(parent, deviation=dict.fromkeys(parent.deviation, luck))
            outcomes = climbed(PLAN, KEEPING, inherits=legacy(address_of(blessed)))
            means.append([outcome.metrics["auroc"] for outcome in outcomes])
        gains = [lucky - usual for lucky, usual in zip(*means, strict=True)]
        assert gains == sorted(gains, reverse=True)
        assert gains[0] > gains[-1] > 0

    def test_training_narrows_what_blending_spread(self) -> None:
        broad = replace(weights_at(address()), breadth=3.0)
        course = course_of(PLAN, inherits=legacy(address_of(broad)), profile=KEEPING)
        found = [course.weights_at(end).breadth for end in course.ends]
        assert 3 > found[0] > found[1] > found[2] > 1

    def test_lost_moments_cost_a_second_warm_up(self) -> None:
        parent = weights_at(address())
        plan = plan_of(schedule__warmup_ratio=0.0, inheritance__rewarmup_ratio=0.5)
        kept, lost = (
            course_of(
                plan,
                inherits=legacy(address_of(replace(parent, has_moments=has))),
                profile=KEEPING,
            )
            for has in (True, False)
        )
        assert lost.done.time[0] < 0.1 * kept.done.time[0]
        assert lost.done.time[-1] < kept.done.time[-1]


class TestTheEntryStage:
    @pytest.mark.parametrize("entry", [0, 1, 2])
    def test_only_the_stages_from_the_entry_on_are_trained(self, entry: int) -> None:
        parent = climbed(PLAN)[-1]
        assert parent.checkpoint is not None
        ends = [0, *course_of(PLAN).ends]
        child = climbed(PLAN, inherits=legacy(parent.checkpoint), entry=entry)
        own = [ends[stage + 1] - ends[stage] for stage in range(entry, len(LADDER))]
        assert [outcome.cost.optimizer_steps for outcome in child] == own
        assert [outcome.cost.examples for outcome in child] == [16 * steps for steps in own]
        assert child[0].curve.step[0] == ends[entry] + 1
        assert child[-1].cumulative_steps == parent.cumulative_steps + sum(own)

    def test_what_is_not_trained_teaches_nothing(self) -> None:
        parent = replace(weights_at(address()), epochs=0.0)
        whole, late = (
            course_of(PLAN, inherits=legacy(address_of(parent)), entry=entry, profile=KEEPING)
            for entry in (0, 2)
        )
        before = slice(0, late.first)
        assert not late.done.time[before].any()
        assert late.done.time[-1] == pytest.approx(
            whole.done.time[-1] - whole.done.time[late.first - 1]
        )
        assert late.done.epochs[late.first] == pytest.approx(16 / 1200)
        assert whole.weights_at(whole.horizon).errors != late.weights_at(late.horizon).errors

    def test_a_lost_checkpoint_means_training_again_from_the_entry_on(self) -> None:
        fields = {"inherits": legacy(address()), "entry": 1}
        first = trained(job_of(PLAN, 1, **fields))
        job = job_of(PLAN, 2, resume_from=first.checkpoint, **fields)
        whole, lost = trained(job), trained(replace(job, resume_from=None))
        assert lost.cost.optimizer_steps == (
            first.cost.optimizer_steps + whole.cost.optimizer_steps
        )
        assert replace(lost, cost=whole.cost) == whole

    def test_only_the_entry_stages_outcome_tells_what_was_kept(self) -> None:
        outcomes = climbed(PLAN, inherits=legacy(address()), entry=1)
        assert [outcome.inheritance is not None for outcome in outcomes] == [True, False]
        assert all(outcome.inheritance is None for outcome in climbed(PLAN))

    def test_a_collapse_in_a_stage_that_is_not_trained_does_not_happen(self) -> None:
        surface = replace(KEEPING.surface, collapse_rate=-9.0)
        profile = replace(KEEPING, surface=surface)
        parent, falls = legacy(address()), {0: 0, 2: 0}
        for entry in falls:
            for seed in range(60):
                course = course_of(PLAN, seed=seed, profile=profile, inherits=parent, entry=entry)
                step = course.fate.collapse_step
                falls[entry] += step is not None
                assert step is None or step >= course.first
        assert falls[0] == 60 > falls[2] > 0


def test_cumulative_steps_include_the_parents() -> None:
    parent = climbed(PLAN)[-1]
    assert parent.checkpoint is not None
    child = climbed(PLAN, inherits=legacy(parent.checkpoint))
    own = [outcome.cumulative_steps for outcome in climbed(PLAN)]
    assert [outcome.cumulative_steps for outcome in child] == [
        parent.cumulative_steps + steps for steps in own
    ]
    assert child[-1].checkpoint is not None
    grandchild = trained(job_of(PLAN, inherits=legacy(child[-1].checkpoint)))
    assert grandchild.cumulative_steps == 2 * parent.cumulative_steps + own[0]


def test_the_cost_of_weights_includes_their_line() -> None:
    parent = climbed(PLAN)[-1]
    assert parent.checkpoint is not None
    child = climbed(PLAN, inherits=legacy(parent.checkpoint), entry=1)
    spent = sum(outcome.cost.teraflops for outcome in child)
    assert child[-1].metrics["train_cost"] == pytest.approx(parent.metrics["train_cost"] + spent)


def test_collapsed_weights_pass_on_no_progress() -> None:
    profile = replace(KEEPING, surface=replace(KEEPING.surface, collapse_rate=-9.0, nan_share=0.0))
    weights = weights_at(address(profile=profile))
    assert weights.progress == {"origin": (0.0, 0.0), "kind": (0.0, 0.0)}
    assert weights.errors == {"origin": 0.0, "kind": 0.0}
    assert weights.steps > 0


finite = st.floats(-1e9, 1e9)


@given(
    steps=st.integers(0, 10**9),
    values=st.lists(finite, min_size=9, max_size=9),
    targets=st.just("all-linear") | st.just(("query", "value")),
)
def test_an_address_is_the_weights(
    steps: int, values: list[float], targets: str | tuple[str, ...]
) -> None:
    weights = SimulatedWeights(
        steps=steps,
        teraflops=values[0],
        epochs=values[1],
        rank=3,
        parts=(
            Part(rank=2, layers="top-2", targets=targets),
            Part(rank=1, layers="all", targets="x"),
        ),
        breadth=values[2],
        place=(values[3], values[4]),
        has_moments=True,
        pooling="mean",
        shares={"origin": 0.25, "kind": 0.75},
        progress={"origin": (values[5], values[6]), "kind": (1.0, 2.0)},
        deviation={"origin": values[7], "kind": 0.1},
        errors={"origin": values[8], "kind": -0.1},
        overfitted=0.3,
        luck=(Luck(identity="a", step=3, share=0.5), Luck(identity="b", step=1, share=0.5)),
    )
    assert weights_at(address_of(weights)) == weights


def test_every_address_is_held_whoever_remembers_sizes() -> None:
    store = RememberedSizes(WeightsInAddresses())
    parent = address()
    assert store.holds(parent)
    store.discard([parent])
    assert store.holds(parent)
    assert not store.holds("sha256:abc")
    assert weights_at(store.put(store.get(parent))) == weights_at(parent)


def test_a_run_hands_weights_from_parents_to_children() -> None:
    state = run(WARM)
    children = [t for t in state.trials if t.candidate.legacy and not t.candidate.derivation]
    assert len(children) > 6
    for child in children:
        steps = [
            outcome.cumulative_steps
            for item in child.candidate.legacy
            if (outcome := state.outcome_of(item.trial, item.stage))
        ]
        inherited = {
            outcome.cumulative_steps - own
            for outcome, own in zip(child.scored, _own_steps(child), strict=True)
        }
        assert len(inherited) <= 1
        assert inherited <= set(steps)
        if child.scored and child.scored[0].inheritance:
            used = child.scored[0].inheritance.sources
            assert inherited == {max(steps[: len(used)])}


def _own_steps(trial: Trial) -> list[int]:
    """Return the optimizer steps of a trial's own by the end of each stage that it trained."""
    ends = [0, *course_of(SPEC.plan_of(trial.candidate)).ends]
    entry = trial.candidate.entry
    return [end - ends[entry] for end in ends[entry + 1 :]][: len(trial.scored)]


def test_warm_starts_change_the_work_of_children_and_of_nobody_else() -> None:
    state, survey = run(WARM), world_of().survey
    for trial in state.trials:
        if trial.candidate.derivation is None:
            stripped = replace(trial.candidate, legacy=(), entry=0)
            cold = work_of(stripped, state, SPEC, survey)
            warm = work_of(trial.candidate, state, SPEC, survey)
            is_heir = bool(trial.candidate.legacy)
            assert bool(set(cold.keys) & set(warm.keys)) != is_heir
            assert bool(warm.inherits) == is_heir
            assert not cold.inherits


def test_other_parents_mean_other_work() -> None:
    state, survey = run(COLD), world_of().survey
    child = next(t.candidate for t in state.trials if t.candidate.lineage.operator == "mutation")
    parents = [state.trials[number] for number in state.population]
    keys = {
        work_of(
            replace(child, legacy=(Legacy(trial=parent.number, stage=parent.verdict.stage),)),
            state,
            SPEC,
            survey,
        ).keys
        for parent in parents
    }
    assert len(keys) == len(state.population)


GENOME = SPEC.space.values_of(SPEC.training)
DROPPED = Verdict(status="pruned", stage=0, rule="not promoted")
DONE = Verdict(status="completed", stage=2)


def trial_at(number: int, scores: list[float], verdict: Verdict) -> Trial:
    return Trial(
        candidate=Candidate(
            number=number,
            generation=0,
            genome=GENOME,
            digest="",
            lineage=Lineage(operator="sobol"),
        ),
        outcomes=tuple(
            Outcome(
                key=f"{number}-{stage}",
                stage=stage,
                metrics={"auroc": score, "log_loss": 1 - score, "trainable_parameters": 1.0},
                checkpoint=f"weights {number}-{stage}",
            )
            for stage, score in enumerate(scores)
        ),
        verdict=verdict,
    )


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (([0.6], DROPPED), ([0.7], DROPPED), [(1, 0), (0, 0)]),
        (([0.7], DROPPED), ([0.6], DROPPED), [(0, 0), (1, 0)]),
        (([0.9], DROPPED), ([0.5, 0.6, 0.7], DONE), [(1, 2), (0, 0)]),
        (([0.6, 0.8, 0.9], DROPPED), ([0.7], DROPPED), [(1, 0), (0, 0)]),
    ],
    ids=["better second", "better first", "further second", "audited first"],
)
@pytest.mark.parametrize("objective", ["auroc", "log_loss"])
def test_the_better_parent_comes_first_by_what_made_it_a_parent(
    one: tuple[list[float], Verdict],
    two: tuple[list[float], Verdict],
    expected: list[tuple[int, int]],
    objective: str,
) -> None:
    direction = "max" if objective == "auroc" else "min"
    primary = replace(SPEC.objectives[0], metric=objective, direction=direction)
    parents = (trial_at(0, *one), trial_at(1, *two))
    found = legacy_of(GENOME, parents, replace(WARM, objectives=(primary,)))
    assert [(item.trial, item.stage) for item in found] == expected


def test_auditing_changes_nothing_in_a_warm_search_that_it_checks() -> None:
    spec = replace(WARM, soup=COLD.soup, squeeze=COLD.squeeze, confirm=COLD.confirm)
    unchecked, checked = (
        run(replace(spec, prune=replace(spec.prune, audit_fraction=share))) for share in (0.0, 1.0)
    )
    assert any(trial.candidate.legacy for trial in checked.trials)
    assert [t.candidate for t in checked.trials] == [t.candidate for t in unchecked.trials]
    assert checked.population == unchecked.population
    assert checked.ledger.search == unchecked.ledger.search
    assert checked.ledger.audit.optimizer_steps > unchecked.ledger.audit.optimizer_steps == 0


def test_a_finalist_inherits_what_its_trial_inherited() -> None:
    runs, jobs = MemoryRunStore(), []

    class Watched:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def run(self, given: list[TrainingJob]) -> Any:
            jobs.extend(given)
            return self.inner.run(given)

        def score(self, finalists: list[TrainingJob], seed: int) -> Any:
            jobs.extend(finalists)
            return self.inner.score(finalists, seed)

    ports = ports_of(WARM, runs)
    evolve(WARM, replace(ports, executor=Watched(ports.executor)))
    by_key: dict[str, set[Any]] = {}
    for job in jobs:
        by_key.setdefault(job.key, set()).add((job.inherits, job.entry, job.derivation))
    assert all(len(inherited) == 1 for inherited in by_key.values())
    finished = [e.outcome.key for e in runs.events() if isinstance(e, StageFinished)]
    assert len(jobs) > len(finished)
