"""What a job leaves behind: the weights it should, and nothing else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from coral.fidelity.stages import Stage, ladder_steps
from coral.plan import SchedulePlan
from coral.ports import Proxy, TrainingJob
from coral.records import Outcome
from coral.training.base import BaseModel
from coral.training.data import LoadedTask, build_train_set, data_digest
from coral.training.encoder import MultiTaskEncoder
from coral.training.loop import build_optimizer
from coral.training.trainer import LoraTrainer
from tests.training.conftest import (
    LADDER,
    LAST,
    BuildTrainer,
    MemoryCheckpoints,
    make_job,
)
from tests.training.models import (
    BrokenTask,
    KeywordTask,
    animals,
    colours,
)

MANY_STRATEGIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all linear maps": {"adapter.target_modules": "all-linear"},
    "dropout": {"adapter.dropout": 0.3},
    "rslora": {"adapter.rslora": True},
    "dora": {"adapter.dora": True, "adapter.dropout": 0.1},
    "top layer": {"adapter.layers": "top-1"},
    "progressive curriculum": {"curriculum.kind": "progressive", "curriculum.ramp": 1.0},
    "linear with decay": {"schedule.scheduler": "linear", "schedule.weight_decay": 0.3},
    "module without gradient": {"adapter.target_modules": ("dense",)},  # BERT's pooler is unused
    "cls pooling": {"encoding.pooling": "cls"},
}


def with_proxies(**proxies: Proxy) -> KeywordTask:
    """A task that has proxies."""
    task = colours()
    vars(task)["proxies"] = proxies
    return task


def run(trainer: LoraTrainer, job: TrainingJob) -> Outcome:
    (outcome,) = trainer.train([job])
    return outcome


def climb(trainer: LoraTrainer, values: Mapping[str, Any]) -> list[Outcome]:
    """Train stage by stage, each from the checkpoint of the one before."""
    outcomes: list[Outcome] = []
    for stage in range(len(LADDER)):
        address = outcomes[-1].checkpoint if outcomes else None
        outcomes.append(run(trainer, make_job(dict(values), stage=stage, resume_from=address)))
        assert outcomes[-1].failure is None, outcomes[-1].failure.traceback
    return outcomes


def weights(checkpoints: MemoryCheckpoints, outcome: Outcome) -> dict[str, Tensor]:
    """The tensors at a job's end: weights and optimizer moments."""
    assert outcome.failure is None, outcome.failure.traceback
    assert outcome.checkpoint is not None
    return load(checkpoints.get(outcome.checkpoint))


def assert_same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


def fingerprint(base: BaseModel) -> dict[str, str]:
    """SHA-256 of everything that the base model holds, and of what it is made of."""
    tensors = {name: t.numpy().tobytes() for name, t in base.model.state_dict().items()}
    modules = {name: repr(type(m)).encode() for name, m in base.model.named_modules()}
    flags = {
        f"flags of {name}": repr((p.requires_grad, p.grad)).encode()
        for name, p in base.model.named_parameters()
    }
    modes = {f"mode of {name}": b"%d" % m.training for name, m in base.model.named_modules()}
    everything = {**tensors, **modules, **flags, **modes}
    return {name: hashlib.sha256(content).hexdigest() for name, content in everything.items()}


@pytest.mark.parametrize("strategy", MANY_STRATEGIES)
def test_training_stage_by_stage_equals_training_straight_through(
    build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints, strategy: str
) -> None:
    values = MANY_STRATEGIES[strategy]
    by_stages = climb(build_trainer(), values)
    straight = run(build_trainer(), make_job(values))
    assert_same(weights(checkpoints, by_stages[-1]), weights(checkpoints, straight))
    assert by_stages[-1].metrics["auroc"] == straight.metrics["auroc"]
    assert by_stages[-1].cumulative_steps == straight.cumulative_steps
    assert by_stages[-1].metrics["train_cost"] == pytest.approx(straight.metrics["train_cost"])


