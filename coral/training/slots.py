"""How many jobs train side by side: whatever gives the most examples a second on the device."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from coral.fidelity import Stage
from coral.plan import TrainingPlan, digest_of
from coral.ports import Progress, TrainingJob
from coral.training.base import BaseModel
from coral.training.failures import failure_of
from coral.training.job import JobLog, JobRunner
from coral.training.loop import train_steps
from coral.training.pack import Member, Pack

MOST = 16
"""Jobs side by side that are tried."""

WORTH = 1.2
"""Times as many examples a second that twice as many jobs must give: rounding then depends on who
trains together, and nobody pays that for a gain that may be noise."""

STEPS = 3
"""Optimizer steps that are timed, after as many that are not."""


def slot_rates(
    base: BaseModel, runner: JobRunner, train_examples: int, folder: Path | None
) -> dict[int, float]:
    """Return examples a second by number of jobs side by side, as far as more are worth it.

    The default recipe is timed, alone and then in packs of twice the size each.

    Args:
        folder: where they are remembered, for this base, device and version of torch.
    """
    file = folder / f"{_key(base)}.json" if folder else None
    known = _read(file) if file else None
    if known:
        return known
    rates = _timed(base, runner, train_examples)
    if file:
        _write(file, rates)
    return rates


def best(rates: Mapping[int, float]) -> int:
    """Return the number of jobs that is worth it."""
    found = 1
    while 2 * found in rates and rates[2 * found] >= WORTH * rates[found]:
        found *= 2
    return found


def _timed(base: BaseModel, runner: JobRunner, train_examples: int) -> dict[int, float]:
    plan = TrainingPlan()
    examples = STEPS * plan.schedule.batch_size
    share = min(1.0, examples / train_examples)
    stage = Stage(name="probe", epoch_budget=share, data_percentage=100, survival_rate=1.0)
    rates: dict[int, float] = {}
    count = 1
    while count <= MOST and (count == 1 or best(rates) == count // 2):
        jobs = [
            TrainingJob(key="probe", trial=i, plan=plan, stage=0, stages=(stage,), seed=i)
            for i in range(count)
        ]
        try:
            _seconds(base, runner, jobs)
            rates[count] = count * examples / _seconds(base, runner, jobs)
        except Exception as error:
            if failure_of(error).kind in ("oom", "crashed"):
                break  # so many don't fit, or this base takes one at a time
            raise
        count *= 2
    return rates


def _seconds(base: BaseModel, runner: JobRunner, jobs: Sequence[TrainingJob]) -> float:
    """Train jobs side by side, one of them alone; return how long their steps took."""
    members = []
    for job in jobs:
        with runner.begun(job, JobLog()) as begun:
            begun.course.report = _keep_quiet
            if len(jobs) == 1 and (leg := begun.course.next_leg()):
                started = time.perf_counter()
                train_steps(begun.encoder, begun.optimizer, begun.course, leg)
                return time.perf_counter() - started
            members.append(Member.of(begun, JobLog()))
    started = time.perf_counter()
    Pack(base, members, runner.targets).train()
    return time.perf_counter() - started


def _keep_quiet(_: Progress) -> None:
    """Tell nobody: these are nobody's trials."""


def _key(base: BaseModel) -> str:
    device = platform.processor() or platform.machine()
    if base.device.type == "cuda":
        device = torch.cuda.get_device_name(base.device)
    return digest_of([base.digest, device, torch.get_num_threads(), torch.__version__])


def _read(file: Path) -> dict[int, float]:
    """Return what is remembered; nothing if there is none, or it is damaged."""
    try:
        found = json.loads(file.read_text())
        return {int(count): float(rate) for count, rate in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(file: Path, rates: Mapping[int, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    own = file.with_suffix(f".{os.getpid()}")
    own.write_text(json.dumps(rates))
    own.replace(file)
