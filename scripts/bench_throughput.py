"""Measure training throughput: Coral against the Hugging Face ``Trainer`` with PEFT, on the CPU.

Both sides train the same genomes on one task, for the same optimizer steps, on the same texts,
tokenized beforehand and cut at the same length. Initial weights, AdamW, schedule, clipping and
batch size are the same; each process loads base model and data once, and writes a checkpoint of
every genome. After the clock has stopped, Coral scores both sides' checkpoints on the validation
split, which shows whether the faster side learns as much. All of it is done for several depths of
adaptation.

- ``coral``: one worker process a core with one thread each, batches bucketed by length; what lies
  below the adapters is computed once for all genomes, and doing so is on the clock.
- ``nothing shared``: the same without that.
- ``hugging face``: one genome after another in one process that uses every core, random batches
  padded by ``DataCollatorWithPadding``. It has its best plain settings: no pinned memory, no loader
  processes, no evaluation, logging or saving on the way, and the base model's own dropout off, as
  in Coral. ``--hf-dropout`` turns that on, ``--hf-group-by-length`` buckets its batches.

The sides take turns in changing order, in new processes each. Run it on a quiet machine all the
same: threads that wait for each other suffer more from strangers than processes do, which flatters
Coral::

    python scripts/bench_throughput.py --repeats 3 --json throughput.json
"""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Semaphore
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from coral import compose
from coral.backends import trainer_payload
from coral.errors import WorkersError
from coral.execution import PoolExecutor
from coral.fidelity import Stage, ladder_steps
from coral.plan import TrainingPlan, digest_of, training_digest, warmup_steps, with_values
from coral.ports import DataContext, Progress, TrainingJob
from coral.records import Cost, Outcome
from coral.storage import CachePaths, FsspecCheckpointStore, cache_location, write_json_durably

# Every worker imports this module before its thread limits are set: torch must wait until then.
if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from coral.training.base import BaseModel
    from coral.training.encoder import MultiTaskEncoder

TASK = "docstring_library"
METRICS = ("auroc", "accuracy", "log_loss")
BATCH_SIZE = 16
RANKS = (4, 8, 16, 32)
LEARNING_RATES = (1e-3, 3e-3)
CORAL = "coral.backends:build_trainer"
HUGGING_FACE = f"{Path(__file__).stem}:build_hugging_face"
READY = -1
"""Trial number under which a worker reports that it is warm."""
START_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way of training: who builds the trainer, in how many processes, with how many threads."""

    name: str
    factory: str
    workers: int
    threads: int
    shares: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One side's training of all genomes.

    Attributes:
        seconds: from handing over the first job to the end of the last one.
        optimizer_steps, examples, teraflops: over all genomes; operations of Coral alone.
        metrics: one validation value a genome.
        peak_memory_bytes: of the largest process so far.
    """

    seconds: float
    optimizer_steps: int
    examples: int
    teraflops: float
    metrics: Mapping[str, Sequence[float]]
    peak_memory_bytes: int


def genomes(count: int, layers: str, sequence_len: int) -> list[TrainingPlan]:
    """Return plans of different rank and learning rate that adapt all linear maps of ``layers``."""
    shared = {
        "adapter.scaling": 1.0,
        "adapter.layers": layers,
        "schedule.head_lr_multiplier": 3.0,
        "schedule.batch_size": BATCH_SIZE,
        "encoding.sequence_len": sequence_len,
    }
    return [
        with_values(
            TrainingPlan(),
            {**shared, "adapter.rank": RANKS[i % len(RANKS)], "schedule.learning_rate": rate},
        )
        for i, rate in enumerate(np.geomspace(*LEARNING_RATES, count).tolist())
    ]


def trainer_settings(train_examples: int, validation_examples: int) -> dict[str, Any]:
    """Return what Coral's workers are told: the quickstart's model and one of its tasks."""
    counts = f"train_examples: {train_examples}, validation_examples: {validation_examples}"
    overrides = {
        "tasks": f"[{{name: {TASK}, {counts}}}]",
        "search_space": "{lora_r: {low: 2, high: 32}}",  # the quickstart weighs two tasks
        "prefix_bytes": "null",
    }
    quickstart = compose.Source(path=compose.find_config("quickstart"))
    return trainer_payload(compose.load(quickstart, overrides).spec, ())


def training_jobs(plans: Sequence[TrainingPlan], epochs: float, seed: int) -> list[TrainingJob]:
    """Return one job a plan, on a ladder of one stage that is scored on a single example."""
    stage = Stage(name="full", epoch_budget=epochs, data_percentage=100, survival_rate=1.0)
    stage = replace(stage, evaluation_percentage=1e-6)
    return [
        TrainingJob(key=digest_of(plan), trial=i, plan=plan, stage=0, stages=(stage,), seed=seed)
        for i, plan in enumerate(plans)
    ]


