"""Simulated misfortune, by rate: crashes, lack of memory, NaN, stragglers, lost checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from coral.ports import TrainingJob
from coral.records import Failure
from coral.rng import stream
from coral.settings import FaultRates

STRAGGLER_FACTOR = 8.0


def fault_of(
    rates: FaultRates,
    job: TrainingJob,
    memory_of: Callable[[int | None], int],
    limit: float | None,
    *,
    trains: bool = True,
) -> Failure | None:
    """Return what befalls an attempt at a job; None if nothing does.

    Each attempt has its own luck. Out of memory by rate befalls whole batches only, so that the
    halved micro-batch of the next attempt fits. Where nothing is trained there is no loss.

    Args:
        memory_of: peak memory in bytes for a micro-batch size.
        limit: memory of a worker in bytes.
        trains: there are steps to train.
    """
    needed = memory_of(job.micro_batch_size)
    if limit is not None and needed > limit:
        return Failure(
            kind="oom",
            message=f"simulated: {needed / 1e9:.2f} GB needed, a worker has {limit / 1e9:.2f} GB",
        )
    if not (rates.crash or rates.out_of_memory or rates.nan):
        return None  # the usual case; a stream costs more than all else here
    crash, oom, nan = stream(job.seed, "simulated fault", job.key, job.attempt).random(3)
    if job.attempt == 1 and oom < rates.out_of_memory:
        return Failure(kind="oom", message="simulated: out of memory")
    if crash < rates.crash:
        return Failure(kind="crashed", message="simulated: the worker process died")
    if nan < rates.nan and trains:
        return Failure(kind="diverged", message="simulated: the loss is not finite")
    return None


def is_lost(rates: FaultRates, job: TrainingJob) -> bool:
    """Return whether the checkpoint that a job would resume from can't be read."""
    if not rates.lost_checkpoint:
        return False
    draw = stream(job.seed, "simulated lost checkpoint", job.key).random()
    return bool(draw < rates.lost_checkpoint)


def parents_are_lost(rates: FaultRates, job: TrainingJob) -> bool:
    """Return whether the checkpoints that a job would inherit can't be read."""
    if not rates.lost_checkpoint:
        return False
    draw = stream(job.seed, "simulated lost parents", job.key).random()
    return bool(draw < rates.lost_checkpoint)


def slowdown(rates: FaultRates, job: TrainingJob) -> float:
    """Return by how much an attempt takes longer: 1, or a straggler's factor."""
    if not rates.straggler:
        return 1.0
    draw = stream(job.seed, "simulated straggler", job.key, job.attempt).random()
    return STRAGGLER_FACTOR if draw < rates.straggler else 1.0
