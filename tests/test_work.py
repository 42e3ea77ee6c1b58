from __future__ import annotations

from dataclasses import replace

from coral.evolution import EvolutionState
from coral.fidelity import Stage
from coral.plan import TrainingPlan, with_values
from coral.ports import TrainingJob
from coral.work import longest_first, run
from tests.scripted_runs import SPEC, WatchedExecutor, ports_of
from tests.test_sharing import EACH, SURVEY

STAGE = Stage(name="only", epoch_budget=1.0, data_percentage=100, survival_rate=1.0)


def jobs_of(*plans: dict[str, object]) -> list[TrainingJob]:
    return [
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


def test_many_small_steps_take_longer_than_few_large_ones() -> None:
    jobs = jobs_of(*({"schedule.batch_size": size} for size in (16, 2, 8)))
    assert [job.trial for job in longest_first(jobs, SURVEY)] == [1, 2, 0]


def test_jobs_know_which_layers_the_others_enter() -> None:
    executor = WatchedExecutor()
    ports = replace(ports_of(executor), survey=SURVEY)
    jobs = jobs_of(*({"adapter.layers": layers} for layers in ("top-2", "all", "top-4")))
    for room, entrances, entered in ((None, None, (2, 4)), (EACH + 1, (2,), (2,))):
        list(run(jobs, EvolutionState(train_examples=80), replace(SPEC, prefix_bytes=room), ports))
        found = {(job.entrances, job.entered) for job in executor.jobs[-len(jobs) :]}
        assert found == {(entrances, entered)}