def with_stage(job: TrainingJob, **changes: Any) -> TrainingJob:
    """Return the job with changes to its only stage."""
    return replace(job, stages=(replace(job.stages[0], **changes),))


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceTrainer:
    """Trains Coral's jobs with the stock ``Trainer``; the part of ``ports.Trainer`` needed here.

    Attributes:
        task: its name.
        rows: the train split, tokenized.
        sampling: ``random`` or ``group_by_length``.
    """

    base: BaseModel
    task: str
    rows: list[dict[str, Any]]
    classes: int
    cache: CachePaths
    sampling: str

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Train jobs one after another, each into a checkpoint of Coral's."""
        from coral.training import checkpoint
        from coral.training.encoder import adapted
        from coral.training.loop import build_optimizer
        from coral.training.targets import Target

        store = FsspecCheckpointStore(self.cache.checkpoints)
        memory_unit = 1 if platform.system() == "Darwin" else 1024
        for job in jobs:
            plan = training_digest(job.plan)
            batch_size = job.plan.schedule.batch_size
            [steps] = ladder_steps(job.stages, len(self.rows), batch_size)
            targets = {self.task: Target(problem="single_label", outputs=self.classes)}
            with adapted(self.base, job.plan, targets, job.seed) as encoder:
                optimizer = build_optimizer(encoder, job.plan.schedule)
                self._train_encoder(job, encoder, optimizer, steps)
                position = checkpoint.Position(
                    plan=plan,
                    model=self.base.digest,
                    heads={self.task: self.classes},
                    scaling=job.plan.adapter.scaling,
                    stage=0,
                    step=steps,
                    cumulative_steps=steps,
                    teraflops=0.0,
                    seen=(),
                )
                address = store.put(checkpoint.dump(encoder, optimizer, position))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * memory_unit
            yield Outcome(
                key=job.key,
                stage=0,
                cost=Cost(optimizer_steps=steps, examples=steps * batch_size),
                checkpoint=address,
                peak_memory_bytes=peak,
            )

    def _train_encoder(
        self, job: TrainingJob, encoder: MultiTaskEncoder, optimizer: Optimizer, steps: int
    ) -> None:
        import transformers

        plan = job.plan.schedule
        on_gpu = self.base.device.type == "cuda"
        warm_up = warmup_steps(plan, steps)
        scheduler = transformers.get_scheduler(plan.scheduler, optimizer, warm_up, steps)
        trainer = transformers.Trainer(
            model=classifier(encoder, self.task),
            args=transformers.TrainingArguments(
                output_dir=f"{self.cache.root}/hugging-face",
                max_steps=steps,
                per_device_train_batch_size=plan.batch_size,
                max_grad_norm=plan.gradient_clip,
                train_sampling_strategy=self.sampling,
                dataloader_drop_last=True,  # Coral's batches are whole ones
                dataloader_num_workers=0,
                dataloader_pin_memory=on_gpu,
                remove_unused_columns=False,
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=not on_gpu,
                bf16=on_gpu,
                seed=job.seed,
            ),
            data_collator=transformers.DataCollatorWithPadding(self.base.tokenizer),
            train_dataset=self.rows,
            optimizers=(optimizer, scheduler),
        )
        trainer.remove_callback(transformers.PrinterCallback)  # stdout is for results
        trainer.train()


def classifier(encoder: MultiTaskEncoder, task: str) -> nn.Module:
    """Return the PEFT model under mean pooling and a linear head, as ``Trainer`` calls a model."""
    from torch import Tensor, nn

    class Classifier(nn.Module):
        """Returns a padded batch's mean cross-entropy and its ``(batch, classes)`` logits."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
        ) -> dict[str, Tensor]:
            logits = encoder.heads[task](encoder.encode(input_ids, attention_mask))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    return Classifier()


def build_hugging_face(
    payload: Mapping[str, Any], *, device: str, report: Callable[[Progress], None]
) -> HuggingFaceTrainer:
    """Load base model and data as Coral does, for the stock ``Trainer``."""
    from torch import nn

    from coral.tasks import discover
    from coral.training.base import load_base

    [[name, options]] = payload["tasks"]
    cache = CachePaths(payload["cache_root"])
    data = discover().build(name, options).load(DataContext(cache_dir=cache.tasks))
    base = load_base(payload["base_model"], device=device, trust_remote_code=False)
    for module in base.model.modules():
        if isinstance(module, nn.Dropout) and not payload["hf_dropout"]:
            module.p = 0.0
    length = payload["warm_up"].plan.encoding.sequence_len
    encoded = base.tokenizer(list(data.train.texts), truncation=True, max_length=length)
    columns = (encoded["input_ids"], encoded["attention_mask"], data.train.labels.tolist())
    names = ("input_ids", "attention_mask", "labels")
    return HuggingFaceTrainer(
        base=base,
        task=TASK,
        rows=[dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
        classes=len(data.label_names),
        cache=cache,
        sampling="group_by_length" if payload["hf_group_by_length"] else "random",
    )


def build_warm(
    payload: Mapping[str, Any], *, device: str, report: Callable[[Progress], None]
) -> Any:
    """Build a side's trainer in a worker and train one step, which tokenizes the texts."""
    module, _, function = payload["factory"].partition(":")
    build = getattr(importlib.import_module(module), function)
    trainer = build(payload, device=device, report=report)
    for outcome in trainer.train([payload["warm_up"]]):
        checked(outcome)
    report(Progress(key="", trial=READY, stage="", step=0, end_step=0, loss=0.0))
    return trainer


