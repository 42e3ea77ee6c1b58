"""Jobs whose answers are written: training, evaluation, weights, and what is handed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import AutoPeftModelForCausalLM, PeftModel, TaskType
from transformers import AutoModelForCausalLM, AutoTokenizer

from coral.ports import CausalSettings, DataContext, Examples, Inherited, TaskData, TrainingJob
from coral.tasks import GENERATION_METRICS, LANGUAGE_METRICS, score_language
from coral.training.base import BaseModel, load_base
from coral.training.batches import stage_batches
from coral.training.data import LoadedTask
from coral.training.export import Predictor
from coral.training.job import JobLog
from coral.training.prefix import Prefixes
from coral.training.trainer import LoraTrainer
from tests.training.conftest import LAST, SEED, MemoryCheckpoints, make_job
from tests.training.language import capitals, save_language_model
from tests.training.models import colours
from tests.training.test_export import card_of

QUICK = {"adapter.target_modules": "all-linear", "encoding.sequence_len": 64}


class Capitals:
    """Answers are written, and a few of them generated."""

    def __init__(self, name: str = "assist", **settings: Any) -> None:
        self.name = name
        self.settings = CausalSettings(**settings)
        generated = GENERATION_METRICS if self.settings.generate_examples else {}
        self.metrics = {**LANGUAGE_METRICS, **generated}
        self.primary_metric = "perplexity"

    def load(self, context: DataContext | None = None) -> TaskData:
        return TaskData(
            train=_examples(48, 0),
            validation=_examples(12, 1),
            test=_examples(12, 2),
            label_names=(),
            problem="causal_lm",
            causal=self.settings,
        )

    def score(
        self, labels: NDArray[np.int64], predictions: NDArray[np.float64]
    ) -> dict[str, float]:
        return score_language(predictions)


def _examples(count: int, seed: int) -> Examples:
    talks = capitals(count, seed)
    return Examples(
        texts=tuple(str(talk) for talk in talks),
        labels=np.zeros(count, dtype=np.int64),
        inputs={"messages": talks},
    )


BuildTrainer = Callable[..., LoraTrainer]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language"), "qwen3")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    torch.set_num_threads(1)
    return load_base(str(folder), device="cpu", trust_remote_code=False, causal=True)


@pytest.fixture
def build(base: BaseModel) -> BuildTrainer:
    def build(
        *tasks: Any,
        on: BaseModel = base,
        prefixes: Prefixes | None = None,
        checkpoints: MemoryCheckpoints | None = None,
        **settings: Any,
    ) -> LoraTrainer:
        loaded = {
            task.name: LoadedTask(task=task, data=task.load())
            for task in tasks or (Capitals(**settings),)
        }
        store = checkpoints or MemoryCheckpoints()
        return LoraTrainer(on, loaded, store, lambda progress: None, prefixes)

    return build


def job(values: dict[str, Any] | None = None, **fields: Any) -> TrainingJob:
    return make_job(QUICK | (values or {}), **fields)


def outcome_of(trainer: LoraTrainer, wanted: TrainingJob) -> Any:
    [outcome] = trainer.train([wanted])
    assert outcome.failure is None, outcome.failure.traceback
    return outcome


def test_training_makes_answers_more_likely_and_generation_right(build: BuildTrainer) -> None:
    trainer = build(generate_examples=4, max_new_tokens=6)
    values = {"schedule.learning_rate": 2e-2, "schedule.batch_size": 4}
    before = outcome_of(trainer, job({"schedule.learning_rate": 1e-9}, stage=0))
    after = outcome_of(trainer, job(values))
    assert set(after.metrics) >= {"assist.perplexity", "perplexity", "exact_match", "rouge_l"}
    assert after.metrics["perplexity"] < 0.2 * before.metrics["perplexity"]
    assert after.metrics["token_accuracy"] > before.metrics["token_accuracy"]
    assert after.metrics["rouge_l"] >= before.metrics["rouge_l"]


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("llama", "in pieces"),
        ("llama", "prefix"),
        ("llama", "recomputed"),
        ("qwen3", "packed"),
        ("qwen3", "packed in pieces"),
        ("qwen3", "prefix, packed, recomputed"),
        ("gemma3", "packed"),
        ("gemma3", "prefix, packed in pieces"),
        ("gemma3", "recomputed"),
    ],
)
def test_a_batch_has_the_same_loss_and_gradients_however_it_is_computed(
    tmp_path: Path, build: BuildTrainer, family: str, changed: str
) -> None:
    folder = save_language_model(tmp_path / "model", family)
    found = []
    for how in ("", changed):
        own = load_base(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            causal=True,
            gradient_checkpointing="recomputed" in how,
        )
        prefixes = Prefixes(own, tmp_path / "prefixes") if "prefix" in how else None
        trainer = build(on=own, prefixes=prefixes, sample_packing="packed" in how)
        dropout = 0.2 if changed == "recomputed" else 0.0  # rows draw by their places
        values = {"adapter.layers": "top-2", "adapter.dropout": dropout}
        pieces = 3 if "pieces" in how else None
        wanted = job(values, stage=0, micro_batch_size=pieces)
        with trainer._runner.trained(wanted, JobLog()) as trained:
            assert (trained.encoder.entrance.start.layer > 0) == ("prefix" in how)
            found.append((trained.last.loss, trained.encoder.state()))
    (losses, weights), (other_losses, other_weights) = found
    np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(other_weights[name], tensor, atol=2e-4, rtol=1e-3)


def test_the_loss_of_a_batch_is_the_mean_over_its_trained_tokens(
    base: BaseModel, build: BuildTrainer
) -> None:
    trainer, wanted = build(), job({"schedule.learning_rate": 1e-9}, stage=0)
    train_set = trainer._sets.train_set(wanted.plan, SEED)
    assert base.language is not None and train_set.texts.trained is not None
    total, count = 0.0, 0
    for row in stage_batches(wanted.plan, train_set.index, wanted.stages, 0, SEED)[0]:
        own = slice(train_set.texts.starts[row], train_set.texts.starts[row + 1])
        ids = torch.from_numpy(train_set.texts.ids[own])[None]
        labels = torch.where(torch.from_numpy(train_set.texts.trained[own]), ids, -100)
        with torch.no_grad():
            loss = base.language.model(input_ids=ids, labels=labels).loss
        total, count = (
            total + float(loss) * int((labels > 0).sum()),
            count + int((labels > 0).sum()),
        )
    with trainer._runner.trained(wanted, JobLog()) as trained:
        assert trained.last.loss[0] == pytest.approx(total / count, rel=1e-4)


def test_a_task_counts_by_its_share_of_a_batch(build: BuildTrainer) -> None:
    train_set = build(Capitals(), colours(24))._sets.train_set(job().plan, SEED)
    rows = np.array([0, 1, 2, 50, 51, 52, 53, 54])
    shares = train_set.token_shares(rows)
    assert shares == {"assist": pytest.approx(3 / 8 / train_set.written[:3].sum())}


def test_a_stage_that_is_resumed_ends_in_the_same_weights(build: BuildTrainer) -> None:
    checkpoints = MemoryCheckpoints()
    trainer = build(checkpoints=checkpoints)
    first = outcome_of(trainer, job(stage=1))
    resumed = outcome_of(trainer, job(resume_from=first.checkpoint))
    whole = outcome_of(build(checkpoints=checkpoints), job())
    assert resumed.metrics["perplexity"] == pytest.approx(whole.metrics["perplexity"], rel=1e-6)


def test_a_child_inherits_at_another_rank_and_is_as_good_at_once(build: BuildTrainer) -> None:
    trainer = build(checkpoints=MemoryCheckpoints())
    parent = outcome_of(trainer, job({"schedule.learning_rate": 2e-2}))
    inherits = Inherited(trial=0, stage=LAST, key="p", address=parent.checkpoint)
    child = job(
        {"adapter.rank": 8, "schedule.learning_rate": 1e-9}, entry=LAST, inherits=(inherits,)
    )
    born = outcome_of(trainer, child)
    assert born.inheritance.retained_energy == pytest.approx(1)
    assert born.metrics["perplexity"] == pytest.approx(parent.metrics["perplexity"], rel=1e-3)


def test_answers_beyond_the_cut_are_never_drawn(build: BuildTrainer) -> None:
    trainer = build()
    whole = trainer._sets.train_set(job().plan, SEED)
    lengths = whole.index.length
    cut = int(np.median(lengths - whole.written - 1))  # a line's end follows the answer
    wanted = job({"encoding.sequence_len": cut}, stage=0)
    train_set = trainer._sets.train_set(wanted.plan, SEED)
    unusable = np.flatnonzero(train_set.written == 0)
    assert 0 < len(unusable) < len(train_set.index)
    assert len(train_set.index) == len(lengths)
    assert not train_set.index.usable[unusable].any()
    [note] = outcome_of(trainer, wanted).notes
    assert note.startswith(f"assist: {len(unusable)} examples have")


def test_answers_that_are_all_cut_off_are_a_failure_with_a_remedy(build: BuildTrainer) -> None:
    [outcome] = build().train([job({"encoding.sequence_len": 3}, stage=0)])
    assert outcome.failure is not None
    assert outcome.failure.kind == "plugin"
    assert "sequence_len (3)" in outcome.failure.message


def test_half_precision_trains_and_is_evaluated_without_folding(
    folder: Path, build: BuildTrainer
) -> None:
    coarse = load_base(
        str(folder), device="cpu", trust_remote_code=False, causal=True, precision="bfloat16"
    )
    found = outcome_of(build(on=coarse), job(stage=1))
    exact = outcome_of(build(), job(stage=1))
    assert found.metrics["perplexity"] == pytest.approx(exact.metrics["perplexity"], rel=0.1)
    assert found.metrics["perplexity"] != exact.metrics["perplexity"]


class TestHandedOver:
    @pytest.fixture
    def handed_over(self, folder: Path, build: BuildTrainer, tmp_path: Path) -> Path:
        trainer = build(max_new_tokens=6)
        card = card_of(folder, QUICK) | {
            "tasks": {"assist": {"labels": [], "problem": "causal_lm"}}
        }
        trainer.export(job({"schedule.learning_rate": 2e-2}), tmp_path / "champion", card)
        return tmp_path / "champion"

    @pytest.mark.parametrize("loader", ["PeftModel", "AutoPeftModelForCausalLM"])
    def test_peft_alone_gives_the_logits_of_the_trained_model(
        self, folder: Path, build: BuildTrainer, handed_over: Path, loader: str
    ) -> None:
        ids = torch.arange(5, 25).reshape(2, 10)
        trainer = build()
        with (
            trainer._runner.trained(job({"schedule.learning_rate": 2e-2}), JobLog()) as trained,
            torch.no_grad(),
        ):
            language = trained.encoder.base.language
            assert language is not None
            expected = language.model(input_ids=ids).logits
        if loader == "PeftModel":
            plain = AutoModelForCausalLM.from_pretrained(folder)
            model = PeftModel.from_pretrained(plain, str(handed_over))
        else:
            model = AutoPeftModelForCausalLM.from_pretrained(str(handed_over))
        config = json.loads((handed_over / "adapter_config.json").read_text())
        assert config["task_type"] == TaskType.CAUSAL_LM
        assert "model.layers.0.self_attn.q_proj" in config["target_modules"]
        with torch.no_grad():
            found = model.eval()(input_ids=ids).logits
            with model.disable_adapter():
                bare = model(input_ids=ids).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert (found - bare).abs().max() > 0.1

    def test_prompts_are_answered_as_the_trained_model_would(
        self, folder: Path, handed_over: Path
    ) -> None:
        asked = ["3: capital of Peru?", "7: please capital of Cuba?"]
        answers = Predictor(handed_over).predict(asked)
        plain = AutoModelForCausalLM.from_pretrained(folder)
        model = PeftModel.from_pretrained(plain, str(handed_over)).eval()
        tokenizer = AutoTokenizer.from_pretrained(handed_over)
        for question, answer in zip(asked, answers, strict=True):
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            written = model.generate(**prompt, max_new_tokens=6, do_sample=False)
            told = tokenizer.decode(
                written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True
            )
            assert answer == {"assist": told}

    def test_the_card_says_how_to_use_it(self, handed_over: Path) -> None:
        told = (handed_over / "README.md").read_text()
        assert "AutoModelForCausalLM" in told
        assert "`assist`: written answers" in told


def test_answers_and_labels_train_on_one_decoder(build: BuildTrainer, tmp_path: Path) -> None:
    trainer = build(Capitals(), colours(24))
    found = outcome_of(trainer, job({"encoding.pooling": "last", "schedule.learning_rate": 1e-2}))
    assert {"assist.perplexity", "colour.auroc"} <= set(found.metrics)
    assert "perplexity" not in found.metrics
    with trainer._runner.trained(job(stage=0), JobLog()) as trained:
        assert set(trained.encoder.heads) == {"colour"}
    facts = {
        "assist": {"labels": [], "problem": "causal_lm"},
        "colour": {"labels": ["red", "green", "blue"]},
    }
    folder = Path(trainer._base.language.model.name_or_path)  # type: ignore[union-attr]
    card = card_of(folder, QUICK) | {"tasks": facts}
    trainer.export(job(stage=0), tmp_path / "champion", card)
    [answer] = Predictor(tmp_path / "champion").predict(["red w1"])
    assert isinstance(answer["assist"], str)
    assert set(answer["colour"]) == {"red", "green", "blue"}
