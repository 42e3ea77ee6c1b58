"""What is made of trained weights without training: in evaluations, packs and adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from coral.cli.app import app
from coral.plan import (
    InferencePlan,
    TrainingPlan,
    confidence,
    decided,
    least_confidence,
    with_values,
)
from coral.ports import TrainingJob
from coral.records import Outcome
from coral.tasks import score_classification
from coral.training.base import BaseModel
from coral.training.evaluation import Predictions, predict
from coral.training.export import Predictor
from coral.training.job import JobLog
from coral.training.targets import Target
from coral.training.trainer import LoraTrainer
from tests.training.conftest import MemoryCheckpoints, make_job
from tests.training.models import animals, colours, load
from tests.training.test_export import card_of

WAYS: tuple[dict[str, Any], ...] = (
    {"inference.temperature": 2.5},
    {"inference.threshold": 0.3},
    {"inference.abstention": 0.4},
    {"inference.temperature": 0.5, "inference.threshold": 0.7, "inference.abstention": 0.25},
)
STAGE = 1


@pytest.fixture
def trainer(base: BaseModel, checkpoints: MemoryCheckpoints) -> LoraTrainer:
    return trainer_of(base, checkpoints, slots=1)


def trainer_of(base: BaseModel, checkpoints: MemoryCheckpoints, slots: int) -> LoraTrainer:
    tasks = load(colours(), animals())
    return LoraTrainer(base, tasks, checkpoints, lambda _: None, slots=slots, abstains=True)


def job_of(values: dict[str, Any] | None = None, resume_from: str | None = None) -> TrainingJob:
    return make_job(values, stage=STAGE, resume_from=resume_from)


def run(trainer: LoraTrainer, job: TrainingJob) -> Outcome:
    (outcome,) = trainer.train([job])
    assert outcome.failure is None, outcome.failure.traceback
    return outcome


def outputs(trainer: LoraTrainer, split: str) -> dict[str, Predictions]:
    """Return what the weights themselves say."""
    with trainer._runner.trained(job_of(), JobLog()) as trained:
        return predict(trained.encoder, trainer._sets.split(split, 16))


def expected(trainer: LoraTrainer, values: dict[str, Any], split: str) -> dict[str, float]:
    """Return the metrics of answers that are made of the weights' own outputs."""
    plan = with_values(TrainingPlan(), values).inference
    metrics: dict[str, float] = {}
    for task, raw in outputs(trainer, split).items():
        answers = decided(plan, raw)
        labels = trainer._sets.split(split, 16).labels[task]
        needed = least_confidence(
            plan, confidence(decided(plan, outputs(trainer, "validation")[task]))
        )
        given = confidence(answers) >= needed
        hits = answers.argmax(axis=1) == labels
        scores = score_classification(labels, answers) | {
            "coverage": float(given.mean()),
            "selective_accuracy": float(hits[given].mean()),
        }
        metrics |= {f"{task}.{name}": value for name, value in scores.items()}
    return metrics


def told(metrics: Any) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "." in name}


@pytest.mark.parametrize("values", WAYS)
def test_weights_that_are_there_are_evaluated_without_a_step(
    trainer: LoraTrainer, values: dict[str, Any]
) -> None:
    first = run(trainer, job_of())
    second = run(trainer, job_of(values, first.checkpoint))
    assert first.cost.optimizer_steps > 0
    assert second.cost.optimizer_steps == second.cost.examples == second.cost.teraflops == 0
    assert second.cost.evaluation_seconds > 0
    assert second.checkpoint == first.checkpoint
    assert second.cumulative_steps == first.cumulative_steps
    assert second.metrics["train_cost"] == first.metrics["train_cost"]
    assert not second.notes


@pytest.mark.parametrize("values", WAYS)
def test_predictions_differ_by_what_the_plan_makes_of_them_and_by_nothing_else(
    trainer: LoraTrainer, values: dict[str, Any]
) -> None:
    first = run(trainer, job_of())
    second = run(trainer, job_of(values, first.checkpoint))
    assert told(first.metrics) == expected(trainer, {}, "validation")
    assert told(second.metrics) == expected(trainer, values, "validation")
    assert second.metrics["animal.auroc"] == pytest.approx(first.metrics["animal.auroc"])
    assert told(second.metrics) != told(first.metrics)


def test_training_does_not_depend_on_what_is_made_of_the_weights(trainer: LoraTrainer) -> None:
    addresses = {run(trainer, job_of(values)).checkpoint for values in ({}, *WAYS)}
    assert len(addresses) == 1


def test_in_a_pack_everybody_answers_in_its_own_way(
    base: BaseModel, checkpoints: MemoryCheckpoints, trainer: LoraTrainer
) -> None:
    source = run(trainer, job_of()).checkpoint
    jobs = [job_of(values, source) for values in WAYS]
    together = {o.key: o for o in trainer_of(base, checkpoints, slots=4).train(jobs)}
    for job in jobs:
        assert together[job.key].cost.optimizer_steps == 0
        assert together[job.key].checkpoint == source
        assert told(together[job.key].metrics) == pytest.approx(
            told(run(trainer, job).metrics), abs=1e-4
        )


def test_the_sureness_that_the_test_split_needs_is_set_on_the_validation_split(
    trainer: LoraTrainer,
) -> None:
    source = run(trainer, job_of()).checkpoint
    values = WAYS[-1]
    asked, always = trainer.score([job_of(values, source), job_of(None, source)], seed=0)
    assert told(asked.metrics) == expected(trainer, values, "test")
    assert told(always.metrics) == expected(trainer, {}, "test")
    assert always.metrics["coverage"] == 1.0 > asked.metrics["coverage"]
    means = (asked.metrics["colour.coverage"] + asked.metrics["animal.coverage"]) / 2
    assert asked.metrics["coverage"] == means


