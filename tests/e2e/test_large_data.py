"""Data larger than memory should be: a file of 2 GB, trained on while it is read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.models import save_model

FILE_BYTES = 2_000_000_000
ROW_BYTES = 1000
DRAINED = 20_000
"""Examples that are read beyond what is trained on, to see what reading on holds."""
MOST_GROWTH = 300 * 2**20
MOST_SECONDS = 5.0

TRAIN = """
import json, resource, sys, time
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from coral.fidelity import Stage
from coral.plan import TrainingPlan, with_values
from coral.ports import DataContext, TrainingJob
from coral.storage import FsspecCheckpointStore
from coral.tasks import discover
from coral.training.base import load_base
from coral.training.data import LoadedTask
from coral.training.trainer import LoraTrainer

data, model, folder = map(Path, sys.argv[1:4])
drained = int(sys.argv[4])


def peak_bytes():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


torch.set_num_threads(1)
base = load_base(str(model), device="cpu", trust_remote_code=False)
before, started, steps = peak_bytes(), time.perf_counter(), []
register_optimizer_step_post_hook(lambda *_: steps.append(time.perf_counter()))
task = discover().build(
    "text-classification",
    {"name": "large", "path": str(data), "streaming": True, "train_examples": 1_000_000},
)
loaded = LoadedTask(task=task, data=task.load(DataContext(cache_dir=folder)))
store = FsspecCheckpointStore(str(folder / "checkpoints"))
trainer = LoraTrainer(base, {"large": loaded}, store, lambda progress: None)
values = {"encoding.sequence_len": 16, "schedule.batch_size": 32, "schedule.learning_rate": 5e-3,
          "adapter.rank": 4, "adapter.target_modules": ("query", "value")}
stages = (
    Stage(name="first", epoch_budget=0.0005, data_percentage=5, survival_rate=1.0),
    Stage(name="last", epoch_budget=0.0016, data_percentage=100, survival_rate=1.0),
)
job = TrainingJob(key="job", trial=0, plan=with_values(TrainingPlan(), values), stage=1,
                  stages=stages, seed=0)
[outcome] = trainer.train([job])
read = 0
for part in loaded.data.stream.read():
    read += len(part)
    if read >= drained:
        break
print(json.dumps({
    "failure": outcome.failure and outcome.failure.message,
    "growth": peak_bytes() - before,
    "first_step": steps[0] - started,
    "steps": len(steps),
    "auroc": outcome.metrics.get("auroc"),
}))
"""


@pytest.fixture
def large_file(tmp_path: Path) -> Iterator[Path]:
    """Rows of a class word, filled up with others; the file goes as soon as the test is over."""
    path = tmp_path / "large.jsonl"
    rows = []
    for number in range(5000):
        colour = ("red", "green", "blue")[number % 3]
        text = f"w{number % 9} {colour} w{number % 7} {number} "
        text += "w1 " * ((ROW_BYTES - len(text)) // 3)
        rows.append(json.dumps({"text": text, "label": colour}))
    block = ("\n".join(rows) + "\n").encode()
    with path.open("wb") as file:
        while file.tell() < FILE_BYTES:
            file.write(block)
    yield path
    path.unlink()


def test_two_gigabytes_train_at_once_and_in_little_memory(large_file: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    command = [
        sys.executable,
        "-c",
        TRAIN,
        str(large_file),
        str(model),
        str(tmp_path),
        str(DRAINED),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["failure"] is None
    assert facts["steps"] == 50
    assert facts["auroc"] > 0.8
    assert facts["growth"] < MOST_GROWTH
    assert facts["first_step"] < MOST_SECONDS