@pytest.mark.parametrize(
    "task_weights",
    [{}, {"colour": 0.05, "animal": 0.95}, {"colour": 1.0, "animal": 0.0}],
    ids=["equal", "rare", "one without examples"],
)
def test_stages_and_straight_training_are_equal_for_two_tasks(
    build_trainer: BuildTrainer,
    checkpoints: MemoryCheckpoints,
    task_weights: Mapping[str, float],
) -> None:
    values = {"tasks.weights": task_weights, "adapter.dropout": 0.1, "schedule.batch_size": 4}
    by_stages = climb(build_trainer(colours(48), animals(24)), values)
    straight = run(build_trainer(colours(48), animals(24)), make_job(values))
    assert_same(weights(checkpoints, by_stages[-1]), weights(checkpoints, straight))


@pytest.mark.parametrize("by_stages", [True, False], ids=["stage by stage", "straight"])
def test_the_learning_rate_runs_over_the_full_horizon(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch, *, by_stages: bool
) -> None:
    used: list[tuple[float, float]] = []

    def build_and_listen(encoder: MultiTaskEncoder, schedule: SchedulePlan) -> torch.optim.AdamW:
        optimizer = build_optimizer(encoder, schedule)
        optimizer.register_step_pre_hook(
            lambda optimizer, *_: used.append(tuple(g["lr"] for g in optimizer.param_groups))
        )
        return optimizer

    monkeypatch.setattr("coral.training.job.build_optimizer", build_and_listen)
    values = {
        "schedule.scheduler": "linear",
        "schedule.warmup_ratio": 0.0,
        "schedule.learning_rate": 0.01,
        "schedule.head_lr_multiplier": 2.0,
    }
    if by_stages:
        climb(build_trainer(), values)
    else:
        run(build_trainer(), make_job(values))
    expected = [0.01 * (9 - step) / 9 for step in range(9)]
    assert [adapter for adapter, _ in used] == pytest.approx(expected)
    assert [heads for _, heads in used] == pytest.approx([2 * rate for rate in expected])


def test_a_stage_may_be_left_out_of_the_climb(
    build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints
) -> None:
    first = run(build_trainer(), make_job(stage=0))
    jumped = run(build_trainer(), make_job(resume_from=first.checkpoint))
    straight = run(build_trainer(), make_job())
    assert_same(weights(checkpoints, jumped), weights(checkpoints, straight))
    assert jumped.cost.optimizer_steps == straight.cost.optimizer_steps - first.cost.optimizer_steps


def test_the_order_of_jobs_on_a_trainer_changes_no_weights(
    build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints
) -> None:
    leaky = ("plain", "dropout", "dora", "top layer", "progressive curriculum")
    jobs = [make_job(MANY_STRATEGIES[strategy], stage=0) for strategy in leaky]
    alone = {job.key: run(build_trainer(), job) for job in jobs}
    forward = {outcome.key: outcome for outcome in build_trainer().train(jobs)}
    backward = {outcome.key: outcome for outcome in build_trainer().train(jobs[::-1])}
    for key, outcome in forward.items():
        assert_same(weights(checkpoints, outcome), weights(checkpoints, backward[key]))
        assert outcome.metrics == pytest.approx(backward[key].metrics, nan_ok=True, rel=0, abs=0)
    for key, outcome in alone.items():
        assert_same(weights(checkpoints, outcome), weights(checkpoints, forward[key]))


def test_global_random_state_changes_no_weights(
    build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints
) -> None:
    job = make_job({"adapter.dropout": 0.3}, stage=0)
    torch.manual_seed(1)
    one = run(build_trainer(), job)
    torch.manual_seed(2)
    assert_same(weights(checkpoints, one), weights(checkpoints, run(build_trainer(), job)))


def test_the_seed_changes_weights(
    build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints
) -> None:
    one, two = (
        weights(checkpoints, run(build_trainer(), make_job(stage=0, seed=s))) for s in (1, 2)
    )
    assert not any(torch.equal(one[name], two[name]) for name in one if name.startswith("head."))


