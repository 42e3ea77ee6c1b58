from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.plan import with_values
from coral.ports import PLAIN, Examples
from coral.rng import stream
from coral.training import evaluation
from coral.training.base import BaseModel
from coral.training.encoder import MultiTaskEncoder, adapted
from coral.training.evaluation import bootstrap, interval, predict, score_task, with_means
from coral.training.evaluation_sets import EvaluationSet, build_evaluation_set
from coral.training.failures import DivergedError
from tests.training.conftest import SEED, plan
from tests.training.models import COLOURS, KeywordTask, animals, colours, targets


@pytest.fixture(params=["mean", "cls", "last"])
def encoder(base: BaseModel, request: pytest.FixtureRequest) -> Iterator[MultiTaskEncoder]:
    pooled = with_values(plan(), {"encoding.pooling": request.param})
    with adapted(base, pooled, targets({"colour": 3, "animal": 2}), SEED) as encoder:
        torch.manual_seed(1)
        for name, parameter in encoder.adapter.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        yield encoder.eval()


def evaluation_set(base: BaseModel, texts: tuple[str, ...]) -> EvaluationSet:
    split = Examples(texts=texts, labels=np.zeros(len(texts), np.int64))
    return build_evaluation_set({"colour": split, "animal": split}, base.tokenizer, 16)


class TestPredictions:
    TEXTS = colours().load().test.texts

    def test_they_do_not_depend_on_the_company_of_other_texts(
        self, base: BaseModel, encoder: MultiTaskEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        together = predict(encoder, evaluation_set(base, self.TEXTS))
        turned = predict(encoder, evaluation_set(base, self.TEXTS[::-1]))
        monkeypatch.setattr(evaluation, "tokens_at_once", lambda device: 40)
        in_small_batches = predict(encoder, evaluation_set(base, self.TEXTS))
        for task, probabilities in together.items():
            np.testing.assert_allclose(turned[task][::-1], probabilities, atol=1e-5)
            np.testing.assert_allclose(in_small_batches[task], probabilities, atol=1e-5)
            for row in (0, 7):
                alone = predict(encoder, evaluation_set(base, self.TEXTS[row : row + 1]))
                np.testing.assert_allclose(alone[task][0], probabilities[row], atol=1e-5)
            assert np.ptp(probabilities, axis=0).max() > 1e-3

    def test_they_are_the_heads_softmax_in_the_order_of_the_texts(
        self, base: BaseModel, encoder: MultiTaskEncoder
    ) -> None:
        texts = ("red w1 w2 w3", "blue", "red w1 w2 w3", "green w4")
        examples = evaluation_set(base, texts)
        predicted = predict(encoder, examples)
        for row, position in enumerate(examples.rows["colour"]):
            with torch.no_grad():
                vector = encoder.encode(*examples.texts.pad(np.array([position])))
                expected = encoder.heads["colour"](vector).double().softmax(-1)[0]
            np.testing.assert_allclose(predicted["colour"][row], expected, atol=1e-5)
        assert predicted["colour"].shape == (4, 3)
        assert predicted["animal"].shape == (4, 2)
        np.testing.assert_allclose(predicted["animal"].sum(axis=1), 1, atol=1e-12)

    def test_no_batch_holds_more_tokens_than_the_limit_unless_one_text_does(
        self, base: BaseModel, encoder: MultiTaskEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, int]] = []
        encode = encoder.encode
        monkeypatch.setattr(
            encoder,
            "encode",
            lambda ids, mask, _: shapes.append(tuple(ids.shape)) or encode(ids, mask),
        )
        monkeypatch.setattr(evaluation, "tokens_at_once", lambda device: 12)
        examples = evaluation_set(base, self.TEXTS)
        predict(encoder, examples)
        assert all(rows * length <= 12 or rows == 1 for rows, length in shapes)
        assert sum(rows for rows, _ in shapes) == len(examples.texts.lengths)
        assert max(rows for rows, _ in shapes) > 1

    def test_predictions_that_are_not_finite_are_divergence(
        self, base: BaseModel, encoder: MultiTaskEncoder
    ) -> None:
        torch.nn.init.constant_(encoder.heads["animal"].bias, float("inf"))
        with pytest.raises(DivergedError, match="predictions"):
            predict(encoder, evaluation_set(base, self.TEXTS[:2]))


