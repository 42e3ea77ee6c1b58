from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.fidelity import completion_times, makespan

durations = st.lists(st.floats(0.0, 1e4), min_size=1, max_size=30)
worker_counts = st.integers(1, 12)


def test_each_job_goes_to_the_worker_that_is_free_first() -> None:
    assert completion_times([3.0, 1.0, 1.0, 2.0], workers=2) == [3.0, 1.0, 2.0, 4.0]


def test_one_worker_does_one_job_after_the_other() -> None:
    assert completion_times([3.0, 1.0, 2.0], workers=1) == [3.0, 4.0, 6.0]


def test_the_makespan_takes_the_longest_jobs_first() -> None:
    assert completion_times([1.0, 1.0, 2.0], workers=2)[-1] == 3.0
    assert makespan([1.0, 1.0, 2.0], workers=2) == 2.0


def test_no_jobs_take_no_time() -> None:
    assert makespan([], workers=3) == 0.0


@given(seconds=durations, workers=worker_counts)
def test_the_makespan_is_never_below_the_longest_job_nor_below_an_even_share(
    seconds: list[float], workers: int
) -> None:
    end = makespan(seconds, workers)
    assert end >= max(seconds)
    assert end >= sum(seconds) / workers * (1 - 1e-9)


@given(seconds=durations, workers=worker_counts)
def test_the_makespan_falls_as_workers_grow(seconds: list[float], workers: int) -> None:
    assert makespan(seconds, workers + 1) <= makespan(seconds, workers) * (1 + 1e-9)
    assert makespan(seconds, 1) == pytest.approx(sum(seconds))
    assert makespan(seconds, len(seconds)) == max(seconds)


@given(seconds=durations, workers=worker_counts)
def test_no_worker_waits_while_there_is_work(seconds: list[float], workers: int) -> None:
    """Graham 1966: the last job to end began when every worker was still busy."""
    bound = sum(seconds) / workers + (1 - 1 / workers) * max(seconds)
    assert makespan(seconds, workers) <= bound * (1 + 1e-9)
