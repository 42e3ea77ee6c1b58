"""A process with little memory left: a whole batch does not fit, micro-batches do.

Run as a program of its own, for the limit holds for the whole process. Prints JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from coral.execution import InlineExecutor
from coral.fidelity.stages import Stage
from coral.ports import Trainer, TrainingJob
from coral.records import Outcome
from coral.training.base import load_base
from coral.training.trainer import LoraTrainer
from tests.training.conftest import MemoryCheckpoints, make_job
from tests.training.models import colours, load, save_model

ROOM_BYTES = 64 << 20
BATCH = 256
ONE_STEP = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)


class Listener:
    """A trainer that remembers what its jobs came to, attempt by attempt."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.attempts: list[tuple[TrainingJob, Outcome]] = []

    def train(self, jobs: list[TrainingJob]) -> list[Outcome]:
        outcomes = list(self._trainer.train(jobs))
        self.attempts.extend(zip(jobs, outcomes, strict=True))
        return outcomes


def main() -> None:
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # its kernels would take a part of the room
    with TemporaryDirectory() as folder:
        save_model(Path(folder), intermediate_size=4096)
        base = load_base(folder, device="cpu", trust_remote_code=False)
    trainer = LoraTrainer(base, load(colours(BATCH)), MemoryCheckpoints(), lambda progress: None)
    job = make_job({"schedule.batch_size": BATCH}, stages=ONE_STEP, stage=0)
    (unlimited,) = trainer.train([replace(job, micro_batch_size=1)])

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    listener = Listener(trainer)
    (outcome,) = InlineExecutor(listener).run([job])
    report = {
        "kinds": [o.failure.kind if o.failure else None for _, o in listener.attempts],
        "micro_batch_sizes": [j.micro_batch_size for j, _ in listener.attempts],
        "attempts": outcome.attempts,
        "loss": outcome.curve.loss,
        "unlimited_loss": unlimited.curve.loss,
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