def checked(outcome: Outcome) -> Outcome:
    """Return the outcome; a failed one voids the measurement, so it raises."""
    if outcome.failure is not None:
        raise RuntimeError(f"{outcome.failure.message}\n{outcome.failure.traceback}")
    return outcome


@contextmanager
def warm_workers(side: Side, payload: Mapping[str, Any]) -> Iterator[PoolExecutor]:
    """Lend a side's executor once all of its workers are warm."""
    ready = Semaphore(0)
    with PoolExecutor(
        f"{Path(__file__).stem}:build_warm",
        {
            **payload,
            "factory": side.factory,
            "share_prefixes": side.shares,
        },
        workers=side.workers,
        threads_per_worker=side.threads,
        on_progress=lambda progress: ready.release() if progress.trial == READY else None,
    ) as executor:
        for outcome in executor.run([payload["warm_up"]]):
            checked(outcome)
        for _ in range(side.workers):
            if not ready.acquire(timeout=START_SECONDS):
                raise WorkersError(f"{side.name}: a worker was not warm after {START_SECONDS:g} s")
        yield executor


def measure(
    executor: PoolExecutor, scorer: PoolExecutor, jobs: Sequence[TrainingJob]
) -> Measurement:
    """Train the jobs on the clock; have Coral score their checkpoints off the clock."""
    started = time.perf_counter()
    trained = {outcome.key: checked(outcome) for outcome in executor.run(jobs)}
    seconds = time.perf_counter() - started
    full = [with_stage(job, evaluation_percentage=100) for job in jobs]
    again = [replace(job, resume_from=trained[job.key].checkpoint) for job in full]
    scored = {outcome.key: checked(outcome) for outcome in scorer.run(again)}
    if any(outcome.cost.optimizer_steps for outcome in scored.values()):
        raise RuntimeError("a checkpoint could not be read: Coral trained its job anew to score it")
    cost = sum((outcome.cost for outcome in trained.values()), Cost())
    return Measurement(
        seconds=seconds,
        optimizer_steps=cost.optimizer_steps,
        examples=cost.examples,
        teraflops=cost.teraflops,
        metrics={m: [scored[job.key].metrics[f"{TASK}.{m}"] for job in jobs] for m in METRICS},
        peak_memory_bytes=max(outcome.peak_memory_bytes for outcome in trained.values()),
    )


def speed_ratios(coral: Sequence[Measurement], other: Sequence[Measurement]) -> list[float]:
    """Return Coral's examples a second over the other side's, repeat by repeat."""
    pairs = zip(coral, other, strict=True)
    return [(a.examples / a.seconds) / (b.examples / b.seconds) for a, b in pairs]


