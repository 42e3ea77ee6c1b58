from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from coral.errors import ModelError
from coral.plan import digest_of
from coral.ports import Problem
from coral.training.base import BaseModel, load_base
from coral.training.encoder import pool
from coral.training.evaluation import predict
from coral.training.export import Predictor
from coral.training.job import JobLog
from coral.training.texts import tokenize
from coral.training.trainer import LoraTrainer
from tests.training.conftest import SEED, BuildTrainer, MemoryCheckpoints, make_job, plan
from tests.training.models import animals, colours
from tests.training.words import trainer_on

STRATEGIES: dict[str, dict[str, Any]] = {
    "lora": {"adapter.target_modules": "all-linear", "adapter.dropout": 0.1},
    "rslora and last token": {"adapter.rslora": True, "encoding.pooling": "last"},
    "dora on the top layer": {"adapter.dora": True, "adapter.layers": "top-1"},
}
TEXTS = ("red w1 w2 w3", "w4 blue dog", "cat", "green w9 w9 w9 w9 w9 w9 w9 w9")


@pytest.fixture(params=STRATEGIES)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    return STRATEGIES[request.param]


@pytest.fixture
def trainer(build_trainer: BuildTrainer) -> LoraTrainer:
    return build_trainer(colours(24), animals(16))


def card_of(base_folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "base_model": str(base_folder),
        "base_model_digest": load_base(
            str(base_folder), device="cpu", trust_remote_code=False
        ).digest,
        "run": "tiny",
        "trial": 4,
        "seed": SEED,
        "versions": {"coral": "0.1.0"},
        "lineage": {"generation": 2, "operator": "crossover"},
        "trainable_parameters": 1234,
        "cumulative_steps": 56,
        "metrics": {
            "validation": {"auroc": 0.91239, "colour.auroc": 0.5},
            "test": {"auroc": 0.87654, "colour.auroc": 0.5},
        },
        "tasks": {
            "colour": {"labels": ["red", "green", "blue"]},
            "animal": {"labels": ["cat", "dog"]},
        },
        "genome": {"adapter.rank": 4},
        "plan": asdict(plan(values)),
    }


def exported(trainer: LoraTrainer, folder: Path, base_folder: Path, values: dict[str, Any]) -> Path:
    trainer.export(make_job(values, stage=1), folder, card_of(base_folder, values))
    return folder


def test_peft_alone_gives_the_vectors_of_the_trained_encoder(
    base: BaseModel,
    base_folder: Path,
    trainer: LoraTrainer,
    tmp_path: Path,
    values: dict[str, Any],
) -> None:
    folder = exported(trainer, tmp_path / "champion", base_folder, values)
    job = make_job(values, stage=1)
    ids, mask, _ = tokenize(base.tokenizer, TEXTS, 16).pad(np.arange(len(TEXTS)))
    with trainer._runner.trained(job, JobLog()) as trained, torch.no_grad():
        expected = trained.encoder.encode(ids, mask)
    plain = AutoModel.from_pretrained(base_folder)
    encoder = PeftModel.from_pretrained(plain, str(folder)).eval()
    with torch.no_grad():
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors = pool(hidden, mask, job.plan.encoding.pooling)
        with encoder.disable_adapter():
            bare = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    assert (hidden - bare).abs().max() > 1e-4


