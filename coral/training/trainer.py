"""The trainer: keeps one base model and the tasks' data loaded, and trains plans on them."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coral.errors import CheckpointError, TaskError
from coral.fidelity import gradient_norm, ladder_steps, loss_slope
from coral.flops import adapter_parameters, step_cost
from coral.plan import TrainingPlan, digest_of
from coral.ports import (
    CheckpointStore,
    Progress,
    Survey,
    TaskSurvey,
    TrainingJob,
)
from coral.records import Cost, Curve, Outcome, TestScore
from coral.training import checkpoint, export
from coral.training.base import BaseModel
from coral.training.batches import stage_batches
from coral.training.data import (
    EvaluationSet,
    LoadedTask,
    TrainSet,
    build_evaluation_set,
    build_train_set,
    data_digest,
    evaluation_part,
)
from coral.training.encoder import MultiTaskEncoder, adapted
from coral.training.evaluation import (
    Probabilities,
    bootstrap,
    interval,
    predict,
    score_task,
    with_means,
)
from coral.training.failures import failure_of
from coral.training.loop import (
    StageLog,
    build_optimizer,
    learning_rate_factors,
    train_steps,
)

CURVE_POINTS = 200
SURVEY_LENGTH = 512
"""Texts are measured for the survey up to this many tokens."""


@dataclass(slots=True)
class _Trained:
    """A model after its job, still on the base.

    Attributes:
        content: the checkpoint; None if it was there already.
    """

    encoder: MultiTaskEncoder
    position: checkpoint.Position
    content: bytes | None


class LoraTrainer:
    """Trains LoRA plans on one frozen encoder. Implements ``ports.Trainer``."""

    def __init__(
        self,
        base: BaseModel,
        tasks: Mapping[str, LoadedTask],
        checkpoints: CheckpointStore,
        report: Callable[[Progress], None],
    ) -> None:
        self._base = base
        self._tasks = dict(tasks)
        self._checkpoints = checkpoints
        self._report = report
        self._train_sets: dict[tuple[int, int], TrainSet] = {}
        self._splits: dict[tuple[str, int, float], EvaluationSet] = {}

    def survey(self) -> Survey:
        """Return what the model and the data turned out to be."""
        longest = min(SURVEY_LENGTH, self._base.max_tokens or SURVEY_LENGTH)
        lengths = self._split("validation", longest).texts.lengths
        return Survey(
            model_digest=self._base.digest,
            data_digest=data_digest(self._tasks),
            depth=self._base.depth,
            linear_modules=self._base.linear_modules,
            tasks=tuple(
                TaskSurvey(
                    name=name,
                    metrics=dict(loaded.task.metrics),
                    primary_metric=loaded.task.primary_metric,
                    label_names=loaded.data.label_names,
                    train_examples=len(loaded.data.train),
                    validation_examples=len(loaded.data.validation),
                    test_examples=len(loaded.data.test),
                )
                for name, loaded in self._tasks.items()
            ),
            device=str(self._device.type),
            mean_tokens=float(lengths.mean()),
            max_tokens=self._base.max_tokens,
            versions={name: version(name) for name in ("torch", "transformers", "peft")},
        )

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Train jobs one after another on the shared base; failures are outcomes too."""
        for job in jobs:
            logs: list[StageLog] = []
            try:
                yield self._train_one(job, logs)
            except Exception as error:
                yield Outcome(
                    key=job.key,
                    stage=job.stage,
                    cost=_cost(logs),
                    curve=_curve(logs),
                    failure=failure_of(error),
                    attempts=job.attempt,
                    peak_memory_bytes=self._peak_memory(),
                )

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        """Score trained jobs on the test split, each against the last one, the reference."""
        tasks = [loaded.task for loaded in self._tasks.values()]
        labels = {name: loaded.data.test.labels for name, loaded in self._tasks.items()}
        predictions = []
        for job in finalists:
            with self._trained(job, []) as trained:
                examples = self._split("test", job.plan.encoding.sequence_len)
                predictions.append(predict(trained.encoder, examples))
        draws = bootstrap(tasks, labels, predictions, seed)
        metrics = [self._metrics(prediction, labels) for prediction in predictions]
        return tuple(
            TestScore(
                trial=job.trial,
                metrics=own,
                intervals={name: interval(own[name], values) for name, values in drawn.items()},
                difference={
                    name: interval(own[name] - metrics[-1][name], values - draws[-1][name])
                    for name, values in drawn.items()
                },
            )
            for job, own, drawn in zip(finalists, metrics, draws, strict=True)
        )

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        """Write the trained adapter, its heads, the tokenizer and ``card`` into ``folder``."""
        with self._trained(finalist, []) as trained:
            export.write(folder, trained.encoder, self._base, card)

    @property
    def _device(self) -> torch.device:
        return next(self._base.model.parameters()).device

    def _train_one(self, job: TrainingJob, logs: list[StageLog]) -> Outcome:
        """Train one job; ``logs`` gets an entry a stage, also if it fails on the way."""
        with self._trained(job, logs) as trained:
            last = logs[-1] if logs else StageLog()
            started = time.perf_counter()
            share = job.stages[job.stage].evaluation_percentage
            examples = self._split("validation", job.plan.encoding.sequence_len, share)
            metrics = self._metrics(predict(trained.encoder, examples), examples.labels)
            evaluation_seconds = time.perf_counter() - started
            address = self._checkpoints.put(trained.content) if trained.content else job.resume_from
            parameters = adapter_parameters(
                job.plan.adapter, self._base.linear_modules, self._base.depth
            )
            return Outcome(
                key=job.key,
                stage=job.stage,
                metrics={
                    **metrics,
                    "gradient_norm": gradient_norm(last.gradient_norm),
                    "loss_slope": loss_slope(last.loss),
                    "trainable_parameters": float(parameters),
                    "train_cost": trained.position.teraflops,
                },
                cost=_cost(logs, evaluation_seconds),
                curve=_curve(logs),
                cumulative_steps=trained.position.step,
                trainable_parameters=parameters,
                checkpoint=address,
                attempts=job.attempt,
                peak_memory_bytes=self._peak_memory(),
            )

    @contextmanager
    def _trained(self, job: TrainingJob, logs: list[StageLog]) -> Iterator[_Trained]:
        """Lend the base with a job's weights on it: restored as far as possible, else trained.

        Args:
            logs: gets an entry for each stage that has to be trained.
        """
        train_set = self._train_set(job.plan, job.seed)
        classes = {name: len(loaded.data.label_names) for name, loaded in self._tasks.items()}
        batch_size = job.plan.schedule.batch_size
        ends = [0, *ladder_steps(job.stages, len(train_set.index), batch_size)]
        cost = step_cost(
            job.plan.adapter, self._base.linear_modules, self._base.depth, self._base.hidden_size
        )
        restored = self._read(job, ends)
        with adapted(self._base, job.plan, classes, job.seed) as encoder:
            optimizer = build_optimizer(encoder, job.plan.schedule)
            factor = learning_rate_factors(job.plan.schedule, optimizer, ends[-1])
            done, teraflops = 0, 0.0
            if restored is not None:
                tensors, position = restored
                checkpoint.restore(tensors, encoder, optimizer)
                done, teraflops = position.stage + 1, position.teraflops
            for stage in range(done, job.stage + 1):
                logs.append(StageLog(first_step=ends[stage]))
                train_steps(
                    encoder,
                    optimizer,
                    factor,
                    train_set,
                    stage_batches(job.plan, train_set.index, job.stages, stage, job.seed),
                    plan=job.plan.schedule,
                    log=logs[-1],
                    seed=job.seed,
                    micro_batch_size=job.micro_batch_size,
                    cost=cost,
                    report=lambda step, loss: self._report(
                        Progress(
                            trial=job.trial,
                            stage=job.stage,
                            step=step,
                            end_step=ends[job.stage + 1],
                            loss=loss,
                        )
                    ),
                )
            position = checkpoint.Position(
                plan=digest_of(job.plan),
                model=self._base.digest,
                stage=job.stage,
                step=ends[job.stage + 1],
                teraflops=teraflops + sum(log.teraflops for log in logs),
            )
            fresh = done <= job.stage
            content = checkpoint.dump(encoder, optimizer, position) if fresh else None
            encoder.eval()
            yield _Trained(encoder, position, content)

    def _read(
        self, job: TrainingJob, ends: Sequence[int]
    ) -> tuple[dict[str, torch.Tensor], checkpoint.Position] | None:
        """Return the job's checkpoint; None if it has none that can be used.

        Args:
            ends: cumulative optimizer steps before the first stage and by each stage's end.
        """
        if job.resume_from is None:
            return None
        try:
            content = self._checkpoints.get(job.resume_from)
            restored = checkpoint.read(content, digest_of(job.plan), self._base.digest)
        except CheckpointError:
            return None
        position = restored[1]
        on_the_way = position.stage <= job.stage and position.step == ends[position.stage + 1]
        return restored if on_the_way else None

    def _metrics(
        self, predictions: Mapping[str, Probabilities], labels: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, float]:
        """Score predictions; what a plugin raises becomes a ``TaskError`` with its traceback."""
        metrics: dict[str, float] = {}
        for name, loaded in self._tasks.items():
            try:
                metrics |= score_task(loaded.task, labels[name], predictions[name])
            except TaskError:
                raise
            except Exception as error:
                raise TaskError(f"task {name} raised in score(): {error!r}") from error
        return with_means(metrics, [loaded.task for loaded in self._tasks.values()])

    def _train_set(self, plan: TrainingPlan, seed: int) -> TrainSet:
        key = (plan.encoding.sequence_len, seed)
        if key not in self._train_sets:
            self._train_sets[key] = build_train_set(self._tasks, self._base.tokenizer, *key)
        return self._train_sets[key]

    def _split(self, split: str, sequence_len: int, percentage: float = 100) -> EvaluationSet:
        key = (split, sequence_len, percentage)
        if key not in self._splits:
            parts = {
                name: evaluation_part(getattr(loaded.data, split), percentage)
                for name, loaded in self._tasks.items()
            }
            self._splits[key] = build_evaluation_set(parts, self._base.tokenizer, sequence_len)
        return self._splits[key]

    def _peak_memory(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cost(logs: Sequence[StageLog], evaluation_seconds: float = 0.0) -> Cost:
    """Return what the stages of one job took together."""
    return Cost(
        optimizer_steps=sum(len(log.loss) for log in logs),
        examples=sum(log.examples for log in logs),
        tokens=sum(log.tokens for log in logs),
        teraflops=sum(log.teraflops for log in logs),
        train_seconds=sum(log.seconds for log in logs),
        evaluation_seconds=evaluation_seconds,
    )


def _curve(logs: Sequence[StageLog]) -> Curve:
    """Return the last stage's log, thinned to at most ``CURVE_POINTS``; its last step stays."""
    if not logs or not logs[-1].loss:
        return Curve()
    log, count = logs[-1], len(logs[-1].loss)
    kept = sorted({round(i) for i in np.linspace(0, count - 1, min(count, CURVE_POINTS))})
    return Curve(
        step=tuple(log.first_step + i + 1 for i in kept),
        loss=tuple(float(f"{log.loss[i]:.5g}") for i in kept),
        gradient_norm=tuple(float(f"{log.gradient_norm[i]:.5g}") for i in kept),
    )