def test_a_keyword_task_is_learnt(build_trainer: BuildTrainer) -> None:
    once = (Stage(name="only", epoch_budget=8, data_percentage=100, survival_rate=1),)
    values = {"schedule.learning_rate": 2e-2, "schedule.batch_size": 16}
    outcome = run(build_trainer(), make_job(values, stages=once, stage=0))
    assert outcome.metrics["auroc"] > 0.9
    assert outcome.metrics["loss_slope"] < 0


class TestTheBaseModelStaysAsItIs:
    def test_after_jobs_of_every_strategy(
        self, base: BaseModel, build_trainer: BuildTrainer
    ) -> None:
        before = fingerprint(base)
        trainer = build_trainer()
        for values in MANY_STRATEGIES.values():
            assert run(trainer, make_job(values, stage=0)).failure is None
            assert fingerprint(base) == before

    def test_after_a_diverged_job(self, base: BaseModel, build_trainer: BuildTrainer) -> None:
        before = fingerprint(base)
        outcome = run(build_trainer(), make_job({"schedule.learning_rate": 1e6}))
        assert outcome.failure is not None
        assert fingerprint(base) == before

    def test_after_an_error_in_the_middle_of_an_evaluation(
        self, base: BaseModel, build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = fingerprint(base)

        def fail(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
            if torch.is_grad_enabled():
                return hidden[:, 0]
            raise MemoryError

        monkeypatch.setattr("coral.training.encoder.pool", fail)
        outcome = run(build_trainer(), make_job(stage=0))
        assert outcome.failure is not None
        assert outcome.failure.kind == "oom"
        assert fingerprint(base) == before

    def test_after_a_plan_that_fits_no_module(
        self, base: BaseModel, build_trainer: BuildTrainer
    ) -> None:
        before = fingerprint(base)
        outcome = run(build_trainer(), make_job({"adapter.target_modules": ("gate",)}))
        assert outcome.failure is not None
        assert "target modules gate match nothing" in outcome.failure.message
        assert fingerprint(base) == before

    def test_after_scoring(self, base: BaseModel, build_trainer: BuildTrainer) -> None:
        before = fingerprint(base)
        build_trainer().score([make_job(stage=0), make_job({"adapter.dora": True}, stage=0)], 0)
        assert fingerprint(base) == before


class TestACheckpointThatIsNoUseOnlyCostsRetraining:
    @pytest.fixture
    def trainer(self, build_trainer: BuildTrainer) -> LoraTrainer:
        return build_trainer()

    @pytest.fixture
    def expected(self, trainer: LoraTrainer, checkpoints: MemoryCheckpoints) -> dict[str, Tensor]:
        return weights(checkpoints, run(trainer, make_job(stage=1)))

    def retrained(
        self, trainer: LoraTrainer, checkpoints: MemoryCheckpoints, address: str | None
    ) -> dict[str, Tensor]:
        job = make_job(stage=1, resume_from=address)
        outcome = run(trainer, job)
        ends = ladder_steps(LADDER, 48, job.plan.schedule.batch_size)
        assert outcome.cost.optimizer_steps == ends[1]
        return weights(checkpoints, outcome)

    def test_missing(
        self, trainer: LoraTrainer, checkpoints: MemoryCheckpoints, expected: dict[str, Tensor]
    ) -> None:
        assert_same(self.retrained(trainer, checkpoints, "0" * 64), expected)

    @pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, 0.999])
    def test_truncated(
        self,
        trainer: LoraTrainer,
        checkpoints: MemoryCheckpoints,
        expected: dict[str, Tensor],
        kept: float,
    ) -> None:
        whole = checkpoints.get(run(trainer, make_job(stage=0)).checkpoint or "")
        size = int(kept * len(whole)) if isinstance(kept, float) else kept
        assert_same(self.retrained(trainer, checkpoints, checkpoints.put(whole[:size])), expected)

    def test_random_bytes(
        self, trainer: LoraTrainer, checkpoints: MemoryCheckpoints, expected: dict[str, Tensor]
    ) -> None:
        noise = bytes((i * 97 + 13) % 256 for i in range(4096))
        assert_same(self.retrained(trainer, checkpoints, checkpoints.put(noise)), expected)

    def test_other_safetensors(
        self, trainer: LoraTrainer, checkpoints: MemoryCheckpoints, expected: dict[str, Tensor]
    ) -> None:
        other = checkpoints.put(save({"weight": torch.zeros(3)}))
        assert_same(self.retrained(trainer, checkpoints, other), expected)

    @pytest.mark.parametrize(
        "values",
        [{"schedule.learning_rate": 1e-3}, {"adapter.rank": 8}],
        ids=["same shapes", "other shapes"],
    )
    def test_of_another_plan(
        self,
        trainer: LoraTrainer,
        checkpoints: MemoryCheckpoints,
        expected: dict[str, Tensor],
        values: dict[str, Any],
    ) -> None:
        foreign = run(trainer, make_job(values, stage=0)).checkpoint
        assert_same(self.retrained(trainer, checkpoints, foreign), expected)

    def test_of_another_base_model(
        self,
        base: BaseModel,
        build_trainer: BuildTrainer,
        trainer: LoraTrainer,
        checkpoints: MemoryCheckpoints,
        expected: dict[str, Tensor],
    ) -> None:
        elsewhere = build_trainer()
        elsewhere._runner._base = replace(base, digest="another")
        foreign = run(elsewhere, make_job(stage=0)).checkpoint
        assert_same(self.retrained(trainer, checkpoints, foreign), expected)

    def test_of_a_later_stage(
        self, trainer: LoraTrainer, checkpoints: MemoryCheckpoints, expected: dict[str, Tensor]
    ) -> None:
        later = run(trainer, make_job()).checkpoint
        assert_same(self.retrained(trainer, checkpoints, later), expected)

    def test_of_another_ladder(
        self, trainer: LoraTrainer, checkpoints: MemoryCheckpoints, expected: dict[str, Tensor]
    ) -> None:
        shorter = (replace(LADDER[0], epoch_budget=0.1), *LADDER[1:])
        foreign = run(trainer, make_job(stage=0, stages=shorter)).checkpoint
        assert_same(self.retrained(trainer, checkpoints, foreign), expected)


