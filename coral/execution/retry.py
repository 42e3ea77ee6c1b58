"""Which failed jobs are worth another attempt, and how they change for it."""

from __future__ import annotations

from dataclasses import replace

from coral.ports import TrainingJob
from coral.records import Failure

DEFAULT_RETRIES = 2


def next_attempt(
    job: TrainingJob, failure: Failure, retries: int = DEFAULT_RETRIES
) -> TrainingJob | None:
    """Return the job to run after ``failure``, or None when another attempt would fail alike.

    Out of memory: half the micro-batch, rounded up. The batch size stays, so gradients accumulate
    over more micro-batches and the result is the same up to float rounding. Halvings are bounded by
    the batch size and take nothing from ``retries``.

    Crashed: the same job again, for the cause may lie outside it. A diverged, timed out or faulty
    job would end the same way.

    Args:
        retries: how many more times this job may run after a crash; the caller counts down.
    """
    match failure.kind:
        case "oom":
            examples = job.micro_batch_size or job.plan.schedule.batch_size
            if examples == 1:
                return None
            return replace(job, micro_batch_size=(examples + 1) // 2, attempt=job.attempt + 1)
        case "crashed" if retries > 0:
            return replace(job, attempt=job.attempt + 1)
        case _:
            return None


def retries_left(retries: int, failure: Failure) -> int:
    """Return what is left of ``retries`` once another attempt follows ``failure``."""
    return retries - 1 if failure.kind == "crashed" else retries
