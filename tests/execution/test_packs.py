from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coral.execution.packs import ROUNDS, packs
from coral.fidelity.stages import Stage
from coral.plan import TrainingPlan, with_values
from coral.ports import TrainingJob

STAGES = (Stage(name="only", epoch_budget=1, data_percentage=100, survival_rate=1),)


def job(trial: int, sequence_len: int = 64, batch_size: int = 16) -> TrainingJob:
    values = {"encoding.sequence_len": sequence_len, "schedule.batch_size": batch_size}
    plan = with_values(TrainingPlan(), values)
    return TrainingJob(key=f"{trial}", trial=trial, plan=plan, stage=0, stages=STAGES, seed=0)


@given(count=st.integers(0, 200), slots=st.integers(1, 16))
def test_every_job_is_in_one_pack_and_there_are_packs_for_many_workers(
    count: int, slots: int
) -> None:
    made = packs([job(trial) for trial in range(count)], slots)
    assert sorted(one.trial for pack in made for one in pack) == list(range(count))
    sizes = [len(pack) for pack in made]
    assert all(size % slots == 0 for size in sizes[:-1])
    if max(sizes, default=0) > slots > 1:
        assert len(made) >= ROUNDS


def test_alone_jobs_keep_their_order() -> None:
    jobs = [job(trial, batch_size=8 * trial + 8) for trial in (2, 0, 1)]
    assert packs(jobs, 1) == [(one,) for one in jobs]


def test_jobs_that_are_alike_go_together_and_the_first_job_goes_first() -> None:
    jobs = [job(0, 128), job(1, 16), job(2, 128, 8), job(3, 16)]
    assert packs(jobs, 2) == [(jobs[2], jobs[0]), (jobs[1], jobs[3])]


def test_packs_do_not_depend_on_anything_but_the_jobs() -> None:
    jobs = [job(trial, 16 * (trial % 3 + 1)) for trial in range(9)]
    again = [replace(one) for one in jobs]
    assert packs(jobs, 4) == packs(again, 4)
