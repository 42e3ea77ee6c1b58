from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.fidelity.stages import Stage, ladder_steps
from coral.plan import TrainingPlan, difficulty_limit, with_values
from coral.rng import stream
from coral.training.batches import (
    BUCKET_WINDOW,
    TrainIndex,
    build_index,
    examples_by_task,
    fraction,
    stage_batches,
)

LADDER = (
    Stage(name="short", epoch_budget=0.1, data_percentage=5, survival_rate=1),
    Stage(name="middle", epoch_budget=0.5, data_percentage=20, survival_rate=1),
    Stage(name="long", epoch_budget=2, data_percentage=100, survival_rate=1),
)
STAGES = range(len(LADDER))
seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 150), min_size=1, max_size=3)


def index_of(sizes: list[int], *, classes: int = 3, seed: int = 0) -> TrainIndex:
    """Tasks of the given sizes, with labels and lengths drawn at random."""
    rng = stream(seed, "test_batches")
    names = [f"task{number}" for number in range(len(sizes))]
    labels = {
        name: rng.integers(classes, size=size) for name, size in zip(names, sizes, strict=True)
    }
    lengths = {name: rng.integers(3, 65, size=len(labels[name])) for name in names}
    return build_index(labels, lengths, seed)


def plan_of(batch_size: int = 8, **values: object) -> TrainingPlan:
    return with_values(TrainingPlan(), {"schedule.batch_size": batch_size, **values})


plans = st.builds(
    lambda batch_size, kind, initial, final, ramp: plan_of(
        batch_size,
        **{
            "curriculum.kind": kind,
            "curriculum.initial_difficulty": initial,
            "curriculum.final_difficulty": final,
            "curriculum.ramp": ramp,
        },
    ),
    st.integers(1, 32),
    st.sampled_from(["none", "progressive"]),
    st.floats(0.05, 1),
    st.floats(0.05, 1),
    st.floats(0, 1),
)


