"""Metrics that need predictions on altered examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from coral.ports import PLAIN, Examples, Proxy
from coral.records import Outcome
from coral.tasks import PERTURBED, ClassificationScoring
from tests.training.conftest import BuildTrainer, make_job
from tests.training.models import COLOURS, KeywordTask, animals


class ShoutedColours(KeywordTask):
    """Its altered texts hide the last colour; what was predicted on them is kept."""

    def __init__(self, *metrics: str) -> None:
        super().__init__("colour", COLOURS, train_examples=48)
        self._scoring = ClassificationScoring.of("colour", metrics, (PERTURBED,))
        self.metrics = self._scoring.metrics
        self.seen: list[Examples] = []
        self.predictions: list[Mapping[str, NDArray[np.float64]]] = []

    @property
    def views(self) -> tuple[str, ...]:
        return self._scoring.views

    def view(self, examples: Examples, name: str) -> Examples:
        self.seen.append(examples)
        return replace(examples, texts=tuple(t.replace("blue", "w0") for t in examples.texts))

    def score(
        self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        return self._scoring.score(labels, probabilities)

    def score_views(
        self, labels: NDArray[np.int64], predictions: Mapping[str, NDArray[np.float64]]
    ) -> Mapping[str, float]:
        self.predictions.append(predictions)
        return self._scoring.score_views(labels, predictions)


ASKED = ("auroc", "robust_auroc")


def outcome_of(build_trainer: BuildTrainer, *tasks: KeywordTask, slots: int = 1) -> Outcome:
    trainer = build_trainer(*tasks)
    trainer._fixed_slots = slots
    jobs = [replace(make_job(trial=i, seed=i), key=str(i)) for i in range(slots)]
    found = {outcome.key: outcome for outcome in trainer.train(jobs)}["0"]
    assert found.failure is None, found.failure
    return found


def test_an_altered_text_is_predicted_beside_the_plain_one(build_trainer: BuildTrainer) -> None:
    task = ShoutedColours(*ASKED)
    outcome = outcome_of(build_trainer, task)
    assert outcome.metrics["colour.auroc"] > outcome.metrics["colour.robust_auroc"] + 0.03
    (predictions,) = task.predictions
    changed = np.abs(predictions[PLAIN] - predictions[PERTURBED]).max(axis=1) > 1e-4
    assert changed.tolist() == ["blue" in text for text in task.seen[0].texts]


def test_no_view_is_made_for_metrics_that_need_none(build_trainer: BuildTrainer) -> None:
    task = ShoutedColours("auroc", "ece")
    assert set(outcome_of(build_trainer, task).metrics) >= {"colour.auroc", "colour.ece"}
    assert not task.seen


def test_a_task_without_views_is_not_predicted_on_those_of_another(
    build_trainer: BuildTrainer,
) -> None:
    task = ShoutedColours(*ASKED)
    metrics = outcome_of(build_trainer, task, animals()).metrics
    assert "colour.robust_auroc" in metrics
    assert "animal.robust_auroc" not in metrics
    assert "robust_auroc" not in metrics


def test_jobs_side_by_side_have_the_views_of_jobs_alone(build_trainer: BuildTrainer) -> None:
    alone = outcome_of(build_trainer, ShoutedColours(*ASKED))
    together = outcome_of(build_trainer, ShoutedColours(*ASKED), slots=2)
    assert together.metrics["robust_auroc"] == pytest.approx(
        alone.metrics["robust_auroc"], abs=0.01
    )


def test_the_test_split_has_its_views_too(build_trainer: BuildTrainer) -> None:
    task = ShoutedColours(*ASKED)
    (score,) = build_trainer(task).score([make_job()], seed=1)
    assert {"robust_auroc", "colour.robust_auroc"} <= set(score.metrics)
    assert task.seen[-1].texts == task.load().test.texts


def test_a_proxy_is_scored_on_its_view_at_its_stage(build_trainer: BuildTrainer) -> None:
    task = ShoutedColours("auroc")
    proxy = Proxy(
        score=lambda labels, predictions: float(predictions.max(axis=1).mean()),
        stage=1,
        view=PERTURBED,
        stands_for="auroc",
    )
    vars(task)["proxies"] = {"boldness": proxy}
    trainer = build_trainer(task, animals())
    early, late = (next(iter(trainer.train([make_job(stage=stage)]))) for stage in (0, 1))
    assert "colour.boldness" not in early.metrics
    assert 0.25 <= late.metrics["colour.boldness"] <= 1
    assert len(task.seen) == 1
    assert trainer.survey().proxies == {"colour.boldness": "colour.auroc"}


def test_views_are_answered_as_the_plan_says(build_trainer: BuildTrainer) -> None:
    task = ShoutedColours(*ASKED)
    trainer = build_trainer(task)
    job = make_job({"inference.temperature": 4.0})
    plain, warm = (next(iter(trainer.train([each]))) for each in (make_job(), job))
    assert (plain.failure, warm.failure) == (None, None)
    sharp, soft = (predicted[PERTURBED].max(axis=1).mean() for predicted in task.predictions)
    assert soft < sharp


def test_a_view_that_drops_examples_is_the_plugins_failure(build_trainer: BuildTrainer) -> None:
    class Forgetful(ShoutedColours):
        def view(self, examples: Examples, name: str) -> Examples:
            return Examples(texts=examples.texts[1:], labels=examples.labels[1:])

    (outcome,) = build_trainer(Forgetful(*ASKED)).train([make_job()])
    assert outcome.failure is not None
    assert outcome.failure.kind == "plugin"
    assert "39 of 40" in outcome.failure.message
