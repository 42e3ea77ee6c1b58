"""Training on what a task makes itself for the model: texts with images."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from coral.errors import ModelError, TaskError
from coral.fidelity.stages import Stage
from coral.ports import DataContext
from coral.records import Outcome
from coral.tasks import discover
from coral.training.base import BaseModel, load_base, load_processor
from coral.training.data import LoadedTask, data_digest
from coral.training.export import Predictor
from coral.training.trainer import NOTHING_SHARED, LoraTrainer
from tests.training.conftest import MemoryCheckpoints, make_job
from tests.training.models import colours, load
from tests.training.vision_models import (
    LANGUAGE_DEPTH,
    VISION_DEPTH,
    save_model,
    write_news,
)

METRICS = ["auroc", "text_only_auroc", "cross_modal_gain", "robust_auroc"]
HAS_TIMM = importlib.util.find_spec("timm") is not None
FAMILIES = [
    "gemma3",
    pytest.param(
        "gemma3n", marks=pytest.mark.skipif(not HAS_TIMM, reason="its image tower is timm's")
    ),
]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family's tiny model and its processor."""
    return save_model(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    import torch

    torch.set_num_threads(1)
    return load_base(str(folder), device="cpu", trust_remote_code=False)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return load_processor(str(folder), trust_remote_code=False)


def loaded(task: Any, cache_dir: Path) -> LoadedTask:
    data = task.load(DataContext(cache_dir=cache_dir))
    return LoadedTask(task=task, data=data, domains=task.domains(data.train))


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> LoadedTask:
    folder = tmp_path_factory.mktemp("news")
    path = write_news(folder / "data", 240)
    task = discover().build("fakenews-gemma3n", {"path": str(path), "metrics": METRICS})
    return loaded(task, folder / "cache")


@pytest.fixture
def trainer(base: BaseModel, processor: Any, news: LoadedTask) -> LoraTrainer:
    return LoraTrainer(
        base,
        {news.name: news},
        MemoryCheckpoints(),
        lambda _: None,
        slots=4,
        processor=processor,
    )


def run(trainer: LoraTrainer, epochs: float, values: Mapping[str, Any]) -> Outcome:
    stage = Stage(name="only", epoch_budget=epochs, data_percentage=100, survival_rate=1)
    plan = {"adapter.target_modules": "all-linear", "encoding.pooling": "last", **values}
    (outcome,) = trainer.train([make_job(plan, stage=0, stages=(stage,))])
    assert outcome.failure is None, outcome.failure
    return outcome


def test_the_stack_is_the_language_models_and_towers_are_left_out(base: BaseModel) -> None:
    assert {m.name.split(".")[0] for m in base.linear_modules if m.layer is not None} == {
        "language_model"
    }
    assert not [m.name for m in base.linear_modules if "tower" in m.name]
    assert (base.hidden_size, base.max_tokens) == (32, 64)
    if "gemma3n" not in type(base.model).__name__.lower():
        assert base.depth == LANGUAGE_DEPTH < VISION_DEPTH


def test_what_only_text_and_image_together_tell_is_learned(
    trainer: LoraTrainer, base: BaseModel
) -> None:
    if base.depth != LANGUAGE_DEPTH:
        pytest.skip("what timm draws at random for Gemma 3n tells colours apart too faintly")
    metrics = run(trainer, 6, {"schedule.learning_rate": 1e-2}).metrics
    assert metrics["auroc"] > 0.9
    assert metrics["cross_modal_gain"] > 0.1


def test_views_are_predicted_beside_the_whole(trainer: LoraTrainer) -> None:
    metrics = run(trainer, 0.2, {}).metrics
    assert metrics["cross_modal_gain"] == metrics["auroc"] - metrics["text_only_auroc"] != 0
    assert np.isfinite(metrics["robust_auroc"])


def test_tokens_of_images_are_counted(trainer: LoraTrainer, news: LoadedTask) -> None:
    outcome = run(trainer, 0.1, {})
    assert outcome.cost.tokens / outcome.cost.examples > 8


def test_batches_keep_the_shares_of_class_and_image(trainer: LoraTrainer, news: LoadedTask) -> None:
    index = trainer._sets.train_set(make_job().plan, 0).index
    pictured = [picture is not None for picture in news.data.train.inputs["image"]]
    assert index.stratum is not None
    groups = np.unique(2 * news.data.train.labels + pictured, return_inverse=True)[1]
    assert index.stratum.tolist() == groups.tolist()


def test_texts_alone_are_predicted_at_the_proxys_stage_alone(
    base: BaseModel, processor: Any, news: LoadedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(news.task, metrics=["auroc"], proxy_stage=1)  # type: ignore[type-var]
    trainer = LoraTrainer(
        base,
        {news.name: replace(news, task=task)},
        MemoryCheckpoints(),
        lambda _: None,
        processor=processor,
    )
    assert trainer.survey().proxies == {f"{news.name}.text_only_auroc": f"{news.name}.auroc"}
    jobs = [make_job({"adapter.target_modules": "all-linear"}, stage=stage) for stage in (0, 1)]
    first, second = (next(iter(trainer.train([job]))) for job in jobs)
    assert "text_only_auroc" not in first.metrics
    assert second.metrics["text_only_auroc"] == second.metrics[f"{news.name}.text_only_auroc"]
    assert {view for *_, view in trainer._sets._splits} == {"plain", "text_only"}


def test_another_image_is_other_data(news: LoadedTask) -> None:
    train = news.data.train
    pictures = (train.inputs["image"][1], *train.inputs["image"][1:])
    swapped = replace(news.data, train=replace(train, inputs={"image": pictures}))
    loaded, other = {"news": news}, {"news": LoadedTask(task=news.task, data=swapped)}
    assert data_digest(other) != data_digest(loaded) == data_digest({"news": news})


def test_nothing_is_shared_and_the_survey_says_so(
    base: BaseModel, processor: Any, news: LoadedTask
) -> None:
    from coral.training.prefix import Prefixes

    loaded = {news.name: news}
    prefixes = Prefixes(base, Path("unused"))
    shared = LoraTrainer(
        base, loaded, MemoryCheckpoints(), print, prefixes, slots=None, processor=processor
    ).survey()
    assert (shared.shares_prefixes, shared.slots) == (False, 1)
    assert NOTHING_SHARED in shared.tasks[0].notes


def test_several_jobs_at_once_are_trained_one_by_one(trainer: LoraTrainer) -> None:
    job = make_job({"adapter.target_modules": "all-linear"}, stage=0)
    jobs = [replace(job, key=str(i), trial=i, seed=i) for i in range(2)]
    assert [outcome.failure for outcome in trainer.train(jobs)] == [None, None]


def test_such_a_task_must_be_alone(base: BaseModel, processor: Any, news: LoadedTask) -> None:
    with pytest.raises(TaskError, match="must be the only one of its run"):
        LoraTrainer(
            base,
            {news.name: news, **load(colours())},
            MemoryCheckpoints(),
            print,
            processor=processor,
        )


def test_a_plugin_that_fails_to_collate_is_the_plugins_failure(
    base: BaseModel, news: LoadedTask
) -> None:
    class Broken:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer
            self.image_token = "<boi>"

        def __call__(self, **_: Any) -> Any:
            return {"input_ids": None, "attention_mask": np.ones(9)}

    trainer = LoraTrainer(
        base, {news.name: news}, MemoryCheckpoints(), print, processor=Broken(base.tokenizer)
    )
    (outcome,) = trainer.train([make_job({"adapter.target_modules": "all-linear"})])
    assert outcome.failure is not None


def test_the_adapter_that_is_handed_over_labels_texts_without_images(
    trainer: LoraTrainer, folder: Path, tmp_path: Path, news: LoadedTask
) -> None:
    stage = Stage(name="only", epoch_budget=0.2, data_percentage=100, survival_rate=1)
    job = make_job({"adapter.target_modules": "all-linear"}, stage=0, stages=(stage,))
    card = {
        "base_model": str(folder),
        "base_model_digest": trainer.survey().model_digest,
        "tasks": {news.name: {"labels": ["real", "fake"]}},
        "plan": {"encoding": {"pooling": "mean", "sequence_len": 16}},
        "metrics": {"validation": {}, "test": {}},
        "genome": {},
        "run": "news",
        "trial": 0,
        "versions": {"coral": "0"},
        "seed": 0,
        "lineage": {"generation": 0, "operator": "reference"},
        "trainable_parameters": 1,
        "cumulative_steps": 1,
    }
    trainer.export(job, tmp_path / "champion", card)
    assert (tmp_path / "champion" / "processor_config.json").exists()
    (told,) = Predictor(tmp_path / "champion").predict(["w1 red"])
    assert set(told[news.name]) == {"real", "fake"}


def test_a_base_that_reads_texts_alone_is_refused(base_folder: Path) -> None:
    with pytest.raises(ModelError, match="reads texts alone"):
        load_processor(str(base_folder), trust_remote_code=False)
