"""Jobs for the scripted trainer, and the journal in which it tells who did what."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral.fidelity.stages import Stage
from coral.plan import TrainingPlan, digest_of, with_values
from coral.ports import TrainingJob

SCRIPTED = "coral.testing.trainers:scripted_trainer"
LADDER = (
    Stage(name="short", epoch_budget=0.2, data_percentage=20, survival_rate=0.5),
    Stage(name="long", epoch_budget=1.0, data_percentage=100, survival_rate=0.5),
)

MakeJob = Callable[..., TrainingJob]
ReadJournal = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def make_job() -> MakeJob:
    def make(trial: int, *, learning_rate: float = 1e-3, **fields: Any) -> TrainingJob:
        plan = with_values(TrainingPlan(), {"schedule.learning_rate": learning_rate})
        key = digest_of([trial, learning_rate])
        defaults: dict[str, Any] = {"stage": 0, "stages": LADDER, "seed": 7}
        return TrainingJob(key=key, trial=trial, plan=plan, **(defaults | fields))

    return make


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def read_journal(journal: Path) -> ReadJournal:
    def read() -> list[dict[str, Any]]:
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [json.loads(line) for line in lines]

    return read


def is_running(pid: int) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