def matrix_rate(seconds: float = 2.0) -> float:
    """Return 1e12 operations a second of one thread that multiplies matrices of such a model."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokens, weights = torch.randn(512, 384), torch.randn(384, 1536)
    products = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        torch.mm(tokens, weights)
        products += 1
    torch.set_num_threads(threads)
    return products * 2 * 512 * 384 * 1536 / elapsed / 1e12


def results_table(
    sides: Sequence[Side], results: Mapping[tuple[str, str], Sequence[Measurement]], rate: float
) -> Table:
    """Return medians: of speed over repeats, of quality over genomes.

    Args:
        rate: of one thread, from ``matrix_rate``.
    """
    table = Table("layers", "side", box=SIMPLE_HEAD, show_edge=False, padding=0)
    titles = (
        "workers\nx threads",
        "examples\n/s",
        "seconds",
        "steps",
        "times\nthe last",
        "of matrix\nrate",
    )
    for title in (*titles, "median\nauroc", "accu-\nracy", "log\nloss", "MB per\nprocess"):
        table.add_column(title, justify="right", vertical="bottom")
    by_name = {side.name: side for side in sides}
    for (layers, name), repeats in results.items():
        side = by_name[name]
        ratios = speed_ratios(repeats, results[layers, sides[-1].name])
        used = median(r.teraflops / r.seconds for r in repeats) / rate / side.workers
        table.add_row(
            layers,
            name,
            f"{side.workers} x {side.threads}",
            f"{median(r.examples / r.seconds for r in repeats):.1f}",
            f"{median(r.seconds for r in repeats):.1f}",
            str(repeats[0].optimizer_steps),
            f"{median(ratios):.2f}",
            f"{used:.0%}" if used else "",
            *(f"{median(repeats[0].metrics[metric]):.4f}" for metric in METRICS),
            f"{max(r.peak_memory_bytes for r in repeats) / 1e6:.0f}",
        )
    return table


def take_turns(
    sides: Sequence[Side],
    jobs: Mapping[str, Sequence[TrainingJob]],
    repeats: int,
    settings: Mapping[str, Any],
) -> dict[tuple[str, str], list[Measurement]]:
    """Let the sides train in changing order, each time in new processes.

    Args:
        jobs: by the layers that they adapt.

    Returns:
        By layers and side's name, the measurements.
    """
    corpus = cache_location().tasks
    corpus.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], list[Measurement]] = {
        (layers, side.name): [] for layers in jobs for side in sides
    }
    turns = [
        (layers, side)
        for i in range(repeats)
        for layers in jobs
        for side in (sides if i % 2 == 0 else sides[::-1])
    ]
    first = next(iter(jobs.values()))[0]
    payload = {**settings, "warm_up": with_stage(first, epoch_budget=1e-6)}
    with TemporaryDirectory(dir=corpus.parent) as folder, ExitStack() as stack:
        # A cache of its own that shares the corpus: here all is really computed and written.
        cache = CachePaths(str(Path(folder).resolve()))
        cache.tasks.symlink_to(corpus.resolve())
        payload |= {"cache_root": cache.root, "checkpoints": cache.checkpoints}
        scorer = stack.enter_context(warm_workers(replace(sides[0], shares=False), payload))
        for layers, side in track(turns, "training", console=Console(stderr=True)):
            shutil.rmtree(cache.checkpoints, ignore_errors=True)
            shutil.rmtree(cache.prefixes, ignore_errors=True)
            with warm_workers(side, payload) as executor:
                results[layers, side.name].append(measure(executor, scorer, jobs[layers]))
    return results


def main(
    context: typer.Context,
    count: Annotated[int, typer.Option("--genomes", min=1)] = 8,
    layers: Annotated[str, typer.Option(help="Depths of adaptation.")] = "all,top-3,top-1",
    train_examples: Annotated[int, typer.Option(min=BATCH_SIZE)] = 1500,
    validation_examples: Annotated[int, typer.Option(min=1)] = 1500,
    epochs: Annotated[float, typer.Option(min=0.001)] = 1.0,
    sequence_len: Annotated[int, typer.Option(min=4)] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    repeats: Annotated[int, typer.Option(min=1)] = 1,
    json: Annotated[Path | None, typer.Option(help="Write every number to this file.")] = None,
    hf_group_by_length: Annotated[bool, typer.Option(help="Bucket Trainer's batches too.")] = False,
    hf_dropout: Annotated[bool, typer.Option(help="Keep the base's dropout in Trainer.")] = False,
) -> None:
    """Measure training throughput: Coral against the Hugging Face Trainer with PEFT, on the CPU."""
    cores = os.cpu_count() or 1
    load_average = os.getloadavg()[0]
    workers = min(cores, count)
    sides = (
        Side(name="coral", factory=CORAL, workers=workers, threads=1, shares=True),
        Side(name="nothing shared", factory=CORAL, workers=workers, threads=1),
        Side(name="hugging face", factory=HUGGING_FACE, workers=1, threads=cores),
    )
    settings = {
        **trainer_settings(train_examples, validation_examples),
        "hf_group_by_length": hf_group_by_length,
        "hf_dropout": hf_dropout,
    }
    jobs = {
        each: training_jobs(genomes(count, each, sequence_len), epochs, seed)
        for each in layers.split(",")
    }
    results = take_turns(sides, jobs, repeats, settings)
    console = Console()
    rate = matrix_rate()
    console.print(results_table(sides, results, rate))
    console.print(f"matrix rate of one thread: {1000 * rate:.0f} GFLOP/s")
    console.print(f"repeats: {repeats}; load average of the machine before: {load_average:.2f}")
    if json is not None:
        facts = {
            "options": {k: v for k, v in context.params.items() if k != "json"},
            "machine": {
                "cores": cores,
                "platform": platform.platform(),
                "load_average_before": load_average,
                "matrix_teraflops": rate,
            },
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
            "results": {" ".join(key): [asdict(r) for r in rs] for key, rs in results.items()},
        }
        write_json_durably(json, facts)


if __name__ == "__main__":
    typer.run(main)
