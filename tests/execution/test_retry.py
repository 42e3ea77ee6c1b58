from __future__ import annotations

import pytest

from coral.execution.retry import next_attempt, retries_left
from coral.ports import TrainingJob
from coral.records import Failure, FailureKind
from tests.execution.conftest import MakeJob


def failure(kind: FailureKind) -> Failure:
    return Failure(kind=kind, message="it failed")


def test_out_of_memory_halves_the_batch_until_single_examples(make_job: MakeJob) -> None:
    job: TrainingJob | None = make_job(1)
    sizes = []
    while job is not None:
        sizes.append(job.micro_batch_size)
        again = next_attempt(job, failure("oom"), retries=0)
        assert again is None or again.attempt == job.attempt + 1
        job = again
    assert sizes == [None, 8, 4, 2, 1]


def test_an_odd_micro_batch_is_halved_upwards(make_job: MakeJob) -> None:
    again = next_attempt(make_job(1, micro_batch_size=5), failure("oom"))
    assert again is not None
    assert again.micro_batch_size == 3
    assert again.plan.schedule.batch_size == 16


def test_a_crashed_job_runs_again_as_it_was(make_job: MakeJob) -> None:
    again = next_attempt(make_job(1, micro_batch_size=4), failure("crashed"), retries=1)
    assert again == make_job(1, micro_batch_size=4, attempt=2)


def test_a_crashed_job_without_retries_left_is_given_up(make_job: MakeJob) -> None:
    assert next_attempt(make_job(1), failure("crashed"), retries=0) is None


@pytest.mark.parametrize("kind", ["timeout", "diverged", "plugin"])
def test_what_would_fail_alike_is_not_tried_again(make_job: MakeJob, kind: FailureKind) -> None:
    assert next_attempt(make_job(1), failure(kind), retries=5) is None


def test_only_crashes_count_against_the_retries() -> None:
    assert retries_left(2, failure("crashed")) == 1
    assert retries_left(2, failure("oom")) == 2
