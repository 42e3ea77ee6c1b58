from __future__ import annotations

from coral.fidelity import Stage
from coral.plan import TrainingPlan, with_values
from coral.ports import LinearModule, Survey, TaskSurvey, TrainingJob
from coral.work import longest_first

TASK = TaskSurvey(
    name="task",
    metrics={"auroc": "max"},
    primary_metric="auroc",
    label_names=("a", "b"),
    train_examples=64,
    validation_examples=8,
    test_examples=8,
)
SURVEY = Survey(
    model_digest="model",
    data_digest="data",
    depth=3,
    linear_modules=tuple(
        LinearModule(name=f"layer.{i}.query", layer=i, in_features=8, out_features=8)
        for i in range(3)
    ),
    tasks=(TASK,),
    device="cpu",
    mean_tokens=20.0,
    shares_prefixes=True,
    hidden_size=8,
)
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
