"""The golden loss curve: how a tiny real run learns.

Regenerate it, after a change that is meant to change training, with

    python -m tests.training.golden
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from coral.fidelity.stages import Stage
from coral.training.base import BaseModel, load_base
from coral.training.trainer import LoraTrainer
from tests.training.conftest import MemoryCheckpoints, make_job
from tests.training.models import animals, colours, load, save_model

PATH = Path(__file__).with_name("golden_curve.json")
COMMAND = "python -m tests.training.golden"
TOLERANCE = 2e-3
LADDER = (
    Stage(name="short", epoch_budget=1, data_percentage=50, survival_rate=1),
    Stage(name="long", epoch_budget=6, data_percentage=100, survival_rate=1),
)
VALUES = {
    "adapter.target_modules": "all-linear",
    "adapter.dropout": 0.1,
    "schedule.learning_rate": 1e-2,
    "schedule.head_lr_multiplier": 3.0,
    "curriculum.kind": "progressive",
    "tasks.weights": {"colour": 0.6, "animal": 0.4},
}


def train(base: BaseModel) -> dict[str, list[float]]:
    """Train both stages and return their curves, one list a stage under ``loss``."""
    checkpoints = MemoryCheckpoints()
    trainer = LoraTrainer(base, load(colours(), animals()), checkpoints, lambda progress: None)
    curves: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    address = None
    for stage in range(len(LADDER)):
        job = make_job(VALUES, stage=stage, stages=LADDER, resume_from=address)
        (outcome,) = trainer.train([job])
        address = outcome.checkpoint
        curves["loss"] += outcome.curve.loss
        curves["gradient_norm"] += outcome.curve.gradient_norm
    return curves


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        base = load_base(str(save_model(Path(folder))), device="cpu", trust_remote_code=False)
        curves: dict[str, Any] = train(base)
    made_with = {"torch": torch.__version__, "command": COMMAND, "tolerance": TOLERANCE}
    PATH.write_text(json.dumps({**made_with, **curves}, indent=1) + "\n")


if __name__ == "__main__":
    main()
