"""Children that begin with their parents' weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import CheckpointError
from coral.evaluate import work_of
from coral.evolution import earned_outcome
from coral.loop import evolve
from coral.plan import TrainingPlan
from coral.ports import TrainingJob
from coral.records import Candidate, Lineage, Outcome, StageFinished, Trial, Verdict
from coral.simulation.profile import Inheritance
from coral.simulation.weights import SimulatedWeights, address_of, retained_share, weights_at
from tests.scripted_runs import MemoryRunStore
from tests.simulation.worlds import (
    QUIET,
    SPEC,
    climbed,
    course_of,
    job_of,
    plan_of,
    ports_of,
    run,
    trained,
    with_evolution,
    world_of,
)

WARM = with_evolution(warm_start=True, generations=3)
PLAN = plan_of(adapter__rank=8, adapter__target_modules=("query", "value"))
KEEPING = replace(QUIET, inheritance=Inheritance(kept=1.0, pooling=0.5))


def parent_of(plan: TrainingPlan = PLAN) -> str:
    address = climbed(plan, KEEPING)[-1].checkpoint
    assert address is not None
    return address


def kept_by(plan: TrainingPlan, parent: str) -> tuple[float, float]:
    """Return the shares of the parent's progress on ``origin`` that a child begins with."""
    start = course_of(plan, inherits=(parent,), profile=KEEPING).start.progress["origin"]
    head, adapter = weights_at(parent).progress["origin"]
    return float(start.head) / head, float(start.adapter) / adapter


def test_a_child_with_its_parents_plan_begins_at_its_progress() -> None:
    assert kept_by(PLAN, parent_of()) == pytest.approx((1.0, 1.0))


def test_a_profile_says_what_share_is_kept() -> None:
    profile = replace(QUIET, inheritance=Inheritance(kept=0.6))
    parent = parent_of()
    start = course_of(PLAN, inherits=(parent,), profile=profile).start.progress["origin"]
    assert float(start.adapter) == pytest.approx(0.6 * weights_at(parent).progress["origin"][1])


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
    changed: dict[str, Any], loses: tuple[bool, bool]
) -> None:
    values = {"adapter__rank": 8, "adapter__target_modules": ("query", "value"), **changed}
    kept = kept_by(plan_of(**values), parent_of())
    assert tuple(share < 0.99 for share in kept) == loses
    assert all(0 < share <= 1 + 1e-6 for share in kept)


@given(ranks=st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64)))
def test_a_smaller_rank_never_keeps_more(ranks: tuple[int, int, int]) -> None:
    parent_rank, small, large = ranks[0], min(ranks[1:]), max(ranks[1:])
    parent = replace(weights_at(parent_of()), rank=parent_rank)
    survey = world_of().survey
    shares = [
        retained_share(plan_of(adapter__rank=rank), parent, survey) for rank in (small, large)
    ]
    assert 0 < shares[0] <= shares[1] <= 1


def test_a_warm_child_is_ahead_of_a_cold_one_from_the_first_stage() -> None:
    cold = climbed(PLAN, KEEPING)
    warm = climbed(PLAN, KEEPING, inherits=(parent_of(),))
    for one, two in zip(cold, warm, strict=True):
        assert two.metrics["auroc"] > one.metrics["auroc"]
    assert warm[0].metrics["auroc"] >= cold[-1].metrics["auroc"]
    assert warm[0].curve.loss[0] < cold[0].curve.loss[0]


def test_cumulative_steps_include_the_parents() -> None:
    parent = climbed(PLAN)[-1]
    assert parent.checkpoint is not None
    child = climbed(PLAN, inherits=(parent.checkpoint,))
    own = [outcome.cumulative_steps for outcome in climbed(PLAN)]
    assert [outcome.cumulative_steps for outcome in child] == [
        parent.cumulative_steps + steps for steps in own
    ]
    assert child[-1].checkpoint is not None
    grandchild = trained(job_of(PLAN, inherits=(child[-1].checkpoint,)))
    assert grandchild.cumulative_steps == 2 * parent.cumulative_steps + own[0]


def test_a_child_of_two_takes_from_each_task_what_is_further() -> None:
    strong = weights_at(parent_of())
    one = replace(strong, progress={"origin": (9.0, 1.0), "kind": (2.0, 5.0)}, steps=40)
    two = replace(strong, progress={"origin": (3.0, 7.0), "kind": (4.0, 6.0)}, steps=99)
    course = course_of(PLAN, inherits=(address_of(one), address_of(two)), profile=KEEPING)
    start = course.start
    assert {name: (p.head, p.adapter) for name, p in start.progress.items()} == {
        "origin": (9.0, 7.0),
        "kind": (4.0, 6.0),
    }
    assert start.steps == 40


def test_a_parent_that_cant_be_read_is_left_out() -> None:
    cold = course_of(PLAN)
    for address in ("sha256:abc", "simulated:", "simulated:[1]", 'simulated:{"steps": 1}'):
        assert course_of(PLAN, inherits=(address,)).start == cold.start
        with pytest.raises(CheckpointError, match="no simulated checkpoint"):
            weights_at(address)