def test_a_job_whose_checkpoint_is_there_trains_nothing(
    build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints
) -> None:
    trained = run(build_trainer(), make_job(stage=1))
    again = run(build_trainer(), make_job(stage=1, resume_from=trained.checkpoint))
    assert again.cost.optimizer_steps == 0
    assert again.checkpoint == trained.checkpoint
    assert again.cumulative_steps == trained.cumulative_steps
    for metric in ("auroc", "log_loss", "train_cost"):
        assert again.metrics[metric] == trained.metrics[metric]
    assert len(checkpoints.contents) == 1


def test_costs_of_the_stages_add_up_to_those_of_straight_training(
    build_trainer: BuildTrainer,
) -> None:
    by_stages = climb(build_trainer(), {})
    straight = run(build_trainer(), make_job()).cost
    for field in ("optimizer_steps", "examples", "tokens", "teraflops"):
        spent = sum(getattr(outcome.cost, field) for outcome in by_stages)
        assert spent == pytest.approx(getattr(straight, field), rel=1e-12)
        assert spent > 0


def test_the_curve_counts_steps_since_the_trial_began(build_trainer: BuildTrainer) -> None:
    ends = [0, *ladder_steps(LADDER, 48, 8)]
    for outcome in climb(build_trainer(), {}):
        assert outcome.curve.step[0] == ends[outcome.stage] + 1
        assert outcome.curve.step[-1] == ends[outcome.stage + 1] == outcome.cumulative_steps
        assert len(outcome.curve.loss) == len(outcome.curve.gradient_norm)


