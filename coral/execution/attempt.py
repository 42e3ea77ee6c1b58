"""One attempt at one job: whatever happens in it becomes an outcome."""

from __future__ import annotations

import traceback
from dataclasses import replace

from coral.ports import Trainer, TrainingJob
from coral.records import Failure, FailureKind, Outcome


def attempt(trainer: Trainer, job: TrainingJob) -> Outcome:
    """Train ``job`` once. Only KeyboardInterrupt gets out."""
    try:
        outcomes = tuple(trainer.train([job]))
    except (Exception, SystemExit) as error:
        return failed(job, _kind_of(error), describe(error), traceback.format_exc())
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