def test_the_predictor_gives_the_probabilities_of_the_trained_encoder(
    base: BaseModel,
    base_folder: Path,
    trainer: LoraTrainer,
    tmp_path: Path,
    values: dict[str, Any],
) -> None:
    folder = exported(trainer, tmp_path / "champion", base_folder, values)
    with trainer._runner.trained(make_job(values, stage=1), JobLog()) as trained:
        split = trainer._sets.split("test", 16)
        expected = predict(trained.encoder, split)
    texts = trainer._tasks["colour"].data.test.texts
    predicted = Predictor(folder).predict(texts)
    assert len(predicted) == len(texts)
    for row, answer in enumerate(predicted):
        assert set(answer) == {"colour", "animal"}
        assert list(answer["colour"]) == ["red", "green", "blue"]
        np.testing.assert_allclose(
            list(answer["colour"].values()), expected["colour"][row], atol=1e-5
        )


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_predictor_answers_in_the_terms_of_the_task(
    base: BaseModel,
    base_folder: Path,
    checkpoints: MemoryCheckpoints,
    tmp_path: Path,
    problem: Problem,
) -> None:
    trainer = trainer_on(base, checkpoints, (problem,))
    [task] = trainer.survey().tasks
    facts = {
        "labels": list(task.label_names),
        "problem": task.problem,
        "center": list(task.center),
        "spread": list(task.spread),
        "texts": task.texts,
    }
    trainer.export(make_job(), tmp_path, {**card_of(base_folder, {}), "tasks": {task.name: facts}})
    with trainer._runner.trained(make_job(), JobLog()) as trained:
        expected = predict(trained.encoder, trainer._sets.split("test", 16))[task.name]
    contents = trainer._tasks[task.name].data.test.contents
    lines = ["\t".join(content) for content in contents]
    for given in (lines, [c if len(c) == 2 else c[0] for c in contents]):
        found = [list(answer[task.name].values()) for answer in Predictor(tmp_path).predict(given)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_one_text_where_two_are_needed_is_refused(
    base: BaseModel, base_folder: Path, checkpoints: MemoryCheckpoints, tmp_path: Path
) -> None:
    card = {**card_of(base_folder, {}), "tasks": {"pair": {"labels": ["cat", "dog"], "texts": 2}}}
    trainer_on(base, checkpoints, ("single_label",)).export(make_job(stage=0), tmp_path, card)
    with pytest.raises(ModelError, match="two texts, in a line divided by a tab, got 'red'"):
        Predictor(tmp_path).predict(["red"])


class TestTheFolder:
    @pytest.fixture
    def folder(self, trainer: LoraTrainer, base_folder: Path, tmp_path: Path) -> Path:
        return exported(trainer, tmp_path / "champion", base_folder, {})

    def test_it_holds_no_pickle(self, folder: Path) -> None:
        files = {path.name for path in folder.rglob("*") if path.is_file()}
        assert {"adapter_model.safetensors", "heads.safetensors", "tokenizer.json"} <= files
        assert not {name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))}

    def test_its_model_card_tells_the_metrics_and_the_labels(self, folder: Path) -> None:
        text = (folder / "README.md").read_text()
        assert "| auroc | 0.9124 | 0.8765 |" in text
        assert "| colour.auroc | 0.5000 | 0.5000 |" in text
        assert "`colour`: red, green, blue" in text
        assert "| `adapter.rank` | 4 |" in text
        assert "1,234" in text

    def test_its_facts_are_the_card(self, folder: Path, base_folder: Path) -> None:
        facts = json.loads((folder / "coral.json").read_text())
        assert digest_of(facts) == digest_of(card_of(base_folder, {}))

    def test_its_tokenizer_is_that_of_the_base(self, folder: Path, base: BaseModel) -> None:
        own = AutoTokenizer.from_pretrained(folder)
        assert own(list(TEXTS))["input_ids"] == base.tokenizer(list(TEXTS))["input_ids"]

    def test_its_adapter_names_its_base(self, folder: Path, base_folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base_folder)
        assert config["r"] == 4

    def test_the_base_stays_usable_after_it(
        self, folder: Path, base: BaseModel, base_folder: Path
    ) -> None:
        fresh = load_base(str(base_folder), device="cpu", trust_remote_code=False)
        for name, tensor in base.model.state_dict().items():
            assert torch.equal(tensor, fresh.model.state_dict()[name])


def test_a_card_without_test_metrics_shows_none(
    trainer: LoraTrainer, base_folder: Path, tmp_path: Path
) -> None:
    card = card_of(base_folder, {})
    card["metrics"] = {"validation": {"auroc": 0.91239}, "test": None}
    trainer.export(make_job(stage=0), tmp_path, card)
    assert "| auroc | 0.9124 | – |" in (tmp_path / "README.md").read_text()


def test_the_predictor_takes_no_text_for_an_answer(
    trainer: LoraTrainer, base_folder: Path, tmp_path: Path
) -> None:
    assert Predictor(exported(trainer, tmp_path, base_folder, {})).predict([]) == []


def test_a_prediction_does_not_depend_on_the_other_texts(
    trainer: LoraTrainer, base_folder: Path, tmp_path: Path
) -> None:
    predictor = Predictor(exported(trainer, tmp_path, base_folder, {}))
    together = predictor.predict(TEXTS)
    for text, answer in zip(TEXTS, together, strict=True):
        (alone,) = predictor.predict([text])
        for task, probabilities in answer.items():
            assert alone[task] == pytest.approx(probabilities, abs=1e-5)


def test_an_adapter_that_covers_only_a_part_of_the_model_is_refused(
    trainer: LoraTrainer, base_folder: Path, tmp_path: Path
) -> None:
    folder = exported(trainer, tmp_path, base_folder, {})
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[next(iter(weights))]
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not cover the model"):
        Predictor(folder)


def test_an_adapter_of_other_base_weights_is_refused(
    trainer: LoraTrainer, base_folder: Path, tmp_path: Path
) -> None:
    folder = exported(trainer, tmp_path, base_folder, {})
    card = json.loads((folder / "coral.json").read_text())
    (folder / "coral.json").write_text(json.dumps({**card, "base_model_digest": "0" * 64}))
    with pytest.raises(ModelError, match="was trained on other weights"):
        Predictor(folder)


FILES = ("coral.json", "heads.safetensors", "adapter_model.safetensors")


@pytest.mark.parametrize("missing", FILES)
def test_an_unfinished_folder_is_refused_with_a_remedy(
    trainer: LoraTrainer, base_folder: Path, tmp_path: Path, missing: str
) -> None:
    folder = exported(trainer, tmp_path, base_folder, {})
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="coral resume"):
        Predictor(folder)


@pytest.mark.parametrize("damaged", FILES)
def test_a_damaged_folder_is_refused_with_a_remedy(
    trainer: LoraTrainer, base_folder: Path, tmp_path: Path, damaged: str
) -> None:
    folder = exported(trainer, tmp_path, base_folder, {})
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:20])
    with pytest.raises(ModelError, match="coral resume"):
        Predictor(folder)
