"""Tasks and models that nobody measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from coral.plan import adapted_modules
from coral.records import Direction
from coral.simulation import TaskProfile, TaskRequest, simulated_survey, task_profiles
from tests.simulation.worlds import MODEL, PROFILE, plan_of

ROOT = Path(__file__).parents[2]
METRICS: dict[str, Direction] = {"auroc": "max", "accuracy": "max", "log_loss": "min"}


def request(name: str, **fields: Any) -> TaskRequest:
    defaults: dict[str, Any] = {"metrics": METRICS, "primary_metric": "auroc", "options": {}}
    return TaskRequest(name=name, **(defaults | fields))


def profile_of(name: str, **fields: Any) -> TaskProfile:
    return task_profiles(PROFILE, [request(name, **fields)])[name]


def test_an_unknown_task_gets_a_surface_of_its_own() -> None:
    one, two = profile_of("sentiment"), profile_of("topic")
    assert one == profile_of("sentiment")
    assert (one.probe_error, one.adapter_start) != (two.probe_error, two.adapter_start)
    assert set(one.metrics) == set(METRICS)


def test_other_metric_directions_make_another_surface() -> None:
    turned: dict[str, Direction] = {**METRICS, "accuracy": "min"}
    assert profile_of("sentiment", metrics=turned).probe_error != (
        profile_of("sentiment").probe_error
    )


def test_an_invented_surface_is_the_same_in_every_process() -> None:
    code = (
        "import json; from dataclasses import asdict;"
        "from tests.simulation.test_survey import profile_of;"
        "print(json.dumps(asdict(profile_of('sentiment'))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == asdict(profile_of("sentiment"))


@pytest.mark.parametrize("name", ["sentiment", "topic", "intent", "spam", "a", "b"])
def test_an_invented_surface_lies_around_those_of_the_profile(name: str) -> None:
    task = profile_of(name)
    assert 0.05 < task.probe_error < 0.9
    assert 0.05 < task.tuned_share < 0.9
    assert abs(task.adapter_start) < 1.5
    assert task.labels == 4


def test_invented_metrics_begin_at_chance_and_end_at_the_best() -> None:
    links = profile_of("sentiment").metrics
    assert (links["auroc"].chance, links["auroc"].best, links["auroc"].gamma) == (0.5, 1.0, 1.0)
    assert (links["accuracy"].chance, links["accuracy"].best) == (0.25, 1.0)
    assert links["log_loss"].chance == pytest.approx(1.3863, abs=1e-4)
    assert links["log_loss"].best == 0.0


def test_a_task_that_the_profile_knows_is_taken_from_it() -> None:
    task = profile_of("origin", metrics={"auroc": "max", "log_loss": "min"})
    assert task == PROFILE.tasks["origin"]


def test_a_metric_that_the_profile_lacks_is_invented() -> None:
    task = profile_of("origin", metrics={"auroc": "max", "macro_f1": "max"})
    assert list(task.metrics) == ["auroc", "macro_f1"]
    assert task.metrics["auroc"] == PROFILE.tasks["origin"].metrics["auroc"]


def test_what_a_plugin_ships_goes_before_the_profile() -> None:
    shipped = replace(PROFILE.tasks["origin"], probe_error=0.77)
    task = profile_of("origin", metrics={"auroc": "max", "log_loss": "min"}, profile=shipped)
    assert task.probe_error == 0.77


def test_sizes_in_the_options_go_before_those_of_the_profile() -> None:
    options = {"train_examples": 77, "test_examples": 5, "validation_examples": 0}
    task = profile_of("origin", options=options)
    assert (task.train_examples, task.test_examples) == (77, 5)
    assert task.validation_examples == PROFILE.tasks["origin"].validation_examples


def test_targets_that_the_model_lacks_are_added_to_every_layer() -> None:
    survey = simulated_survey(
        PROFILE, dict(PROFILE.tasks), targets=["query", "q_proj", "all-linear"], settings={}
    )
    modules = [(module.name, module.layer) for module in survey.linear_modules]
    assert len(modules) == MODEL.depth * 4
    plan = plan_of(adapter__target_modules=("q_proj",), adapter__layers="top-2")
    assert adapted_modules(plan.adapter, modules, MODEL.depth) == (
        "layer.2.q_proj",
        "layer.3.q_proj",
    )


def test_the_survey_names_what_an_objective_may_name() -> None:
    survey = simulated_survey(PROFILE, dict(PROFILE.tasks), targets=[], settings={})
    assert survey.metric_names >= {"auroc", "log_loss", "origin.auroc", "kind.log_loss"}
    assert len(survey.metric_names) == 6
    assert survey.train_examples == 1200


def test_another_belief_is_another_model_and_another_task_other_data() -> None:
    def digests(profile: Any = PROFILE, settings: Any = None) -> tuple[str, str]:
        survey = simulated_survey(profile, dict(profile.tasks), targets=[], settings=settings or {})
        return survey.model_digest, survey.data_digest

    assert digests() == digests()
    assert digests()[0] != digests(settings={"faults": 1})[0]
    changed = replace(PROFILE, tasks={"origin": PROFILE.tasks["origin"]})
    assert digests()[1] != digests(changed)[1]
