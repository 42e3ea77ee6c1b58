"""Pairs of texts, several labels and numbers: trained alone, in packs, entered half-way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coral.ports import Examples, Problem, TaskData
from coral.records import Outcome
from coral.training.base import BaseModel
from coral.training.batches import strata
from coral.training.checkpoint import read
from coral.training.data import LoadedTask
from coral.training.targets import Target
from coral.training.texts import tokenize
from tests.training.conftest import MemoryCheckpoints, make_job
from tests.training.words import PROBLEMS, UNIT, WordTask, trainer_on

LONG = {"schedule.learning_rate": 1e-2, "adapter.target_modules": "all-linear"}


def trained(outcome: Outcome) -> Outcome:
    assert outcome.failure is None, outcome.failure.traceback
    return outcome


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_is_learnt(base: BaseModel, checkpoints: MemoryCheckpoints, problem: Problem) -> None:
    trainer = trainer_on(base, checkpoints, (problem,))
    [outcome] = trainer.train([make_job({**LONG, "schedule.batch_size": 4})])
    assert trained(outcome).metrics[trainer.survey().tasks[0].primary_metric] > 0.8


def test_packs_train_what_each_genome_trains_alone(base: BaseModel) -> None:
    weighted = {"loss.weighting": "inverse_frequency", "sampling.kind": "balanced"}
    jobs = [
        make_job({"adapter.rank": rank, "adapter.dropout": 0.1, **others}, trial=rank)
        for rank, others in ((2, {}), (5, weighted))
    ]
    outputs = {"pair": 2, "animals": 2, "price": 1}
    found = []
    for slots in (1, 2):
        store = MemoryCheckpoints()
        outcomes = {o.key: trained(o) for o in trainer_on(base, store, slots=slots).train(jobs)}
        found.append(
            [
                (
                    outcomes[job.key],
                    read(store.get(outcomes[job.key].checkpoint or ""), base.digest, outputs),
                )
                for job in jobs
            ]
        )
    for (alone, one), (packed, two) in zip(*found, strict=True):
        assert packed.metrics == pytest.approx(alone.metrics, rel=1e-4, abs=1e-4, nan_ok=True)
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(two.tensors[name], tensor, rtol=1e-5, atol=1e-5)


def test_shared_prefixes_change_nothing(
    base: BaseModel, checkpoints: MemoryCheckpoints, tmp_path: Path
) -> None:
    job = make_job({"adapter.layers": "top-1"})
    [whole] = trainer_on(base, checkpoints).train([job])
    [entered] = trainer_on(base, checkpoints, prefixes=tmp_path).train([job])
    assert trained(entered).cost.teraflops < trained(whole).cost.teraflops
    assert entered.curve.loss == pytest.approx(whole.curve.loss, abs=1e-4)


def test_the_second_text_is_told_from_the_first(base: BaseModel) -> None:
    pair = ("red w1", "cat w2")
    padded = tokenize(base.tokenizer, [pair, ("blue", "dog")], 16).pad(np.array([0, 1]))
    own = base.tokenizer([pair[0], "blue"], [pair[1], "dog"], padding=True, return_tensors="pt")
    for name, tensor in padded.inputs().items():
        assert torch.equal(tensor, own[name]), name
    assert own["token_type_ids"].any()


def test_of_two_texts_the_longer_one_is_cut(base: BaseModel) -> None:
    texts = tokenize(base.tokenizer, [("red " + "w1 " * 20, "cat")], 8)
    words = base.tokenizer.convert_ids_to_tokens(texts.ids.tolist())
    assert words == ["[CLS]", "red", "w1", "w1", "w1", "[SEP]", "cat", "[SEP]"]


def test_texts_and_pairs_stand_in_one_set_in_their_order(base: BaseModel) -> None:
    mixed = tokenize(base.tokenizer, ["red", ("blue", "cat"), "green"], 16)
    assert mixed.lengths.tolist() == [3, 5, 3]
    assert base.tokenizer.decode(mixed.ids[3:8]) == "[CLS] blue [SEP] cat [SEP]"


def test_numbers_are_predicted_in_their_own_unit(
    base: BaseModel, checkpoints: MemoryCheckpoints
) -> None:
    trainer = trainer_on(base, checkpoints, ("regression",))
    [outcome] = trainer.train([make_job({**LONG, "schedule.batch_size": 4})])
    assert trained(outcome).metrics["price.rmse"] < 0.7 * UNIT  # a constant is off by 0.8 units
    survey = trainer.survey().tasks[0]
    assert (survey.problem, survey.texts) == ("regression", 1)
    assert survey.center[0] == pytest.approx(6 * UNIT, rel=0.1)


class TestTargets:
    """What heads predict, and what their losses are."""

    def of(self, problem: Problem) -> Target:
        return LoadedTask(task=WordTask(problem), data=WordTask(problem).load()).target  # type: ignore[arg-type]

    @pytest.mark.parametrize("problem", PROBLEMS)
    def test_losses_are_those_that_transformers_computes(self, problem: Problem) -> None:
        from transformers.loss.loss_utils import ForSequenceClassificationLoss

        target = self.of(problem)
        labels = target.encode(WordTask(problem).load().test.labels)
        logits = torch.randn(len(labels), target.outputs, generator=torch.manual_seed(0))

        class Config:
            problem_type = f"{problem}_classification" if problem != "regression" else problem
            num_labels = target.outputs

        expected = ForSequenceClassificationLoss(labels, logits, Config)
        torch.testing.assert_close(target.losses(logits, labels).mean(), expected)

    def test_numbers_are_learnt_in_standard_deviations(self) -> None:
        target, data = self.of("regression"), WordTask("regression").load()
        encoded = target.encode(data.train.labels)
        assert float(encoded.mean()) == pytest.approx(0, abs=1e-5)
        assert float(encoded.std(correction=0)) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(target.predictions(encoded), data.train.labels, rtol=1e-5)

    def test_a_number_that_never_changes_keeps_its_unit(self) -> None:
        same = Examples(texts=("a", "b"), labels=np.array([[3.0], [3.0]]))
        data = TaskData(
            train=same, validation=same, test=same, label_names=("x",), problem="regression"
        )
        assert Target.of(data).spread == (1.0,)

    def test_a_card_from_before_there_were_others_means_classes(self) -> None:
        assert Target.from_facts({"labels": ["a", "b"]}) == Target(
            problem="single_label", outputs=2
        )


class TestStrata:
    """What parts of the data hold equal shares of."""

    def test_every_set_of_labels_is_one(self) -> None:
        labels = np.array([[0, 1], [1, 1], [0, 1], [0, 0]])
        found = strata("multi_label", labels)
        assert found[0] == found[2]
        assert len(set(found.tolist())) == 3

    def test_every_tenth_of_the_numbers_is_one(self) -> None:
        labels = np.arange(100.0)[::-1, None]
        assert strata("regression", labels).tolist() == [i // 10 for i in range(100)][::-1]
