from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.errors import StrategyError
from coral.fidelity.stages import Stage, ladder_steps
from coral.plan import (
    CURRICULA,
    SAMPLERS,
    CurriculumPlan,
    SamplingPlan,
    TaskRows,
    TrainingPlan,
    difficulty_limit,
    with_values,
)
from coral.ports import Strategies
from coral.rng import stream
from coral.training.batches import (
    BUCKET_WINDOW,
    TrainIndex,
    build_index,
    examples_by_task,
    fraction,
    loss_weights_of,
    stage_batches,
    strata,
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


ONCE = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
LONG = (Stage(name="only", epoch_budget=20, data_percentage=100, survival_rate=1),)


def skewed(*counts: int) -> TrainIndex:
    """A task with so many examples of each class, in random order."""
    labels = stream(0, "skewed").permutation(np.repeat(np.arange(len(counts)), counts))
    lengths = stream(0, "lengths").integers(3, 65, len(labels))
    return build_index({"task": labels}, {"task": lengths}, seed=0)


def shares(index: TrainIndex, batches: list[np.ndarray]) -> list[float]:
    """Each class's share of what was drawn."""
    drawn = index.examples[0].labels[np.concatenate(batches)]
    return (
        np.bincount(drawn, minlength=int(index.examples[0].labels.max()) + 1) / len(drawn)
    ).tolist()


class TestSampling:
    def test_equal_weights_are_to_the_bit_what_there_was_without_samplers(self) -> None:
        """A pass is a permutation of the rows, drawn from the stream that it always was."""
        index = index_of([40])
        drawn = np.concatenate(stage_batches(plan_of(8), index, ONCE, 0, seed=3))
        once = stream(3, "order", 0, "task0", 0).permutation(np.arange(40))
        assert sorted(drawn) == sorted(once)
        window = once[np.argsort(index.length[once], kind="stable")].reshape(-1, 8)
        expected = window[stream(3, "buckets", 0, 0).permutation(5)]
        np.testing.assert_array_equal(drawn, expected.reshape(-1))

    def test_any_equal_weights_are_alike(self) -> None:
        index = index_of([120])
        sevenths = Strategies(samplers={"uniform": lambda plan, rows: np.full(len(rows), 1 / 7)})
        one, two = (
            stage_batches(plan_of(), index, LADDER, 2, 0, strategies=known)
            for known in (Strategies(), sevenths)
        )
        np.testing.assert_array_equal(one, two)

    @pytest.mark.parametrize(
        ("strength", "expected"), [(1.0, [1 / 3] * 3), (0.5, [0.54, 0.31, 0.15])]
    )
    def test_balanced_sampling_draws_classes_alike_as_far_as_its_strength_goes(
        self, strength: float, expected: list[float]
    ) -> None:
        index = skewed(520, 170, 40)
        plan = plan_of(10, **{"sampling.kind": "balanced", "sampling.strength": strength})
        found = shares(index, stage_batches(plan, index, LONG, 0, seed=0))
        assert found == pytest.approx(expected, abs=0.01)

    def test_within_a_class_nobody_comes_more_than_once_more_than_another_in_a_pass(self) -> None:
        index = skewed(300, 30)
        plan = plan_of(10, **{"sampling.kind": "balanced"})
        drawn = np.concatenate(stage_batches(plan, index, ONCE, 0, seed=0))
        times = np.bincount(drawn, minlength=len(index))
        for label in (0, 1):
            own = times[index.examples[0].labels == label]
            assert own.max() - own.min() <= 1
        assert set(times[index.examples[0].labels == 1]) <= {5, 6}

    def test_what_weighs_nothing_is_never_drawn(self) -> None:
        index = index_of([60])
        odd = Strategies(
            samplers={**SAMPLERS, "odd": lambda plan, rows: np.arange(len(rows)) % 2.0}
        )
        plan = plan_of(**{"sampling.kind": "odd", "curriculum.kind": "progressive"})
        drawn = np.concatenate(stage_batches(plan, index, LONG, 0, 0, strategies=odd))
        assert set(drawn % 2) == {1}

    def test_where_only_what_weighs_nothing_is_let_in_the_easiest_of_the_rest_is_drawn(
        self,
    ) -> None:
        index = index_of([60])
        hard = Strategies(samplers={**SAMPLERS, "hard": lambda plan, rows: rows.difficulty > 0.5})
        values = {"sampling.kind": "hard", "curriculum.kind": "progressive", "curriculum.ramp": 1.0}
        batches = stage_batches(plan_of(**values), index, LONG, 0, 0, strategies=hard)
        assert set(index.difficulty[batches[0]]) == {31 / 60}

    def test_what_is_let_in_and_hardly_weighs_anything_is_drawn_all_the_same(self) -> None:
        """Passes without any of it would go on for ever."""

        def hard_ones(plan: SamplingPlan, rows: TaskRows) -> np.ndarray:
            return np.where(rows.difficulty > 0.5, 1.0, 1e-300)

        known = Strategies(samplers={**SAMPLERS, "hard": hard_ones})
        index = index_of([60])
        values = {"curriculum.kind": "progressive", "curriculum.ramp": 1.0}
        plan = plan_of(**{"sampling.kind": "hard", **values})
        batches = stage_batches(plan, index, LONG, 0, 0, strategies=known)
        assert index.difficulty[batches[0]].max() <= 0.5
        assert index.difficulty[np.concatenate(batches[-40:])].min() > 0.5

    def test_weights_are_those_of_the_examples_that_the_stage_may_draw(self) -> None:
        asked: list[TaskRows] = []

        def note(plan: SamplingPlan, rows: TaskRows) -> np.ndarray:
            asked.append(rows)
            return np.ones(len(rows))

        index = index_of([100, 40])
        stage_batches(
            plan_of(), index, LADDER, 1, 0, strategies=Strategies(samplers={"uniform": note})
        )
        assert [(rows.task, len(rows)) for rows in asked] == [("task0", 20), ("task1", 8)]
        rows = fraction(index, 1, 20)
        np.testing.assert_array_equal(asked[1].labels, index.examples[1].labels[rows - 100])
        np.testing.assert_array_equal(asked[1].lengths, index.length[rows])
        np.testing.assert_array_equal(asked[1].difficulty, index.difficulty[rows])

    def test_a_sampler_that_breaks_the_rules_is_refused(self) -> None:
        broken = Strategies(samplers={"uniform": lambda plan, rows: np.ones(3)})
        with pytest.raises(StrategyError, match="sampler 'uniform': it must return 50 weights"):
            stage_batches(plan_of(), index_of([50]), ONCE, 0, 0, strategies=broken)

    def test_a_name_that_is_not_at_hand_is_refused(self) -> None:
        plan = plan_of(**{"sampling.kind": "mine"})
        with pytest.raises(StrategyError, match=r"sampler 'mine' must be one of .*uniform"):
            stage_batches(plan, index_of([50]), ONCE, 0, 0)


class TestCurriculaOfPlugins:
    def test_they_let_in_what_they_like_and_nothing_else(self) -> None:
        def hard_first(plan: CurriculumPlan, progress: float, difficulty: np.ndarray) -> np.ndarray:
            return difficulty > 1 - max(progress, 0.2)

        known = Strategies(curricula={**CURRICULA, "hard_first": hard_first})
        index = index_of([400])
        plan = plan_of(**{"curriculum.kind": "hard_first"})
        batches = stage_batches(plan, index, ONCE, 0, 0, strategies=known)
        early = index.difficulty[np.concatenate(batches[:BUCKET_WINDOW])]
        assert early.min() > 0.8
        assert index.difficulty[np.concatenate(batches[-BUCKET_WINDOW:])].min() < 0.5

    def test_where_they_let_nothing_in_the_easiest_is_drawn(self) -> None:
        nothing = Strategies(
            curricula={**CURRICULA, "none": lambda plan, progress, d: np.zeros(len(d), np.bool_)}
        )
        index = index_of([50, 30])
        drawn = np.concatenate(stage_batches(plan_of(), index, ONCE, 0, 0, strategies=nothing))
        assert set(index.difficulty[drawn]) == {1 / 50, 1 / 30}


class TestLossWeights:
    def test_without_a_weighting_there_are_none(self) -> None:
        assert loss_weights_of(plan_of(), skewed(30, 10), Strategies()) is None

    def test_inverse_frequency_makes_every_class_count_alike(self) -> None:
        index = skewed(60, 30, 10)
        plan = plan_of(**{"loss.weighting": "inverse_frequency"})
        weights = loss_weights_of(plan, index, Strategies())
        assert weights is not None
        by_class = np.bincount(index.examples[0].labels, weights)
        assert by_class == pytest.approx([100 / 3] * 3, rel=1e-5)
        half = loss_weights_of(with_values(plan, {"loss.strength": 0.5}), index, Strategies())
        assert half is not None
        by_class = np.bincount(index.examples[0].labels, half)
        assert by_class / by_class[2] == pytest.approx(np.sqrt([6, 3, 1]), rel=1e-5)

    def test_every_tasks_weights_have_a_mean_of_one(self) -> None:
        index = index_of([70, 30], classes=5)
        plan = plan_of(**{"loss.weighting": "inverse_frequency"})
        weights = loss_weights_of(plan, index, Strategies())
        assert weights is not None
        for task in (0, 1):
            assert weights[index.task == task].mean() == pytest.approx(1, rel=1e-5)


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


def test_a_task_without_domains_is_drawn_as_it_would_be_beside_none_that_has_them() -> None:
    strata = {name: stream(0, "beside", name).integers(2, size=60) for name in ("a", "b")}
    lengths = {name: stream(0, "lengths", name).integers(3, 20, size=60) for name in strata}
    once = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
    drawn = []
    for balanced in ((), {"b"}):
        index = build_index(strata, lengths, seed=0, balanced=balanced)
        batches = np.concatenate(stage_batches(plan_of(120), index, once, 0, seed=0))
        drawn.append(sorted(batches[index.task[batches] == 0].tolist()))
    assert drawn[0] == drawn[1]
    assert index.stratum is not None
    assert set(index.stratum[:60].tolist()) == {-1}
    assert len(set(index.stratum[60:].tolist())) == 2


def test_a_sampler_and_strata_go_together() -> None:
    index = stratified_index()
    once = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)
    batches = stage_batches(plan_of(8, **{"sampling.kind": "balanced"}), index, once, 0, seed=0)
    assert index.stratum is not None
    counts = [int(index.stratum[batch].sum()) for batch in batches]
    assert np.mean(counts) == pytest.approx(4, abs=0.3)
    assert set(counts) <= {3, 4, 5}


