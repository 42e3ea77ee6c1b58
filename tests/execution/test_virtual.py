from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coral.execution import VirtualExecutor
from coral.fidelity import completion_times
from coral.fidelity.stages import Stage
from coral.plan import TrainingPlan
from coral.ports import Progress, TrainingJob
from coral.records import Cost, Failure, FailureKind, Outcome
from coral.testing.trainers import ScriptedTrainer

STAGE = Stage(name="only", epoch_budget=1.0, data_percentage=100, survival_rate=1.0)


class TimedTrainer(ScriptedTrainer):
    """Takes as long as it is told, and fails in the attempts that it is told to fail in.

    Args:
        seconds: by trial, of each attempt.
        failures: trial to what its first attempts end in.
    """

    def __init__(
        self, seconds: Sequence[float], failures: dict[int, list[FailureKind]] | None = None
    ) -> None:
        super().__init__({}, "cpu", lambda _: None)
        self.seconds = seconds
        self.failures = failures or {}

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        for job in jobs:
            kinds = self.failures.get(job.trial, [])
            kind = kinds[job.attempt - 1] if job.attempt <= len(kinds) else None
            seconds = self.seconds[job.trial]
            yield Outcome(
                key=job.key,
                stage=job.stage,
                cost=Cost(
                    optimizer_steps=1, train_seconds=seconds / 2, evaluation_seconds=seconds / 2
                ),
                failure=Failure(kind=kind, message="as told") if kind else None,
            )


def jobs_of(count: int) -> list[TrainingJob]:
    return [
        TrainingJob(
            key=str(trial), trial=trial, plan=TrainingPlan(), stage=0, stages=(STAGE,), seed=0
        )
        for trial in range(count)
    ]


def order(seconds: Sequence[float], workers: int) -> list[int]:
    executor = VirtualExecutor(TimedTrainer(seconds), workers)
    return [int(outcome.key) for outcome in executor.run(jobs_of(len(seconds)))]


def test_outcomes_come_in_the_order_in_which_virtual_workers_end() -> None:
    seconds = [9.0, 2.0, 5.0, 1.0]
    assert order(seconds, workers=1) == [0, 1, 2, 3]
    assert order(seconds, workers=2) == [1, 2, 3, 0]
    assert order(seconds, workers=64) == [3, 1, 2, 0]


def test_jobs_that_end_together_keep_their_order() -> None:
    assert order([1.0] * 6, workers=3) == [0, 1, 2, 3, 4, 5]


@given(
    seconds=st.lists(st.integers(0, 800).map(lambda eighths: eighths / 8), max_size=20),
    workers=st.integers(1, 64),
)
def test_every_job_comes_once_and_the_clock_never_runs_backwards(
    seconds: list[float], workers: int
) -> None:
    came = order(seconds, workers)
    assert sorted(came) == list(range(len(seconds)))
    ends = completion_times(seconds, workers)
    assert [ends[i] for i in came] == sorted(ends)


def test_the_outcome_of_a_job_does_not_depend_on_the_workers() -> None:
    one, many = (
        VirtualExecutor(TimedTrainer([3.0, 1.0, 2.0], {1: ["crashed"]}), workers)
        for workers in (1, 64)
    )
    key = lambda outcome: outcome.key  # noqa: E731
    assert sorted(one.run(jobs_of(3)), key=key) == sorted(many.run(jobs_of(3)), key=key)


def test_every_attempt_takes_time_on_its_worker() -> None:
    trainer = TimedTrainer([2.0, 5.0], {0: ["crashed", "oom"]})
    outcomes = list(VirtualExecutor(trainer, workers=2).run(jobs_of(2)))
    assert [int(outcome.key) for outcome in outcomes] == [1, 0]
    retried = outcomes[1]
    assert retried.failure is None
    assert (retried.attempts, retried.cost.seconds) == (3, 6.0)
    assert retried.cost.evaluation_seconds == 1.0
    assert retried.cost.optimizer_steps == 1


def test_a_job_that_is_given_up_took_the_time_of_all_its_attempts() -> None:
    trainer = TimedTrainer([2.0], {0: ["crashed"] * 9})
    (outcome,) = VirtualExecutor(trainer, workers=1, retries=3).run(jobs_of(1))
    assert outcome.failure is not None
    assert (outcome.attempts, outcome.cost.seconds) == (4, 8.0)


def test_a_trainer_that_raises_is_an_outcome_too() -> None:
    class Raising(TimedTrainer):
        def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
            if jobs[0].trial == 1:
                raise ValueError("no such layer")
            return super().train(jobs)

    outcomes = list(VirtualExecutor(Raising([1.0, 1.0, 1.0]), workers=2).run(jobs_of(3)))
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    assert len(outcomes) == 3
    assert [outcome.key for outcome in failed] == ["1"]
    assert failed[0].failure == replace(
        failed[0].failure, kind="plugin", message="ValueError: no such layer"
    )


def test_each_finished_job_is_reported() -> None:
    seen: list[Progress] = []
    trainer = TimedTrainer([1.0, 2.0], {1: ["diverged"]})
    list(VirtualExecutor(trainer, 2, seen.append).run(jobs_of(2)))
    assert [progress.trial for progress in seen] == [0]
