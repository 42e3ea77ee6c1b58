"""Measure training throughput on a GPU: genomes packed and prefixes shared, against one by one.

Models have the shapes of real ones and random weights, in bfloat16; texts are random words. All
sides train the same genomes for the same optimizer steps, and everything that a genome takes is on
the clock: its adapter, its trainer, its steps, its checkpoint. Loading the model and the first
steps on a cold device are not; tokenizing is on Coral's clock alone.

- ``hugging face``: ``Trainer`` with PEFT, one genome after another.
- ``processes``: K processes of that at the same time, each with a base of its own.
- ``coral``: K genomes side by side on one base.
- ``coral, shared``: the same with what lies below the adapters computed once; the first pass that
  fills the files is on the clock.

Without a CUDA device it says so and ends; ``--device cpu --models tiny`` tries the script itself::

    python scripts/bench_gpu.py --json gpu.json
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from bench_throughput import HuggingFaceTrainer, checked, genomes, training_jobs, with_stage
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from coral.plan import with_values
from coral.ports import DataContext, Examples, TaskData, TrainingJob
from coral.records import Outcome
from coral.storage import CachePaths, FsspecCheckpointStore, write_json_durably
from coral.tasks import CLASSIFICATION_METRICS, score_classification
from coral.training.base import BaseModel, find_layer_stack, linear_modules_of
from coral.training.data import LoadedTask
from coral.training.prefix import Prefixes
from coral.training.trainer import LoraTrainer

WORDS = 1000
CLASSES = 4
TASK = "random"
DECODER: dict[str, Any] = {
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "max_position_embeddings": 4096,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "tiny": lambda: transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    ),
    "encoder-22m": lambda: transformers.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    ),
    "decoder-0.6b": lambda: transformers.Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        **DECODER,
    ),
    "decoder-8b": lambda: transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        **DECODER,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What every side trains.

    Attributes:
        tokens: of the longest text; texts are between half of that and that.
        layers: that are adapted.
    """

    model: str
    device: str
    steps: int
    batch_size: int
    tokens: int
    layers: str
    seed: int

    @property
    def examples(self) -> int:
        """Train examples: one epoch takes ``steps``."""
        return self.steps * self.batch_size

    def jobs(self, count: int) -> list[TrainingJob]:
        """Return jobs of different rank and learning rate."""
        plans = [
            with_values(plan, {"schedule.batch_size": self.batch_size})
            for plan in genomes(count, self.layers, self.tokens)
        ]
        return training_jobs(plans, 1.0, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One side's training of some genomes; no seconds if it did not fit."""

    side: str
    genomes: int
    examples: int = 0
    seconds: float | None = None
    teraflops: float = 0.0
    peak_memory_bytes: int = 0


class RandomTask:
    """Texts of random words with random labels."""

    name = TASK
    metrics = CLASSIFICATION_METRICS
    primary_metric = "auroc"

    def __init__(self, examples: int, tokens: int) -> None:
        self._examples = examples
        self._tokens = tokens

    def load(self, context: DataContext | None = None) -> TaskData:
        rng = np.random.default_rng(0)

        def draw(count: int) -> Examples:
            lengths = rng.integers(self._tokens // 2, self._tokens, size=count, endpoint=True)
            texts = tuple(
                " ".join(f"w{word}" for word in rng.integers(WORDS - 4, size=n)) for n in lengths
            )
            return Examples(texts=texts, labels=np.arange(count) % CLASSES)

        names = tuple(f"class {i}" for i in range(CLASSES))
        return TaskData(
            train=draw(self._examples), validation=draw(64), test=draw(64), label_names=names
        )

    def score(self, labels: Any, probabilities: Any) -> Any:
        return score_classification(labels, probabilities)


def build_base(model: str, device: str) -> BaseModel:
    """Build a base of random weights on the device."""
    transformers.logging.set_verbosity_error()
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    words |= {f"w{i}": i + 4 for i in range(WORDS - 4)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        built = transformers.AutoModel.from_config(CONFIGS[model](), dtype=dtype)
    built.requires_grad_(False).eval()
    stack = find_layer_stack(built)
    return BaseModel(
        model=built,
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
        ),
        digest=model,
        stack=built.get_submodule(stack),
        linear_modules=tuple(linear_modules_of(built, stack)),
    )


def hugging_face(base: BaseModel, work: Workload, cache: CachePaths) -> HuggingFaceTrainer:
    """Return the stock trainer on the workload's texts."""
    data = RandomTask(work.examples, work.tokens).load()
    encoded = base.tokenizer(list(data.train.texts), truncation=True, max_length=work.tokens)
    names = ("input_ids", "attention_mask")
    columns = [*(encoded[name] for name in names), data.train.labels.tolist()]
    rows = [dict(zip((*names, "labels"), row, strict=True)) for row in zip(*columns, strict=True)]
    return HuggingFaceTrainer(
        base=base, task=TASK, rows=rows, classes=CLASSES, cache=cache, sampling="random"
    )


def coral(
    base: BaseModel, work: Workload, cache: CachePaths, slots: int, *, shared: bool
) -> LoraTrainer:
    """Return Coral's trainer on the workload's texts."""
    task = RandomTask(work.examples, work.tokens)
    return LoraTrainer(
        base,
        {TASK: LoadedTask(task=task, data=task.load())},
        FsspecCheckpointStore(cache.checkpoints),
        lambda progress: None,
        Prefixes(base, cache.prefixes) if shared else None,
        slots=slots,
    )


def timed(trainer: Any, side: str, jobs: Sequence[TrainingJob], device: str) -> Result:
    """Train jobs on a warm device."""
    on_gpu = device.startswith("cuda")
    try:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        outcomes: list[Outcome] = [checked(outcome) for outcome in trainer.train(jobs)]
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    except (RuntimeError, torch.OutOfMemoryError) as error:
        if "memory" not in str(error):
            raise
        return Result(side=side, genomes=len(jobs))
    return Result(
        side=side,
        genomes=len(jobs),
        examples=sum(outcome.cost.examples for outcome in outcomes),
        seconds=seconds,
        teraflops=sum(outcome.cost.teraflops for outcome in outcomes),
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else 0,
    )


def in_process(work: Workload, number: int, start: Any, results: Any) -> None:
    """Train one genome with the stock trainer, when all processes are warm."""
    base = build_base(work.model, work.device)
    with TemporaryDirectory() as folder:
        trainer = hugging_face(base, work, CachePaths(folder))
        jobs = work.jobs(number + 1)
        timed(trainer, "warm up", [_short(jobs[0])], work.device)
        start.wait()
        results.put(timed(trainer, "processes", jobs[-1:], work.device))


def side_by_side(work: Workload, count: int) -> Result:
    """Train in ``count`` processes at the same time."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(count + 1), context.SimpleQueue()
    processes = [
        context.Process(target=in_process, args=(work, i, start, results)) for i in range(count)
    ]
    for process in processes:
        process.start()
    try:
        while not all(process.is_alive() for process in processes) or start.n_waiting < count:
            if any(process.exitcode for process in processes):
                return Result(side="processes", genomes=count)  # one had no room for its base
            time.sleep(0.1)
        start.wait()
        started = time.perf_counter()
        found = [results.get() for _ in processes]
        seconds = time.perf_counter() - started
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if any(one.seconds is None for one in found):
        return Result(side="processes", genomes=count)
    return Result(
        side="processes",
        genomes=count,
        examples=sum(one.examples for one in found),
        seconds=seconds,
        peak_memory_bytes=sum(one.peak_memory_bytes for one in found),
    )


def _short(job: TrainingJob) -> TrainingJob:
    """Return the job with one optimizer step, to warm up."""
    return with_stage(job, epoch_budget=1e-6)


def measure(work: Workload, counts: Sequence[int]) -> list[Result]:
    """Measure every side on one model."""
    results = [side_by_side(work, count) for count in counts]
    base = build_base(work.model, work.device)
    with TemporaryDirectory() as folder:
        cache = CachePaths(folder)
        trainer = hugging_face(base, work, cache)
        timed(trainer, "", [_short(work.jobs(1)[0])], work.device)
        results.append(timed(trainer, "hugging face", work.jobs(2), work.device))
        for shared in (False, True):
            for count in counts:
                side = "coral, shared" if shared else "coral"
                warm, fresh = (
                    coral(
                        base, work, CachePaths(f"{folder}/{side} {count} {i}"), count, shared=shared
                    )
                    for i in range(2)
                )
                jobs = work.jobs(count)
                timed(warm, side, [_short(job) for job in jobs], work.device)
                results.append(timed(fresh, side, jobs, work.device))
    return results


def matrix_rate(device: str) -> float:
    """Return 1e12 operations a second of large matrix products, in the base's own precision."""
    on_gpu = device.startswith("cuda")
    size, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for repeats in (3, 20):
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        if on_gpu:
            torch.cuda.synchronize(device)
    return 20 * 2 * size**3 / (time.perf_counter() - started) / 1e12


def results_table(found: Sequence[tuple[Workload, Sequence[Result]]], rate: float) -> Table:
    """Return speeds, as times the stock trainer's one by one."""
    table = Table("model", "layers", "side", box=SIMPLE_HEAD, show_edge=False)
    for title in ("genomes", "examples/s", "times one by one", "of matrix rate", "GB"):
        table.add_column(title, justify="right")
    for work, results in found:
        one = next(result for result in results if result.side == "hugging face")
        for result in results:
            own = (work.model, work.layers, result.side, str(result.genomes))
            if not result.seconds:
                table.add_row(*own, "does not fit")
                continue
            speed = result.examples / result.seconds
            ratio = speed * one.seconds / one.examples if one.seconds else 0.0
            used = result.teraflops / result.seconds / rate
            table.add_row(
                *own,
                f"{speed:.1f}",
                f"{ratio:.2f}" if ratio else "",
                f"{used:.1%}" if used else "",
                f"{result.peak_memory_bytes / 1e9:.2f}" if result.peak_memory_bytes else "",
            )
    return table


def main(
    models: Annotated[str, typer.Option()] = "encoder-22m,decoder-0.6b,decoder-8b",
    layers: Annotated[str, typer.Option(help="Depths; `half` is the upper half.")] = "all,half",
    counts: Annotated[str, typer.Option(help="Genomes side by side.")] = "1,2,4,8,16",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a genome.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    tokens: Annotated[int, typer.Option(min=4)] = 128,
    device: Annotated[str, typer.Option()] = "cuda:0",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[Path | None, typer.Option(help="Write every number to this file.")] = None,
) -> None:
    """Measure training throughput on a GPU: Coral against the Hugging Face Trainer with PEFT."""
    console = Console()
    if device.startswith("cuda") and not torch.cuda.is_available():
        console.print("no CUDA device here: nothing measured")
        return
    found = []
    for model in models.split(","):
        depth = CONFIGS[model]().num_hidden_layers
        for depths in layers.split(","):
            work = Workload(
                model=model,
                device=device,
                steps=steps,
                batch_size=batch_size,
                tokens=tokens,
                layers=f"top-{depth // 2}" if depths == "half" else depths,
                seed=seed,
            )
            found.append((work, measure(work, [int(count) for count in counts.split(",")])))
    rate = matrix_rate(device)
    console.print(results_table(found, rate))
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU, not a GPU"
    console.print(f"{name}; matrix rate {rate:.1f} TFLOP/s; torch {torch.__version__}")
    if json is not None:
        facts = [
            {**asdict(work), "results": [asdict(result) for result in results]}
            for work, results in found
        ]
        write_json_durably(json, {"device": name, "matrix_teraflops": rate, "measured": facts})


if __name__ == "__main__":
    typer.run(main)
