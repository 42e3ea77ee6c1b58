"""The trainer: keeps one base model and the tasks' data loaded, and trains plans on them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from coral.capabilities import proxies_of
from coral.fidelity import gradient_norm, loss_slope
from coral.plan import InferencePlan, TrainingPlan
from coral.ports import (
    PLAIN,
    CheckpointStore,
    Progress,
    Strategies,
    Survey,
    TaskSurvey,
    TrainingJob,
)
from coral.records import Cost, Curve, Outcome, TestScore
from coral.strategies import OWN
from coral.training import export
from coral.training.base import BaseModel
from coral.training.causal import require_packing
from coral.training.checkpoint import Position
from coral.training.course import StageLog
from coral.training.data import LoadedTask, data_digest
from coral.training.encoder import MultiTaskEncoder
from coral.training.evaluation import (
    bootstrap,
    interval,
    predict,
    require_finite_predictions,
)
from coral.training.evaluation_sets import EvaluationSet
from coral.training.failures import failure_of
from coral.training.job import JobLog, JobRunner
from coral.training.memory import peak_bytes, reset_peak
from coral.training.pack import Member, Pack, packable
from coral.training.prefix import Prefixes
from coral.training.scoring import Scorer, Viewed
from coral.training.sets import DataSets
from coral.training.slots import best, slot_rates

CURVE_POINTS = 200
SURVEY_LENGTH = 512
"""Texts are measured for the survey up to this many tokens."""
STREAMED = (
    "streamed: genomes train one by one, and what lies below their adapters is shared in evaluation"
    " alone"
)
NOTHING_SHARED = (
    "the task makes the model's inputs itself: nothing below adapters is shared between genomes,"
    " and they train one at a time"
)


class LoraTrainer:
    """Trains LoRA plans on one frozen encoder. Implements ``ports.Trainer``."""

    def __init__(
        self,
        base: BaseModel,
        tasks: Mapping[str, LoadedTask],
        checkpoints: CheckpointStore,
        report: Callable[[Progress], None],
        prefixes: Prefixes | None = None,
        slots: int | None = 1,
        remembered: Path | None = None,
        strategies: Strategies = OWN,
        *,
        abstains: bool = False,
        tokens: Path | None = None,
        processor: Any = None,
    ) -> None:
        """Args:
        prefixes: of the base, to share what lies below adapters; None to compute it each time.
        slots: most jobs that train side by side; None for what a short trial finds best.
        remembered: folder in which processes keep what such trials found.
        strategies: Coral's own, and those of plugins that plans may name.
        abstains: plans may leave examples without an answer, so all are scored for it.
        tokens: folder in which processes keep tokenized texts; None to keep none.
        processor: of the base, for a task that makes the model's inputs itself. Its genomes
            share no prefixes and train one at a time.

        Raises:
            TaskError: such a task is not alone.
        """
        self._processor = processor
        self._sets = DataSets(base, tasks, tokens, processor)
        self._notes: tuple[str, ...] = ()
        if self._sets.collates:
            if prefixes is not None or slots != 1:
                self._notes = (NOTHING_SHARED,)
            prefixes, slots = None, 1
        causal = {name for name, loaded in tasks.items() if loaded.data.causal is not None}
        self._fixed_slots = 1 if causal else slots  # packs have no place for rows of tokens
        self._remembered = remembered
        self._base = base
        self._tasks = dict(tasks)
        if self._sets.stream:
            self._notes = (STREAMED,)
        self._checkpoints = checkpoints
        self._prefixes = prefixes
        self._targets = {name: loaded.target for name, loaded in tasks.items()}
        self._scorer = Scorer(tasks, self._targets, abstains=abstains)
        if any(
            loaded.data.causal and loaded.data.causal.sample_packing for loaded in tasks.values()
        ):
            require_packing(base.model)
        self._runner = JobRunner(
            base, self._targets, checkpoints, self._sets.train_set, report, prefixes, strategies
        )

    @cached_property
    def slot_rates(self) -> dict[int, float]:
        """Examples a second by number of jobs side by side; empty if that number is fixed."""
        if self._fixed_slots is not None or self._sets.stream:
            return {}
        examples = sum(len(loaded.data.train) for loaded in self._tasks.values())
        return slot_rates(self._base, self._runner, examples, self._remembered)

    @property
    def slots(self) -> int:
        """Most jobs that train side by side; those that read a stream do so one by one."""
        if self._sets.stream:
            return 1
        return self._fixed_slots or best(self.slot_rates)

    def survey(self) -> Survey:
        """Return what the model and the data turned out to be."""
        longest = min(SURVEY_LENGTH, self._base.max_tokens or SURVEY_LENGTH)
        lengths = self._sets.split("validation", longest).lengths
        return Survey(
            model_digest=self._base.digest,
            data_digest=data_digest(self._tasks),
            depth=self._base.depth,
            linear_modules=self._base.linear_modules,
            tasks=tuple(
                TaskSurvey(
                    name=name,
                    metrics={**loaded.task.metrics, **self._scorer.selective(name)},
                    primary_metric=loaded.task.primary_metric,
                    label_names=loaded.data.label_names,
                    train_examples=loaded.data.train_examples,
                    validation_examples=len(loaded.data.validation),
                    test_examples=len(loaded.data.test),
                    problem=loaded.data.problem,
                    center=self._targets[name].center,
                    spread=self._targets[name].spread,
                    texts=2 if loaded.data.train.pairs else 1,
                    streams=loaded.data.stream is not None,
                    notes=(*loaded.data.notes, *self._notes),
                    proxies={
                        proxy: told.stands_for
                        for proxy, told in proxies_of(loaded.task).items()
                        if told.stands_for
                    },
                )
                for name, loaded in self._tasks.items()
            ),
            device=str(self._base.device.type),
            mean_tokens=float(lengths.mean()),
            max_tokens=self._base.max_tokens,
            versions={name: version(name) for name in ("torch", "transformers", "peft")},
            shares_prefixes=self._prefixes is not None and not self._sets.stream,
            prefix_feature_bytes=self._prefixes.feature_bytes if self._prefixes else 4,
            shares_products=self._prefixes is not None and self._prefixes.shares_products,
            hidden_size=self._base.hidden_size,
            slots=self.slots,
            slot_rates=tuple(self.slot_rates.items()),
        )

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Train jobs on the shared base, some side by side; failures are outcomes too.

        Jobs that pool in one way go together, as many at a time as there are slots; who ends makes
        room for the next. Where a pack as a whole fails, smaller ones begin anew, and at last each
        job alone.
        """
        slots = min(self.slots, len(jobs))
        packs: dict[str, list[TrainingJob]] = {}
        alone = []
        for job in jobs:
            if slots > 1 and packable(job):
                packs.setdefault(job.plan.encoding.pooling, []).append(job)
            else:
                alone.append(job)
        for pack in packs.values():
            yield from self._train_together(pack, slots)
        for job in alone:
            yield self._train_alone(job, JobLog())

    def _train_together(self, jobs: Sequence[TrainingJob], slots: int) -> Iterator[Outcome]:
        waiting = deque((job, JobLog()) for job in jobs)
        members: list[Member] = []
        while waiting or members:
            if not members:
                reset_peak(self._base.device)
            if slots == 1:
                for job, log in waiting:
                    yield self._train_alone(job, log)
                return
            while waiting and len(members) < slots:
                job, log = waiting.popleft()
                try:
                    with self._runner.begun(job, log) as begun:
                        members.append(Member.of(begun, log))
                except Exception as error:
                    yield self._failed(job, log, error)
            try:
                if members and not any(member.ended for member in members):
                    Pack(self._base, members, self._targets).train()
                ended = [member for member in members if member.ended]
                outcomes = list(self._evaluated(ended))
            except Exception as error:
                slots = slots // 2 if failure_of(error).kind == "oom" else 1
                waiting.extendleft((member.job, member.log) for member in reversed(members))
                members = []
                continue
            members = [member for member in members if not member.ended]
            yield from outcomes

    def _evaluated(self, members: Sequence[Member]) -> Iterator[Outcome]:
        """Evaluate members that are at their ends, those on the same texts in one pass."""
        by_texts: dict[tuple[int, float, int], list[Member]] = {}
        for member in members:
            if member.failure is not None:
                yield self._failed(member.job, member.log, member.failure)
                continue
            job = member.job
            texts = (
                job.plan.encoding.sequence_len,
                job.stages[job.stage].evaluation_percentage,
                job.stage,
            )
            by_texts.setdefault(texts, []).append(member)
        for texts, together in by_texts.items():
            started = time.perf_counter()
            views = self._sets.views("validation", *texts)
            pack = Pack(self._base, together, self._targets)
            by_view = {view: pack.predict(examples) for view, examples in views.items()}
            seconds = (time.perf_counter() - started) / len(together)
            for i, member in enumerate(together):
                predicted = {view: predictions[i] for view, predictions in by_view.items()}
                yield self._member_outcome(member, views[PLAIN], predicted, seconds)

    def _member_outcome(
        self,
        member: Member,
        examples: EvaluationSet,
        predicted: Viewed,
        seconds: float,
    ) -> Outcome:
        try:
            for by_task in predicted.values():
                require_finite_predictions(by_task)
            return self._outcome(
                member.job,
                member.log,
                metrics=self._scorer.measured(member.job, predicted, examples.labels),
                position=member.course.position,
                last=member.last.log if member.last else StageLog(),
                parameters=member.parameters,
                content=member.content(),
                evaluation_seconds=seconds,
            )
        except Exception as error:
            return self._failed(member.job, member.log, error)

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        """Score trained jobs on the test split, each against the last one, the reference."""
        tasks = [loaded.task for loaded in self._tasks.values()]
        labels = {name: loaded.data.test.labels for name, loaded in self._tasks.items()}
        answers, metrics = [], []
        for job in finalists:
            with self._runner.trained(job, JobLog()) as trained:
                views = self._sets.views("test", job.plan.encoding.sequence_len)
                predicted = _predicted(trained.encoder, views, job.plan.inference)
                by_view = self._scorer.answers(job.plan, predicted)
                answers.append(by_view[PLAIN])
                needed = self._needed(job.plan, trained.encoder)
            metrics.append(self._scorer.metrics(by_view, labels, needed))
        draws = bootstrap(tasks, labels, answers, seed)
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
            needed = self._needed(finalist.plan, trained.encoder)
            causal = {name: loaded.data.causal for name, loaded in self._tasks.items()}
            tasks = {}
            for name, facts in card["tasks"].items():
                settings = causal[name]
                tasks[name] = {
                    **facts,
                    **({"needed_confidence": needed[name]} if name in needed else {}),
                    **({"causal": asdict(settings)} if settings else {}),
                }
            export.write(folder, trained.encoder, self._base, {**card, "tasks": tasks})
        if self._processor is not None:
            self._processor.save_pretrained(str(folder))

    def _train_alone(self, job: TrainingJob, log: JobLog) -> Outcome:
        """Train one job and evaluate it."""
        reset_peak(self._base.device)
        try:
            with self._runner.trained(job, log) as trained:
                started = time.perf_counter()
                share = job.stages[job.stage].evaluation_percentage
                views = self._sets.views(
                    "validation", job.plan.encoding.sequence_len, share, job.stage
                )
                predicted = _predicted(trained.encoder, views, job.plan.inference)
                metrics = self._scorer.measured(job, predicted, views[PLAIN].labels)
                return self._outcome(
                    job,
                    log,
                    metrics=metrics,
                    position=trained.position,
                    last=trained.last,
                    parameters=sum(p.numel() for p in trained.encoder.adapter_parameters()),
                    content=trained.content,
                    evaluation_seconds=time.perf_counter() - started,
                )
        except Exception as error:
            return self._failed(job, log, error)

    def _needed(self, plan: TrainingPlan, encoder: MultiTaskEncoder) -> dict[str, float]:
        """Return by task how sure an answer must be; nothing if the plan always answers."""
        if not plan.inference.abstention:
            return {}
        examples = self._sets.split("validation", plan.encoding.sequence_len)
        return self._scorer.needed(plan, predict(encoder, examples, plan.inference))

    def _outcome(
        self,
        job: TrainingJob,
        log: JobLog,
        *,
        metrics: Mapping[str, float],
        position: Position,
        last: StageLog,
        parameters: int,
        content: bytes | None,
        evaluation_seconds: float,
    ) -> Outcome:
        """Store a job's checkpoint and return what came of it."""
        return Outcome(
            key=job.key,
            stage=job.stage,
            metrics={
                **metrics,
                "gradient_norm": gradient_norm(last.gradient_norm),
                "loss_slope": loss_slope(last.loss),
                "trainable_parameters": float(parameters),
                "train_cost": position.teraflops,
            },
            cost=_cost(log.stages, evaluation_seconds),
            curve=_curve(last),
            cumulative_steps=position.cumulative_steps,
            trainable_parameters=parameters,
            checkpoint=self._checkpoints.put(content) if content else job.resume_from,
            checkpoint_bytes=len(content or b""),
            inheritance=log.inheritance,
            notes=_notes(log),
            attempts=job.attempt,
            peak_memory_bytes=peak_bytes(self._base.device),
        )

    def _failed(self, job: TrainingJob, log: JobLog, error: Exception) -> Outcome:
        return Outcome(
            key=job.key,
            stage=job.stage,
            cost=_cost(log.stages),
            curve=_curve(log.stages[-1] if log.stages else StageLog()),
            notes=_notes(log),
            failure=failure_of(error),
            attempts=job.attempt,
            peak_memory_bytes=peak_bytes(self._base.device),
        )


def _predicted(
    encoder: MultiTaskEncoder, views: Mapping[str, EvaluationSet], inference: InferencePlan
) -> Viewed:
    return {view: predict(encoder, examples, inference) for view, examples in views.items()}


def _notes(log: JobLog) -> tuple[str, ...]:
    """Return what a job and its stages noted, once each."""
    return tuple(dict.fromkeys([*log.notes, *(n for stage in log.stages for n in stage.notes)]))


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