def test_collapsed_weights_pass_on_no_progress() -> None:
    profile = replace(KEEPING, surface=replace(KEEPING.surface, collapse_rate=-9.0, nan_share=0.0))
    address = climbed(PLAN, profile)[-1].checkpoint
    assert address is not None
    assert weights_at(address).progress == {"origin": (0.0, 0.0), "kind": (0.0, 0.0)}
    assert weights_at(address).steps > 0


@given(
    steps=st.integers(0, 10**9),
    epochs=st.floats(0, 1e6),
    progress=st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)),
    targets=st.just("all-linear") | st.just(("query", "value")),
)
def test_an_address_is_the_weights(
    steps: int, epochs: float, progress: tuple[float, float], targets: str | tuple[str, ...]
) -> None:
    weights = SimulatedWeights(
        steps=steps,
        epochs=epochs,
        rank=3,
        layers="top-2",
        targets=targets,
        pooling="mean",
        shares={"origin": 0.25, "kind": 0.75},
        progress={"origin": progress, "kind": (1.0, 2.0)},
    )
    back = weights_at(address_of(weights))
    assert (back.steps, back.targets, back.shares) == (steps, targets, weights.shares)
    assert back.epochs == pytest.approx(epochs, rel=1e-5)
    assert back.progress["origin"] == pytest.approx(progress, rel=1e-5)
    assert address_of(back) == address_of(weights)


def test_a_run_hands_weights_from_parents_to_children() -> None:
    runs = MemoryRunStore()
    state = evolve(WARM, ports_of(WARM, runs))
    children = [trial for trial in state.trials if trial.candidate.lineage.parents]
    assert len(children) > 6
    for child in children:
        parents = [state.trials[number] for number in child.candidate.lineage.parents]
        steps = [outcome.cumulative_steps for p in parents if (outcome := earned_outcome(p))]
        inherited = {
            outcome.cumulative_steps - own
            for outcome, own in zip(child.scored, _own_steps(child), strict=True)
        }
        assert inherited <= set(steps)
        assert len(inherited) <= 1


def _own_steps(trial: Trial) -> list[int]:
    return list(course_of(SPEC.plan_of(trial.candidate)).ends[: len(trial.scored)])


def test_warm_starts_change_the_work_of_children_and_of_nobody_else() -> None:
    state, survey = run(SPEC), world_of().survey
    for trial in state.trials:
        cold = work_of(trial.candidate, state.trials, SPEC, survey)
        warm = work_of(trial.candidate, state.trials, WARM, survey)
        is_child = bool(trial.candidate.lineage.parents)
        assert bool(set(cold.keys) & set(warm.keys)) != is_child
        assert bool(warm.inherits) == is_child
        assert not cold.inherits


def test_other_parents_mean_other_work() -> None:
    state, survey = run(SPEC), world_of().survey
    child = next(t.candidate for t in state.trials if t.candidate.lineage.operator == "mutation")
    keys = {
        work_of(
            replace(child, lineage=replace(child.lineage, parents=(number,))),
            state.trials,
            WARM,
            survey,
        ).keys
        for number in state.population
    }
    assert len(keys) == len(state.population)


def trial_at(number: int, scores: list[float], verdict: Verdict, operator: str = "sobol") -> Trial:
    return Trial(
        candidate=Candidate(
            number=number, generation=0, genome={}, digest="", lineage=Lineage(operator="sobol")
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


DROPPED = Verdict(status="pruned", stage=0, rule="not promoted")
DONE = Verdict(status="completed", stage=2)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (([0.6], DROPPED), ([0.7], DROPPED), ("weights 1-0", "weights 0-0")),
        (([0.7], DROPPED), ([0.6], DROPPED), ("weights 0-0", "weights 1-0")),
        (([0.9], DROPPED), ([0.5, 0.6, 0.7], DONE), ("weights 1-2", "weights 0-0")),
        (([0.6, 0.8, 0.9], DROPPED), ([0.7], DROPPED), ("weights 1-0", "weights 0-0")),
    ],
    ids=["better second", "better first", "further second", "audited first"],
)
@pytest.mark.parametrize("objective", ["auroc", "log_loss"])
def test_the_better_parent_comes_first_by_what_made_it_a_parent(
    one: tuple[list[float], Verdict],
    two: tuple[list[float], Verdict],
    expected: tuple[str, str],
    objective: str,
) -> None:
    direction = "max" if objective == "auroc" else "min"
    primary = replace(SPEC.objectives[0], metric=objective, direction=direction)
    spec = replace(WARM, objectives=(primary,))
    trials = (trial_at(0, *one), trial_at(1, *two))
    child = replace(
        run(SPEC).trials[1].candidate,
        lineage=Lineage(operator="crossover", parents=(0, 1)),
    )
    assert work_of(child, trials, spec, world_of().survey).inherits == expected


def test_auditing_changes_nothing_in_a_warm_search_that_it_checks() -> None:
    unchecked, checked = (
        run(replace(WARM, prune=replace(WARM.prune, audit_fraction=share))) for share in (0.0, 1.0)
    )
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
    by_key: dict[str, set[tuple[str, ...]]] = {}
    for job in jobs:
        by_key.setdefault(job.key, set()).add(job.inherits)
    assert all(len(inherited) == 1 for inherited in by_key.values())
    finished = [e.outcome.key for e in runs.events() if isinstance(e, StageFinished)]
    assert len(jobs) > len(finished)
