from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from coral.execution import InlineExecutor
from coral.ports import Progress, TrainingJob
from coral.records import Outcome
from coral.testing.trainers import ScriptedTrainer, scripted_trainer
from tests.execution.conftest import MakeJob


def scripted(**payload: Any) -> ScriptedTrainer:
    return scripted_trainer(payload, device="cpu", report=lambda progress: None)


class RaisingTrainer(ScriptedTrainer):
    """Raises the given error in every job."""

    def __init__(self, error: BaseException) -> None:
        super().__init__({}, "cpu", lambda progress: None)
        self.error = error
        self.seen: list[int | None] = []

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        self.seen.append(jobs[0].micro_batch_size)
        raise self.error


class SilentTrainer(ScriptedTrainer):
    """Returns no outcome."""

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        return iter(())


def test_jobs_run_in_order(make_job: MakeJob) -> None:
    jobs = [make_job(trial) for trial in (3, 1, 2)]
    outcomes = list(InlineExecutor(scripted()).run(jobs))
    assert [outcome.key for outcome in outcomes] == [job.key for job in jobs]
    assert all(outcome.failure is None for outcome in outcomes)


def test_an_escaped_exception_becomes_a_failure_with_its_traceback(make_job: MakeJob) -> None:
    executor = InlineExecutor(scripted(trials={"1": {"raise": "no such column"}}))
    failed, fine = executor.run([make_job(1), make_job(2)])
    assert failed.failure is not None
    assert failed.failure.kind == "plugin"
    assert failed.failure.message == "RuntimeError: no such column"
    assert "trainers.py" in failed.failure.traceback
    assert (failed.key, failed.stage) == (make_job(1).key, 0)
    assert fine.failure is None


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("CUDA out of memory")])
def test_running_out_of_memory_is_retried_with_smaller_batches(
    make_job: MakeJob, error: Exception
) -> None:
    trainer = RaisingTrainer(error)
    (outcome,) = InlineExecutor(trainer).run([make_job(1)])
    assert outcome.failure is not None
    assert outcome.failure.kind == "oom"
    assert trainer.seen == [None, 8, 4, 2, 1]
    assert outcome.attempts == 5


def test_a_trainer_that_exits_counts_as_crashed(make_job: MakeJob) -> None:
    trainer = RaisingTrainer(SystemExit(3))
    (outcome,) = InlineExecutor(trainer, retries=1).run([make_job(1)])
    assert outcome.failure is not None
    assert outcome.failure.kind == "crashed"
    assert outcome.attempts == 2


def test_a_trainer_that_returns_nothing_is_told_so(make_job: MakeJob) -> None:
    (outcome,) = InlineExecutor(SilentTrainer({}, "cpu", lambda _: None)).run([make_job(1)])
    assert outcome.failure is not None
    assert outcome.failure.kind == "plugin"
    assert "one outcome a job, got 0" in outcome.failure.message


def test_control_c_gets_through(make_job: MakeJob) -> None:
    executor = InlineExecutor(RaisingTrainer(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        next(executor.run([make_job(1)]))


def test_each_finished_job_is_reported(make_job: MakeJob) -> None:
    seen: list[Progress] = []
    executor = InlineExecutor(scripted(trials={"1": {"diverge": True}}), seen.append)
    list(executor.run([make_job(1), make_job(2)]))
    assert [(progress.trial, progress.step, progress.end_step) for progress in seen] == [(2, 5, 5)]
