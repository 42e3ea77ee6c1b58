from __future__ import annotations

from coral.fidelity import Stage
from coral.plan import TrainingPlan, with_values
from coral.ports import TrainingJob
from coral.work import longest_first
from tests.test_sharing import SURVEY

STAGE = Stage(name="only", epoch_budget=1.0, data_percentage=100, survival_rate=1.0)


def order_of(*plans: dict[str, object]) -> list[int]:
    jobs = [
        TrainingJob(
            key=str(i),
            trial=i,
            plan=with_values(TrainingPlan(), values),
            stage=0,
            stages=(STAGE,),
            seed=0,
        )
        for i, values in enumerate(plans)
    ]
    return [job.trial for job in longest_first(jobs, SURVEY)]


def test_many_small_steps_take_longer_than_few_large_ones() -> None:
    assert order_of(*({"schedule.batch_size": size} for size in (16, 2, 8))) == [1, 2, 0]
