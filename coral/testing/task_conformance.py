"""What every task must keep to, as a pytest class.

class TestMyTask(TaskConformance):
    @pytest.fixture
    def task(self):
        return MyTask()
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from coral.ports import PLAIN, DataContext, Examples, Task, TaskData, ViewedTask
from coral.rng import stream


class TaskConformance:
    """Checks a task. Subclasses give a fixture ``task``; the suite loads it in fresh folders."""

    @pytest.fixture
    def task(self) -> Task:
        pytest.fail("override the fixture 'task' to return the task under test")

    @pytest.fixture(scope="class")
    @classmethod
    def cache_dir(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("task_cache")

    @pytest.fixture
    def data(self, task: Task, cache_dir: Path) -> TaskData:
        return task.load(DataContext(cache_dir=cache_dir))

    def test_splits_are_the_same_with_a_warm_and_with_an_empty_cache(
        self, task: Task, data: TaskData, cache_dir: Path, tmp_path: Path
    ) -> None:
        for folder in (cache_dir, tmp_path):
            again = task.load(DataContext(cache_dir=folder))
            assert again.label_names == data.label_names
            for split in ("train", "validation", "test"):
                first, second = getattr(data, split), getattr(again, split)
                assert first.texts == second.texts
                assert np.array_equal(first.labels, second.labels)

    def test_no_split_is_empty(self, data: TaskData) -> None:
        for split in (data.train, data.validation, data.test):
            assert len(split) > 0

    def test_no_text_is_in_two_splits(self, data: TaskData) -> None:
        train, validation, test = (
            set(split.texts) for split in (data.train, data.validation, data.test)
        )
        assert not train & validation
        assert not train & test
        assert not validation & test

    def test_texts_are_not_blank(self, data: TaskData) -> None:
        for split in (data.train, data.validation, data.test):
            assert all(isinstance(text, str) and text.strip() for text in split.texts)

    def test_each_text_has_a_label_that_has_a_name(self, data: TaskData) -> None:
        for split in (data.train, data.validation, data.test):
            assert split.labels.dtype == np.int64
            assert split.labels.shape == (len(split.texts),)
            assert split.labels.min() >= 0
            assert split.labels.max() < len(data.label_names)

    def test_label_names_are_two_or_more_and_distinct(self, data: TaskData) -> None:
        assert len(set(data.label_names)) == len(data.label_names) >= 2

    def test_every_class_is_in_the_train_split(self, data: TaskData) -> None:
        present = set(data.train.labels.tolist())
        missing = [name for i, name in enumerate(data.label_names) if i not in present]
        assert not missing

    def test_the_primary_metric_is_one_of_the_metrics(self, task: Task) -> None:
        assert task.primary_metric in task.metrics
        assert set(task.metrics.values()) <= {"max", "min"}

    def test_scores_are_finite_and_have_the_declared_names(
        self, task: Task, data: TaskData
    ) -> None:
        for probabilities in _predictions(data).values():
            scores = _scores(task, data.validation, probabilities)
            assert set(scores) == set(task.metrics)
            assert all(np.isfinite(value) for value in scores.values())

    def test_views_show_each_example_by_itself_and_the_same_each_time(
        self, task: Task, data: TaskData
    ) -> None:
        if not isinstance(task, ViewedTask):
            return
        part = Examples(texts=data.train.texts[:3], labels=data.train.labels[:3])
        for name in task.views:
            seen = task.view(data.train, name)
            assert seen.labels.tolist() == data.train.labels.tolist()
            assert seen.texts[:3] == task.view(part, name).texts

    def test_scoring_is_repeatable_and_leaves_its_input_alone(
        self, task: Task, data: TaskData
    ) -> None:
        labels, probabilities = data.validation.labels.copy(), _predictions(data)["random"]
        before = probabilities.copy()
        first = task.score(labels, probabilities)
        assert task.score(labels, probabilities) == first
        assert np.array_equal(probabilities, before)
        assert np.array_equal(labels, data.validation.labels)

    def test_perfect_predictions_score_better_than_random_ones(
        self, task: Task, data: TaskData
    ) -> None:
        predictions = _predictions(data)
        perfect = task.score(data.validation.labels, predictions["perfect"])
        random = task.score(data.validation.labels, predictions["random"])
        for metric, direction in ((name, task.metrics[name]) for name in perfect):
            better = perfect[metric] > random[metric]
            worse = perfect[metric] < random[metric]
            assert better if direction == "max" else worse, metric


def _scores(task: Task, examples: Examples, probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Return all of a task's metrics, with the same predictions on every view of it."""
    scores = dict(task.score(examples.labels, probabilities))
    if not isinstance(task, ViewedTask):
        return scores
    predictions = {PLAIN: probabilities, **dict.fromkeys(task.views, probabilities)}
    return {**scores, **task.score_views(examples.labels, predictions)}


def _predictions(data: TaskData) -> Mapping[str, NDArray[np.float64]]:
    """Return ``(n, classes)`` probabilities for the validation split, of three qualities."""
    classes = len(data.label_names)
    return {
        "perfect": np.eye(classes)[data.validation.labels],
        "random": stream(0, "conformance").dirichlet(np.ones(classes), len(data.validation)),
        "constant": np.full((len(data.validation), classes), 1 / classes),
    }