def test_a_long_curve_is_thinned_and_keeps_both_ends(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coral.training.trainer.CURVE_POINTS", 5)
    long = (Stage(name="only", epoch_budget=1.5, data_percentage=100, survival_rate=1),)
    outcome = run(build_trainer(), make_job(stages=long, stage=0))
    assert outcome.cost.optimizer_steps == 9
    assert outcome.curve.step == (1, 3, 5, 7, 9)


class TestFailuresAreOutcomes:
    def test_divergence_is_one_and_the_next_job_is_unharmed(
        self, build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints
    ) -> None:
        wild = make_job({"schedule.learning_rate": 1e6})
        healthy = make_job({"adapter.dropout": 0.2}, stage=0)
        failed, trained = build_trainer().train([wild, healthy])
        assert failed.failure is not None
        assert failed.failure.kind == "diverged"
        assert "finite" in failed.failure.message
        assert (failed.key, failed.stage, failed.checkpoint) == (wild.key, LAST, None)
        alone = run(build_trainer(), healthy)
        assert_same(weights(checkpoints, trained), weights(checkpoints, alone))

    @pytest.mark.parametrize("learning_rate", [1e12, 1e20, 1e30, 1e38])
    def test_divergence_in_the_very_last_step_is_one_too(
        self, build_trainer: BuildTrainer, checkpoints: MemoryCheckpoints, learning_rate: float
    ) -> None:
        """The loss is finite throughout; only the weights, or what they predict, are not."""
        one_step = (Stage(name="only", epoch_budget=0.01, data_percentage=100, survival_rate=1),)
        values = {
            "schedule.learning_rate": learning_rate,
            "schedule.scheduler": "constant",
            "adapter.layers": "top-1",
        }
        outcome = run(build_trainer(), make_job(values, stages=one_step, stage=0))
        if outcome.failure is not None:
            assert outcome.failure.kind == "diverged", outcome.failure.traceback
            assert not checkpoints.contents
        assert all(math.isfinite(v) for n, v in outcome.metrics.items() if n != "loss_slope")

    def test_a_plugin_that_raises_in_score_is_one_and_its_traceback_names_the_line(
        self, build_trainer: BuildTrainer
    ) -> None:
        outcome = run(build_trainer(BrokenTask("broken", ("cat", "dog"), 32)), make_job(stage=0))
        assert outcome.failure is not None
        assert outcome.failure.kind == "plugin"
        assert "broken" in outcome.failure.message
        assert "ZeroDivisionError('no positives')" in outcome.failure.message
        assert 'raise ZeroDivisionError("no positives")' in outcome.failure.traceback
        assert "models.py" in outcome.failure.traceback

    def test_metrics_that_the_task_does_not_declare_are_one(
        self, build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = colours()
        task.metrics = {"auroc": "max", "kappa": "max"}
        outcome = run(build_trainer(task), make_job(stage=0))
        assert outcome.failure is not None
        assert outcome.failure.kind == "plugin"
        assert "kappa" in outcome.failure.message

    @pytest.mark.parametrize("slots", [1, 2], ids=["alone", "in a pack"])
    def test_a_metric_that_is_not_finite_is_one_and_names_the_plugin(
        self, base: BaseModel, checkpoints: MemoryCheckpoints, slots: int
    ) -> None:
        class Undefined(KeywordTask):
            def score(self, labels: object, probabilities: object) -> dict[str, float]:
                return dict.fromkeys(self.metrics, math.nan)

        task = Undefined("undefined", ("cat", "dog"), 32)
        loaded = {task.name: LoadedTask(task=task, data=task.load(), plugin="mine (/plugins/mine)")}
        trainer = LoraTrainer(base, loaded, checkpoints, lambda progress: None, slots=slots)
        for outcome in trainer.train([make_job(stage=0), make_job({"adapter.rank": 2}, stage=0)]):
            assert outcome.failure is not None
            assert outcome.failure.kind == "plugin"
            assert "score() must return finite numbers" in outcome.failure.message
            assert "auroc=nan" in outcome.failure.message
            assert "plugin mine (/plugins/mine)" in outcome.failure.message

    def test_a_proxy_that_raises_is_one_at_its_stage_alone(
        self, build_trainer: BuildTrainer
    ) -> None:
        task = with_proxies(broken=Proxy(score=lambda labels, predictions: 1 / 0, stage=1))
        early, late = (run(build_trainer(task), make_job(stage=stage)) for stage in (0, 1))
        assert early.failure is None
        assert late.failure is not None
        assert late.failure.kind == "plugin"
        assert "the proxy broken: ZeroDivisionError" in late.failure.message

    @pytest.mark.parametrize(("share", "fails"), [(50, False), (100, True)])
    def test_a_proxy_may_be_undefined_on_a_part_of_the_split(
        self, build_trainer: BuildTrainer, share: float, fails: bool
    ) -> None:
        task = with_proxies(unclear=Proxy(score=lambda labels, predictions: math.nan, stage=0))
        stage = replace(LADDER[0], evaluation_percentage=share)
        outcome = run(build_trainer(task), make_job(stage=0, stages=(stage, *LADDER[1:])))
        assert (outcome.failure is not None) == fails
        if outcome.failure is not None:
            assert "a proxy must return finite numbers" in outcome.failure.message

    def test_what_a_failed_job_spent_is_reported(self, build_trainer: BuildTrainer) -> None:
        wild = make_job({"schedule.learning_rate": 1e6})
        outcome = run(build_trainer(), wild)
        assert outcome.cost.optimizer_steps > 0
        assert outcome.cost.tokens > 0
        assert outcome.cost.teraflops > 0
        assert len(outcome.curve.loss) > 0

    def test_a_failure_reports_the_attempt(self, build_trainer: BuildTrainer) -> None:
        job = make_job({"schedule.learning_rate": 1e6}, attempt=3)
        assert run(build_trainer(), job).attempts == 3


def test_micro_batches_give_the_losses_of_whole_batches(build_trainer: BuildTrainer) -> None:
    trainer = build_trainer(colours(48), animals(24))
    whole = run(trainer, make_job(stage=1))
    for size in (1, 3, 8, 100):
        pieces = run(trainer, make_job(stage=1, micro_batch_size=size))
        assert pieces.curve.loss == pytest.approx(whole.curve.loss, abs=1e-5)
        assert pieces.curve.gradient_norm == pytest.approx(whole.curve.gradient_norm, abs=1e-4)
        assert pieces.cost.tokens == whole.cost.tokens
        assert pieces.cost.examples == whole.cost.examples


def test_evaluation_on_a_part_of_the_split_scores_fewer_texts(build_trainer: BuildTrainer) -> None:
    trainer = build_trainer()
    part = (replace(LADDER[0], evaluation_percentage=25), *LADDER[1:])
    whole = run(trainer, make_job(stage=0))
    fewer = run(trainer, make_job(stage=0, stages=part))
    assert fewer.metrics["log_loss"] != whole.metrics["log_loss"]
    assert fewer.metrics["accuracy"] * 10 == pytest.approx(round(fewer.metrics["accuracy"] * 10))


def test_the_survey_tells_what_was_loaded(base: BaseModel, build_trainer: BuildTrainer) -> None:
    survey = build_trainer(colours(48), animals(24)).survey()
    assert survey.train_examples == 72
    assert survey.depth == 3
    assert survey.model_digest == base.digest
    assert survey.device == "cpu"
    assert [task.label_names for task in survey.tasks] == [("red", "green", "blue"), ("cat", "dog")]
    assert {"auroc", "colour.auroc", "animal.log_loss"} <= survey.metric_names
    assert 4 <= survey.mean_tokens <= 15
    again = build_trainer(colours(48), animals(24)).survey()
    assert again.data_digest == survey.data_digest
    assert build_trainer(colours(49), animals(24)).survey().data_digest != survey.data_digest


class TestScoring:
    def test_intervals_hold_their_estimate_and_the_reference_differs_from_itself_by_zero(
        self, build_trainer: BuildTrainer
    ) -> None:
        trainer = build_trainer(colours(), animals())
        finalists = [make_job(trial=3), make_job({"adapter.rank": 1}, trial=5, stage=0)]
        champion, reference = trainer.score(finalists, seed=1)
        assert (champion.trial, reference.trial) == (3, 5)
        for score in (champion, reference):
            assert set(score.intervals) == {"colour.auroc", "animal.auroc", "auroc"}
            for name, interval in score.intervals.items():
                assert interval.estimate == score.metrics[name]
                assert interval.low <= interval.estimate <= interval.high
                assert interval.low < interval.high
        for name, difference in champion.difference.items():
            gap = champion.metrics[name] - reference.metrics[name]
            assert difference.estimate == gap
            assert difference.low <= gap <= difference.high
        for difference in reference.difference.values():
            assert (difference.low, difference.estimate, difference.high) == (0, 0, 0)

    def test_it_is_repeatable_and_the_same_from_a_checkpoint(
        self, build_trainer: BuildTrainer
    ) -> None:
        trainer = build_trainer()
        outcome = run(trainer, make_job(stage=1))
        job = make_job(stage=1)
        first = trainer.score([job], seed=1)
        assert trainer.score([job], seed=1) == first
        restored = replace(job, resume_from=outcome.checkpoint)
        assert trainer.score([restored], seed=1) == first
        assert trainer.score([job], seed=2)[0].intervals != first[0].intervals

    def test_it_reads_the_test_split(self, build_trainer: BuildTrainer) -> None:
        trainer = build_trainer()
        job = make_job(stage=1)
        outcome = run(trainer, job)
        (score,) = trainer.score([job], seed=1)
        assert score.metrics["log_loss"] != outcome.metrics["log_loss"]


def test_a_proxy_is_measured_at_its_stage_and_its_mean_over_tasks_that_share_it(
    build_trainer: BuildTrainer,
) -> None:
    def confidence(labels: Any, predictions: Any) -> float:
        return float(predictions.max(axis=1).mean())

    one = with_proxies(confidence=Proxy(score=confidence, stage=1))
    two = animals()
    vars(two)["proxies"] = {"confidence": Proxy(score=lambda *_: 0.5, stage=1)}
    early, served = (run(build_trainer(one, two), make_job(stage=stage)) for stage in (0, 1))
    assert not any("confidence" in name for name in early.metrics)
    assert 1 / 3 <= served.metrics["colour.confidence"] <= 1
    assert served.metrics["animal.confidence"] == 0.5
    mean = (served.metrics["colour.confidence"] + 0.5) / 2
    assert served.metrics["confidence"] == pytest.approx(mean)


def test_what_a_task_says_of_its_examples_is_part_of_the_identity_of_the_data() -> None:
    task = colours()
    data = task.load()
    plain = LoadedTask(task=task, data=data)
    hard = replace(plain, difficulty=np.arange(float(len(data.train))))
    parted = replace(plain, domains=("here",) * len(data.train))
    digests = [data_digest({"colour": loaded}) for loaded in (plain, hard, parted)]
    assert len(set(digests)) == 3
    assert data_digest({"colour": plain}) == digests[0]


def test_the_train_set_takes_difficulty_and_domains_from_the_task(base: BaseModel) -> None:
    task = colours()
    data = task.load()
    hard = np.arange(float(len(data.train)))
    loaded = LoadedTask(task=task, data=data, difficulty=hard, domains=("a", "b") * 24)
    index = build_train_set({"colour": loaded}, base.tokenizer, 16, seed=0).index
    assert index.difficulty.tolist() == [(i + 1) / 48 for i in range(48)]
    plain = build_train_set({"colour": replace(loaded, domains=None)}, base.tokenizer, 16, seed=0)
    assert not np.array_equal(index.priority, plain.index.priority)