def test_without_abstention_in_the_search_nothing_is_scored_for_it(
    base: BaseModel, checkpoints: MemoryCheckpoints
) -> None:
    plain = LoraTrainer(base, load(colours()), checkpoints, lambda _: None)
    assert not {"coverage", "selective_accuracy"} & set(run(plain, job_of()).metrics)
    assert "coverage" not in plain.survey().metric_names


def test_the_survey_names_what_answers_are_scored_for(trainer: LoraTrainer) -> None:
    assert {"coverage", "animal.selective_accuracy"} <= trainer.survey().metric_names


class TestAdapter:
    TEXTS = ("red w1 w2 w3", "w4 blue dog", "cat", "green w9 w9 w9", "w1 w2", "dog cat red")

    def export(
        self, trainer: LoraTrainer, values: dict[str, Any], folder: Path, base_folder: Path
    ) -> Path:
        trainer.export(job_of(values), folder, card_of(base_folder, values))
        return folder

    @pytest.mark.parametrize("values", WAYS)
    def test_it_answers_as_its_genome_does(
        self, trainer: LoraTrainer, values: dict[str, Any], tmp_path: Path, base_folder: Path
    ) -> None:
        plain = Predictor(self.export(trainer, {}, tmp_path / "plain", base_folder))
        made = Predictor(self.export(trainer, values, tmp_path / "made", base_folder))
        plan = with_values(TrainingPlan(), values).inference
        for raw, answer in zip(plain.predict(self.TEXTS), made.predict(self.TEXTS), strict=True):
            for task, labels in raw.items():
                assert labels is not None
                probabilities = decided(plan, np.array([list(labels.values())]))
                needed = made.card["tasks"][task].get("needed_confidence", 0.0)
                found = answer[task]
                if confidence(probabilities)[0] < needed:
                    assert found is None
                else:
                    assert found is not None
                    np.testing.assert_allclose(list(found.values()), probabilities[0], atol=2e-5)

    def test_it_abstains_from_the_share_of_the_validation_texts_that_its_genome_says(
        self, trainer: LoraTrainer, tmp_path: Path, base_folder: Path
    ) -> None:
        folder = self.export(trainer, {"inference.abstention": 0.4}, tmp_path, base_folder)
        texts = trainer._tasks["colour"].data.validation.texts
        answers = [answer["colour"] for answer in Predictor(folder).predict(texts)]
        assert 0.3 <= sum(answer is None for answer in answers) / len(texts) <= 0.4

    def test_the_card_of_one_that_always_answers_says_nothing_of_sureness(
        self, trainer: LoraTrainer, tmp_path: Path, base_folder: Path
    ) -> None:
        self.export(trainer, {}, tmp_path, base_folder)
        assert "needed_confidence" not in (tmp_path / "coral.json").read_text()

    def test_one_of_an_earlier_version_answers_as_ever(
        self, trainer: LoraTrainer, tmp_path: Path, base_folder: Path
    ) -> None:
        folder = self.export(trainer, {}, tmp_path, base_folder)
        now = Predictor(folder).predict(self.TEXTS)
        card = json.loads((folder / "coral.json").read_text())
        del card["plan"]["inference"]
        (folder / "coral.json").write_text(json.dumps(card))
        assert Predictor(folder).predict(self.TEXTS) == now

    def test_the_command_line_says_where_there_is_no_answer(
        self, trainer: LoraTrainer, tmp_path: Path, base_folder: Path
    ) -> None:
        folder = self.export(trainer, {"inference.abstention": 0.5}, tmp_path, base_folder)
        texts = trainer._tasks["colour"].data.validation.texts[:12]
        answers = [answer["colour"] for answer in Predictor(folder).predict(texts)]
        assert 0 < sum(answer is None for answer in answers) < len(answers)
        shown = CliRunner().invoke(app, ["predict", str(folder), *texts]).stdout
        told = [line for line in shown.splitlines() if line.startswith("  colour:")]
        silent = "  colour: no answer, not sure enough"
        assert [line == silent for line in told] == [answer is None for answer in answers]


MULTI = Target(problem="multi_label", outputs=3)


def test_each_of_several_labels_is_decided_from_the_threshold_on() -> None:
    logits = torch.tensor([[0.5, -2.0, -0.2], [3.0, -0.5, -4.0]])
    raw = MULTI.predictions(logits)
    answers = MULTI.answers(InferencePlan(threshold=0.4, temperature=2.0), raw)
    cooled = MULTI.predictions(logits / 2)
    assert ((answers >= 0.5) == (cooled >= 0.4)).all()
    labels = (cooled >= 0.4).astype(np.int64)
    assert MULTI.hits(labels, answers).all()
    assert not MULTI.hits(1 - labels, answers).any()
    np.testing.assert_allclose(
        MULTI.confidence(answers), np.maximum(answers, 1 - answers).min(axis=1)
    )


def test_numbers_are_what_they_are() -> None:
    numbers = Target(problem="regression", outputs=1, center=(2.0,), spread=(3.0,))
    raw = numbers.predictions(torch.tensor([[1.0], [-1.0]]))
    plan = InferencePlan(temperature=3.0, threshold=0.2, abstention=0.5)
    assert numbers.answers(plan, raw) is raw
    assert not numbers.has_probabilities