class TestScores:
    def test_a_task_may_return_no_other_metrics_than_it_declares(self) -> None:
        class Silent(KeywordTask):
            def score(self, labels: object, probabilities: object) -> Mapping[str, float]:
                return {"auroc": 0.5}

        with pytest.raises(TaskError, match="declares the metrics"):
            score_task(
                Silent("quiet", COLOURS, 3), np.zeros(2, np.int64), {PLAIN: np.ones((2, 3)) / 3}
            )

    def test_a_metric_that_all_tasks_have_gets_a_mean(self) -> None:
        one, two = colours(), animals()
        two.metrics = {"auroc": "max"}
        metrics = {"colour.auroc": 0.5, "colour.accuracy": 0.25, "animal.auroc": 1.0}
        assert with_means(metrics, [one, two]) == {**metrics, "auroc": 0.75}


class TestBootstrap:
    TASKS = (colours(), animals())

    def predictions(self, name: str) -> dict[str, NDArray[np.float64]]:
        rng = stream(0, name)
        made = {}
        for task in self.TASKS:
            data = task.load()
            logits = rng.normal(size=(len(data.test), len(data.label_names)))
            logits[np.arange(len(data.test)), data.test.labels] += 1
            made[task.name] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return made

    def draws(self, *names: str, seed: int = 0) -> list[dict[str, NDArray[np.float64]]]:
        labels = {task.name: task.load().test.labels for task in self.TASKS}
        made = [self.predictions(name) for name in names]
        return bootstrap(self.TASKS, labels, made, seed)

    def test_it_is_repeatable_and_depends_on_the_seed(self) -> None:
        (first,), (again,), (other,) = self.draws("a"), self.draws("a"), self.draws("a", seed=1)
        for name, values in first.items():
            assert np.array_equal(values, again[name])
            assert not np.array_equal(values, other[name])

    def test_a_finalist_meets_the_same_resamples_whatever_its_company(self) -> None:
        (alone,) = self.draws("a")
        _, _, last = self.draws("b", "c", "a")
        for name, values in alone.items():
            assert np.array_equal(values, last[name])

    def test_the_mean_over_tasks_is_that_of_the_same_resample(self) -> None:
        (drawn,) = self.draws("a")
        mean = (drawn["colour.auroc"] + drawn["animal.auroc"]) / 2
        np.testing.assert_allclose(drawn["auroc"], mean)

    def test_tasks_with_different_primary_metrics_have_no_mean(self) -> None:
        tasks = (colours(), animals())
        tasks[1].primary_metric = "accuracy"
        labels = {task.name: task.load().test.labels for task in tasks}
        (drawn,) = bootstrap(tasks, labels, [self.predictions("a")], 0)
        assert set(drawn) == {"colour.auroc", "animal.accuracy"}


class TestIntervals:
    def test_they_hold_ninety_five_of_a_hundred_draws(self) -> None:
        draws = stream(0, "draws").permutation(np.arange(1001) / 1000)
        made = interval(0.5, draws)
        assert (made.low, made.estimate, made.high) == (0.025, 0.5, 0.975)

    def test_resamples_without_a_value_are_left_out(self) -> None:
        made = interval(0.5, np.array([np.nan, 0.4, 0.6, np.nan]))
        assert 0.4 <= made.low <= made.high <= 0.6

    def test_one_without_any_value_is_a_point(self) -> None:
        made = interval(0.5, np.full(3, np.nan))
        assert (made.low, made.high) == (0.5, 0.5)
