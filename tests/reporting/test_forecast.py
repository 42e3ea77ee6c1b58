"""What a run will take, from a few timed steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coral.fidelity import check_ladder
from coral.genome import ChoiceGene
from coral.ports import LinearModule, Survey, TaskSurvey
from coral.records import Cost, Outcome
from coral.reporting import forecast, probe_ladder
from tests.reporting.runs import SIMULATED, SPEC

SURVEY = Survey(
    model_digest="m",
    data_digest="d",
    depth=2,
    linear_modules=tuple(
        LinearModule(name=f"layer.{i}.{name}", layer=i, in_features=8, out_features=8)
        for i in range(2)
        for name in ("query", "value")
    ),
    tasks=(
        TaskSurvey(
            name="origin",
            metrics={"auroc": "max"},
            primary_metric="auroc",
            label_names=("a", "b"),
            train_examples=160,
            validation_examples=100,
            test_examples=10,
        ),
    ),
    device="cpu",
    mean_tokens=8.0,
    hidden_size=8,
)
PROBE = Outcome(
    key="probe",
    stage=0,
    cost=Cost(examples=80, train_seconds=2.0, evaluation_seconds=0.5),
    trainable_parameters=1000,
    peak_memory_bytes=10,
)


def test_a_forecast_adds_up_the_ladder() -> None:
    facts = forecast(SPEC, SURVEY, [PROBE, PROBE], workers=2)
    # 160 examples in batches of 16: stages end after 5 and 10 steps; 4 and then 2 genomes.
    assert [row["optimizer_steps"] for row in facts["stages"]] == [20, 10]
    assert (facts["optimizer_steps"], facts["naive_optimizer_steps"]) == (30, 40)
    assert facts["share_of_naive"] == 0.75
    # 40 examples/s: 80 examples take 2 s; 100 to validate at 20/s take 5 s; 2 rounds, then 1.
    cost = facts["operations_of_default"]
    seconds = [2 * (2 * cost + 5), 2 * cost + 5]
    assert [row["seconds"] for row in facts["stages"]] == pytest.approx(seconds)
    assert facts["wall_seconds"] == pytest.approx(sum(seconds))
    assert facts["peak_memory_bytes"] == 20


def test_a_forecast_says_whether_it_is_of_a_simulated_run() -> None:
    real, simulated = (forecast(s, SURVEY, [PROBE], workers=1) for s in (SPEC, SIMULATED))
    assert (real["mode"], real["simulation"]) == ("real", None)
    assert (simulated["mode"], simulated["simulation"]["profile"]) == ("simulate", "mine")


def test_a_round_that_is_not_full_takes_as_long_as_a_full_one() -> None:
    full, fuller = (forecast(SPEC, SURVEY, [PROBE] * n, workers=n)["stages"] for n in (2, 3))
    assert [row["seconds"] for row in fuller] == [row["seconds"] for row in full]


def test_what_is_shared_takes_room_instead_of_time() -> None:
    gene = ChoiceGene(path="adapter.layers", options=("all", "top-1"))
    spec = replace(SPEC, space=replace(SPEC.space, genes=(gene,)))
    alone = forecast(spec, SURVEY, [PROBE], workers=1)
    shared = forecast(spec, replace(SURVEY, shares_prefixes=True), [PROBE], workers=1)
    assert (alone["shared_before_layers"], shared["shared_before_layers"]) == ([], [1])
    assert shared["operations_of_default"] < alone["operations_of_default"]
    assert shared["wall_seconds"] < alone["wall_seconds"]
    # 270 examples of 8 tokens, each with 8 features of 4 bytes.
    assert shared["disk_bytes"] == alone["disk_bytes"] + 270 * 8 * 8 * 4


def test_steps_are_those_of_the_genomes_own_batches() -> None:
    gene = ChoiceGene(path="schedule.batch_size", options=(8, 16))
    facts = forecast(replace(SPEC, space=replace(SPEC.space, genes=(gene,))), SURVEY, [PROBE], 1)
    assert facts["naive_optimizer_steps"] > 40
    assert facts["stages"][0]["optimizer_steps"] > 20
    fixed = forecast(SPEC, SURVEY, [PROBE], 1)
    cost = facts["operations_of_default"] / fixed["operations_of_default"]
    assert facts["wall_seconds"] == pytest.approx(fixed["wall_seconds"] * cost, rel=0.2)


def test_the_slowest_worker_decides() -> None:
    slow = Outcome(key="slow", stage=0, cost=Cost(examples=80, train_seconds=8.0))
    both = forecast(SPEC, SURVEY, [PROBE, slow], workers=2)
    assert both["examples_per_second_per_worker"] == 10


@pytest.mark.parametrize(("examples", "budget"), [(1600, 0.08), (10, 1.0)])
def test_a_probe_takes_a_few_steps_and_never_more_than_an_epoch(
    examples: int, budget: float
) -> None:
    ladder = probe_ladder(examples, batch_size=16, steps=8)
    check_ladder(ladder)
    assert ladder[0].epoch_budget == pytest.approx(budget)
