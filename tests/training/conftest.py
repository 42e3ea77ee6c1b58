"""A tiny BERT, loaded as a user's local folder, and a trainer on it.

torch is imported inside the fixtures, so that tests of batches run without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coral.errors import CheckpointError
from coral.fidelity.stages import Stage
from coral.plan import TrainingPlan, digest_of, with_values
from coral.ports import TrainingJob

if TYPE_CHECKING:
    from coral.training.base import BaseModel
    from coral.training.trainer import LoraTrainer
    from tests.training.models import KeywordTask

SEED = 7
LADDER = (
    Stage(name="short", epoch_budget=0.25, data_percentage=25, survival_rate=1),
    Stage(name="middle", epoch_budget=0.6, data_percentage=60, survival_rate=1),
    Stage(name="long", epoch_budget=1.5, data_percentage=100, survival_rate=1),
)
LAST = len(LADDER) - 1
QUICK = {
    "adapter.rank": 4,
    "adapter.target_modules": ("query", "value"),
    "schedule.learning_rate": 5e-3,
    "schedule.batch_size": 8,
    "encoding.sequence_len": 16,
}

BuildTrainer = Callable[..., "LoraTrainer"]
BuildJob = Callable[..., TrainingJob]


class MemoryCheckpoints:
    """A ``CheckpointStore`` whose contents tests may damage."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def put(self, content: bytes) -> str:
        address = hashlib.sha256(content).hexdigest()
        self.contents[address] = content
        return address

    def get(self, address: str) -> bytes:
        if address not in self.contents:
            raise CheckpointError(f"no checkpoint at {address}")
        return self.contents[address]

    def holds(self, address: str) -> bool:
        return address in self.contents

    def size(self, address: str) -> int | None:
        return len(self.contents[address]) if address in self.contents else None

    def discard(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            self.contents.pop(address, None)


def plan(values: dict[str, Any] | None = None) -> TrainingPlan:
    """A quick plan, with ``values`` at dotted paths."""
    return with_values(TrainingPlan(), QUICK | (values or {}))


def make_job(values: dict[str, Any] | None = None, **fields: Any) -> TrainingJob:
    """A job for a quick plan, to the last stage of ``LADDER`` unless ``fields`` say otherwise."""
    made = plan(values)
    defaults: dict[str, Any] = {"trial": 0, "stage": LAST, "stages": LADDER, "seed": SEED}
    return TrainingJob(key=digest_of(made), plan=made, **(defaults | fields))


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries() -> None:
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.models import save_model

    return save_model(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def base(base_folder: Path) -> BaseModel:
    import torch

    from coral.training.base import load_base

    torch.set_num_threads(1)
    return load_base(str(base_folder), device="cpu", trust_remote_code=False)


@pytest.fixture
def checkpoints() -> MemoryCheckpoints:
    return MemoryCheckpoints()


@pytest.fixture
def build_trainer(base: BaseModel, checkpoints: MemoryCheckpoints) -> BuildTrainer:
    """Return a trainer of the given tasks (of one with three colours if none is given)."""

    def build(*tasks: KeywordTask) -> LoraTrainer:
        from coral.training.trainer import LoraTrainer
        from tests.training.models import colours, load

        loaded = load(*(tasks or (colours(),)))
        return LoraTrainer(base, loaded, checkpoints, report=lambda progress: None)

    return build