@given(sizes=sizes, classes=st.integers(1, 6), seed=seeds)
@settings(max_examples=50, deadline=None)
def test_a_smaller_data_fraction_lies_within_a_larger_one(
    sizes: list[int], classes: int, seed: int
) -> None:
    index = index_of(sizes, classes=classes, seed=seed)
    for task, size in enumerate(sizes):
        parts = [fraction(index, task, percentage) for percentage in (5, 20, 100)]
        for smaller, larger in pairwise(parts):
            assert set(smaller) <= set(larger)
        assert [len(part) for part in parts] == [max(1, -(-size // 20)), -(-size // 5), size]
        assert (index.task[parts[-1]] == task).all()


@given(
    counts=st.lists(st.integers(1, 80), min_size=1, max_size=6),
    percentage=st.floats(1, 100),
    seed=seeds,
)
@settings(max_examples=100, deadline=None)
def test_a_data_fraction_holds_about_its_share_of_every_class(
    counts: list[int], percentage: float, seed: int
) -> None:
    labels = stream(seed, "shuffle").permutation(np.repeat(np.arange(len(counts)), counts))
    index = build_index({"task": labels}, {"task": np.ones(len(labels), np.int64)}, seed)
    part = labels[fraction(index, 0, percentage)]
    for label, count in enumerate(counts):
        exact = count * percentage / 100
        slack = 1 + (len(counts) + 1) * count / len(labels)  # a threshold cuts every class once
        assert abs(np.sum(part == label) - exact) <= slack


def test_data_fractions_depend_on_the_seed() -> None:
    one, two = (fraction(index_of([100], seed=seed), 0, 20) for seed in (0, 1))
    assert not np.array_equal(one, two)


@given(sizes=sizes, plan=plans, seed=seeds)
@settings(max_examples=50, deadline=None)
def test_every_stage_has_the_steps_of_the_ladder_in_whole_batches(
    sizes: list[int], plan: TrainingPlan, seed: int
) -> None:
    index = index_of(sizes)
    ends = [0, *ladder_steps(LADDER, len(index), plan.schedule.batch_size)]
    for stage in STAGES:
        batches = stage_batches(plan, index, LADDER, stage, seed)
        assert len(batches) == ends[stage + 1] - ends[stage]
        assert {batch.shape for batch in batches} == {(plan.schedule.batch_size,)}


@given(sizes=sizes, plan=plans, seed=seeds)
@settings(max_examples=25, deadline=None)
def test_batches_are_a_pure_function_of_plan_data_and_seed(
    sizes: list[int], plan: TrainingPlan, seed: int
) -> None:
    np.random.seed(seed % 2**32)
    first = {s: stage_batches(plan, index_of(sizes), LADDER, s, seed) for s in STAGES}
    again = {s: stage_batches(plan, index_of(sizes), LADDER, s, seed) for s in reversed(STAGES)}
    for stage in STAGES:
        np.testing.assert_array_equal(first[stage], again[stage])


def test_batches_do_not_depend_on_anything_that_is_trained_otherwise() -> None:
    index = index_of([120, 60])
    plain = stage_batches(plan_of(), index, LADDER, 2, seed=0)
    other = plan_of(**{"adapter.rank": 2, "schedule.learning_rate": 1.0, "adapter.dora": True})
    np.testing.assert_array_equal(stage_batches(other, index, LADDER, 2, seed=0), plain)


def test_batches_depend_on_the_seed() -> None:
    index = index_of([120, 60])
    one, two = (stage_batches(plan_of(), index, LADDER, 2, seed) for seed in (0, 1))
    assert not np.array_equal(one, two)


@given(sizes=sizes, plan=plans, seed=seeds)
@settings(max_examples=50, deadline=None)
def test_a_stage_draws_from_its_own_data_fraction_alone(
    sizes: list[int], plan: TrainingPlan, seed: int
) -> None:
    index = index_of(sizes)
    for stage in STAGES:
        allowed = {
            row
            for task in range(len(sizes))
            for row in fraction(index, task, LADDER[stage].data_percentage)
        }
        assert set(np.concatenate(stage_batches(plan, index, LADDER, stage, seed))) <= allowed


@given(
    weights=st.lists(st.floats(0, 1), min_size=2, max_size=4).filter(lambda w: sum(w) > 0.1),
    batch_size=st.integers(1, 32),
    seed=seeds,
)
@settings(max_examples=50, deadline=None)
def test_tasks_get_their_shares_to_within_one_example(
    weights: list[float], batch_size: int, seed: int
) -> None:
    index = index_of([60] * len(weights))
    shares = {f"task{i}": weight / sum(weights) for i, weight in enumerate(weights)}
    plan = plan_of(batch_size, **{"tasks.weights": shares})
    for stage in STAGES:
        drawn = index.task[np.concatenate(stage_batches(plan, index, LADDER, stage, seed))]
        counts = np.bincount(drawn, minlength=len(weights))
        exact = np.array(list(shares.values())) * len(drawn)
        assert np.abs(counts - exact).max() <= 1


@given(sizes=sizes, plan=plans, seed=seeds)
@settings(max_examples=100, deadline=None)
def test_the_curriculum_shows_nothing_harder_than_its_limit(
    sizes: list[int], plan: TrainingPlan, seed: int
) -> None:
    index = index_of(sizes)
    ends = [0, *ladder_steps(LADDER, len(index), plan.schedule.batch_size)]
    for stage in STAGES:
        easiest = [
            index.difficulty[fraction(index, task, LADDER[stage].data_percentage)].min()
            for task in range(len(sizes))
        ]
        for done, batch in enumerate(stage_batches(plan, index, LADDER, stage, seed)):
            start = ends[stage] + done - done % BUCKET_WINDOW  # the limit is the window's
            limit = difficulty_limit(plan.curriculum, start / ends[-1])
            for row in batch:
                # A fraction without an easy example gives its easiest one.
                assert index.difficulty[row] <= max(limit, easiest[index.task[row]])


def test_a_progressive_curriculum_goes_from_short_texts_to_long_ones() -> None:
    index = index_of([2000])
    plan = plan_of(**{"curriculum.kind": "progressive", "curriculum.ramp": 1.0})
    once = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
    batches = stage_batches(plan, index, once, 0, seed=0)
    lengths = [index.length[batch].mean() for batch in batches]
    assert np.mean(lengths[:50]) < np.mean(lengths[100:150]) < np.mean(lengths[-50:])


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3), seed=seeds)
@settings(max_examples=50, deadline=None)
def test_one_epoch_at_proportional_weights_shows_each_example_once(
    sizes: list[int], seed: int
) -> None:
    sizes = [8 * size for size in sizes]
    index = index_of(sizes)
    weights = {f"task{i}": size / sum(sizes) for i, size in enumerate(sizes)}
    once = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
    batches = stage_batches(plan_of(8, **{"tasks.weights": weights}), index, once, 0, seed)
    assert sorted(np.concatenate(batches)) == list(range(len(index)))


def test_no_example_comes_twice_before_all_came_once() -> None:
    index = index_of([50])
    twice = (Stage(name="only", epoch_budget=1.6, data_percentage=100, survival_rate=1),)
    drawn = np.concatenate(stage_batches(plan_of(5), index, twice, 0, seed=0))
    counts = np.bincount(drawn, minlength=50)
    assert set(counts) == {1, 2}


def test_bucketing_by_length_halves_the_padding_or_better() -> None:
    index = index_of([2000])
    once = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
    batches = np.stack(stage_batches(plan_of(16), index, once, 0, seed=0))
    unsorted = stream(0, "unsorted").permutation(batches.reshape(-1)).reshape(batches.shape)
    padding = [
        (index.length[rows].max(axis=1, keepdims=True) - index.length[rows]).mean()
        for rows in (batches, unsorted)
    ]
    assert padding[0] < padding[1] / 2


def test_batches_within_a_window_come_in_random_order_of_length() -> None:
    index = index_of([2000])
    once = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
    batches = stage_batches(plan_of(16), index, once, 0, seed=0)[:BUCKET_WINDOW]
    lengths = [float(index.length[batch].mean()) for batch in batches]
    assert lengths != sorted(lengths)


def test_difficulty_is_the_rank_of_the_length_within_the_task() -> None:
    labels = {"one": np.zeros(4, np.int64), "two": np.zeros(2, np.int64)}
    index = build_index(labels, {"one": np.array([9, 3, 9, 5]), "two": np.array([50, 40])}, seed=0)
    assert index.difficulty.tolist() == pytest.approx([0.75, 0.25, 1.0, 0.5, 1.0, 0.5])


def test_batches_are_made_without_torch() -> None:
    code = "import sys, coral.training.batches; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_heir_goes_on_where_its_parents_stopped() -> None:
    """Together they see every example once before either of them sees one twice."""
    index = index_of([40, 40])
    half = (Stage(name="half", epoch_budget=0.5, data_percentage=100, survival_rate=1),)
    parents = stage_batches(plan_of(8), index, half, 0, seed=0)
    seen = examples_by_task(index, parents)
    heirs = stage_batches(plan_of(8), index, half, 0, seed=0, seen=seen)
    both = np.concatenate([*parents, *heirs])
    assert len(set(both.tolist())) == len(both) == len(index)


def test_a_line_of_heirs_sees_every_example_equally_often() -> None:
    index = index_of([40])
    short = (Stage(name="short", epoch_budget=0.75, data_percentage=100, survival_rate=1),)
    line: list[int] = []
    for done in (30, 60, 90, 120):
        drawn = stage_batches(plan_of(5), index, short, 0, seed=0, seen=(len(line),))
        line += np.concatenate(drawn).tolist()
        times = np.bincount(line, minlength=40)
        assert (times.sum(), times.max() - times.min() <= 1) == (done, True)


def stratified_index(size: int = 400) -> TrainIndex:
    """One task; a quarter of its examples, the long ones, are of a stratum of their own."""
    strata = (np.arange(size) % 4 == 0).astype(np.int64)
    lengths = stream(0, "stratified").integers(3, 20, size) + 100 * strata
    return build_index({"task": strata}, {"task": lengths}, seed=0, keep_strata=True)


@pytest.mark.parametrize("percentage", [5, 20, 50])
def test_fractions_keep_the_shares_of_strata(percentage: float) -> None:
    index = stratified_index()
    assert index.stratum is not None
    drawn = index.stratum[fraction(index, 0, percentage)]
    assert drawn.mean() == pytest.approx(0.25, abs=1 / len(drawn))


def test_every_batch_keeps_the_shares_of_strata_though_one_is_longer() -> None:
    index = stratified_index()
    assert index.stratum is not None
    once = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
    batches = stage_batches(plan_of(8), index, once, 0, seed=0)
    counts = [int(index.stratum[batch].sum()) for batch in batches]
    assert set(counts) <= {1, 2, 3}
    assert counts.count(2) > len(counts) / 2
    assert len(np.unique(np.concatenate(batches))) == 400
    short = [index.length[batch][index.stratum[batch] == 0] for batch in batches]
    assert np.mean([np.ptp(lengths) for lengths in short]) < 6
