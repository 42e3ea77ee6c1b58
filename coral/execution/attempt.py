"""One attempt at some jobs: whatever happens in it becomes an outcome."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace

from coral.ports import Trainer, TrainingJob
from coral.records import Failure, FailureKind, Outcome


def attempt(trainer: Trainer, jobs: Sequence[TrainingJob]) -> tuple[Outcome, ...]:
    """Train ``jobs`` once; return an outcome for each, in their order.

    Only KeyboardInterrupt gets out.
    """
    found: dict[str, list[Outcome]] = {job.key: [] for job in jobs}
    error: BaseException | None = None
    trace = ""
    try:
        for outcome in trainer.train(jobs):
            found.setdefault(outcome.key, []).append(outcome)
    except (Exception, SystemExit) as raised:
        error, trace = raised, traceback.format_exc()
    return tuple(_one(job, found[job.key], error, trace) for job in jobs)


def _one(
    job: TrainingJob, outcomes: Sequence[Outcome], error: BaseException | None, trace: str
) -> Outcome:
    """Return a job's outcome: what the trainer yielded for it, or why there is none."""
    if error is not None and not outcomes:
        return failed(job, _kind_of(error), describe(error), trace)
    if len(outcomes) != 1:
        return failed(
            job,
            "plugin",
            f"a trainer must return one outcome a job, got {len(outcomes)} for trial {job.trial}."
            " Yield an outcome for every job given to train().",
        )
    (outcome,) = outcomes
    return outcome if outcome.attempts == job.attempt else replace(outcome, attempts=job.attempt)


def failed(job: TrainingJob, kind: FailureKind, message: str, trace: str = "") -> Outcome:
    """Return the outcome of a job that left nothing behind but its failure."""
    failure = Failure(kind=kind, message=message, traceback=trace)
    return Outcome(key=job.key, stage=job.stage, failure=failure, attempts=job.attempt)


def describe(error: BaseException) -> str:
    """Return an exception's type and message in one line's worth of words."""
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _kind_of(error: BaseException) -> FailureKind:
    # torch's OutOfMemoryError is told by its name, for torch stays out of this process.
    out_of_memory = {"MemoryError", "OutOfMemoryError"}
    if out_of_memory & {base.__name__ for base in type(error).__mro__}:
        return "oom"
    return "crashed" if isinstance(error, SystemExit) else "plugin"
