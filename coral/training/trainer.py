"""The trainer: keeps one base model and the tasks' data loaded, and trains plans on them."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.fidelity import gradient_norm, loss_slope
from coral.plan import TrainingPlan
from coral.ports import (
    CheckpointStore,
    Progress,
    Survey,
    TaskSurvey,
    TrainingJob,
)
from coral.records import Cost, Curve, Outcome, TestScore
from coral.training import export
from coral.training.base import BaseModel
from coral.training.data import (
    EvaluationSet,
    LoadedTask,
    TrainSet,
    build_evaluation_set,
    build_train_set,
    data_digest,
    evaluation_part,
)
from coral.training.evaluation import (
    Probabilities,
    bootstrap,
    interval,
    predict,
    score_task,
    with_means,
)
from coral.training.failures import failure_of
from coral.training.job import JobLog, JobRunner
from coral.training.loop import (
    StageLog,
)
from coral.training.prefix import Prefixes

CURVE_POINTS = 200
SURVEY_LENGTH = 512
"""Texts are measured for the survey up to this many tokens."""


class LoraTrainer:
    """Trains LoRA plans on one frozen encoder. Implements ``ports.Trainer``."""

    def __init__(
        self,
        base: BaseModel,
        tasks: Mapping[str, LoadedTask],
        checkpoints: CheckpointStore,
        report: Callable[[Progress], None],
        prefixes: Prefixes | None = None,
    ) -> None:
        """Args:
        prefixes: of the base, to share what lies below adapters; None to compute it each time.
        """
        self._base = base
        self._tasks = dict(tasks)
        self._checkpoints = checkpoints
        self._prefixes = prefixes
        self._train_sets: dict[tuple[int, int], TrainSet] = {}
        self._splits: dict[tuple[str, int, float], EvaluationSet] = {}
        classes = {name: len(loaded.data.label_names) for name, loaded in tasks.items()}
        self._runner = JobRunner(base, classes, checkpoints, self._train_set, report, prefixes)

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
            device=str(self._base.device.type),
            mean_tokens=float(lengths.mean()),
            max_tokens=self._base.max_tokens,
            versions={name: version(name) for name in ("torch", "transformers", "peft")},
            shares_prefixes=self._prefixes is not None,
            hidden_size=self._base.hidden_size,
        )

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Train jobs one after another on the shared base; failures are outcomes too."""
        for job in jobs:
            log = JobLog()
            try:
                yield self._train_one(job, log)
            except Exception as error:
                yield Outcome(
                    key=job.key,
                    stage=job.stage,
                    cost=_cost(log.stages),
                    curve=_curve(log.stages[-1] if log.stages else StageLog()),
                    notes=tuple(log.notes),
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
            with self._runner.trained(job, JobLog()) as trained:
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
        with self._runner.trained(finalist, JobLog()) as trained:
            export.write(folder, trained.encoder, self._base, card)

    def _train_one(self, job: TrainingJob, log: JobLog) -> Outcome:
        """Train one job and evaluate it."""
        with self._runner.trained(job, log) as trained:
            started = time.perf_counter()
            share = job.stages[job.stage].evaluation_percentage
            examples = self._split("validation", job.plan.encoding.sequence_len, share)
            metrics = self._metrics(predict(trained.encoder, examples), examples.labels)
            evaluation_seconds = time.perf_counter() - started
            address = self._checkpoints.put(trained.content) if trained.content else job.resume_from
            parameters = sum(p.numel() for p in trained.encoder.adapter_parameters())
            return Outcome(
                key=job.key,
                stage=job.stage,
                metrics={
                    **metrics,
                    "gradient_norm": gradient_norm(trained.last.gradient_norm),
                    "loss_slope": loss_slope(trained.last.loss),
                    "trainable_parameters": float(parameters),
                    "train_cost": trained.position.teraflops,
                },
                cost=_cost(log.stages, evaluation_seconds),
                curve=_curve(trained.last),
                cumulative_steps=trained.position.cumulative_steps,
                trainable_parameters=parameters,
                checkpoint=address,
                checkpoint_bytes=len(trained.content or b""),
                inheritance=log.inheritance,
                notes=tuple(log.notes),
                attempts=job.attempt,
                peak_memory_bytes=self._peak_memory(),
            )

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
        if self._base.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._base.device))
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


def _curve(log: StageLog) -> Curve:
    """Return a stage's log, thinned to at most ``CURVE_POINTS``; its last step stays."""
    if not log.loss:
        return Curve()
    count = len(log.loss)
    kept = sorted({round(i) for i in np.linspace(0, count - 1, min(count, CURVE_POINTS))})
    return Curve(
        step=tuple(log.first_step + i + 1 for i in kept),
        loss=tuple(float(f"{log.loss[i]:.5g}") for i in kept),
        gradient_norm=tuple(float(f"{log.gradient_norm[i]:.5g}") for i in kept),
    )