def test_what_a_task_calls_difficult_goes_before_the_length() -> None:
    labels = {"a": np.zeros(4, np.int64), "b": np.zeros(3, np.int64)}
    lengths = {"a": np.array([9, 8, 7, 6]), "b": np.array([3, 1, 2])}
    index = build_index(labels, lengths, 0, difficulty={"a": np.array([0.1, 7.0, -2.0, 0.3])})
    assert index.difficulty[:4].tolist() == [0.5, 1.0, 0.25, 0.75]
    assert index.difficulty[4:].tolist() == [1.0, 1 / 3, 2 / 3]


def test_a_curriculum_shows_first_what_the_task_calls_easy() -> None:
    labels, lengths = {"a": np.zeros(80, np.int64)}, {"a": np.full(80, 5)}
    hard = np.arange(80.0)[::-1]
    index = build_index(labels, lengths, 0, difficulty={"a": hard})
    kind = {"curriculum.kind": "progressive", "curriculum.initial_difficulty": 0.25}
    first = stage_batches(plan_of(4, **kind), index, LADDER[2:], 0, 0)[:5]
    assert set(np.concatenate(first).tolist()) <= set(range(60, 80))


def test_a_fraction_holds_the_share_of_each_domain_in_each_class() -> None:
    rng = stream(0, "test_batches", "domains")
    labels = rng.integers(2, size=400)
    domains = np.where(rng.random(400) < 0.1, "rare", "common")
    lengths = {"a": np.full(400, 5)}
    index = build_index({"a": strata("single_label", labels, domains.tolist())}, lengths, 0)
    chosen = fraction(index, 0, 20)
    for label in range(2):
        for domain in ("rare", "common"):
            members = (labels == label) & (domains == domain)
            assert abs(members[chosen].sum() - 0.2 * members.sum()) <= 1


def test_one_domain_changes_no_fraction() -> None:
    labels = stream(0, "test_batches", "one").integers(3, size=90)
    lengths = {"a": np.full(90, 5)}
    plain = build_index({"a": labels}, lengths, 0)
    same = build_index({"a": strata("single_label", labels, ["all"] * 90)}, lengths, 0)
    assert np.array_equal(plain.priority, same.priority)


def stratified_index(size: int = 400) -> TrainIndex:
    """One task; a quarter of its examples, the long ones, are of a stratum of their own."""
    strata = (np.arange(size) % 4 == 0).astype(np.int64)
    lengths = stream(0, "stratified").integers(3, 20, size) + 100 * strata
    return build_index({"task": strata}, {"task": lengths}, seed=0, balanced={"task"})


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
