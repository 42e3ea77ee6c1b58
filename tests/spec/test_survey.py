"""What only the loaded model can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coral.errors import ConfigError, Fault
from coral.ports import LinearModule, Problem, Survey, TaskSurvey
from coral.spec import check_survey
from tests.spec.configs import Load, faults_of, only

MODULES = ("attention.query", "attention.value", "output.dense")
SURVEY = Survey(
    model_digest="m",
    data_digest="d",
    depth=3,
    linear_modules=(
        *(
            LinearModule(name=f"encoder.layer.{i}.{name}", layer=i, in_features=4, out_features=4)
            for i in range(3)
            for name in MODULES
        ),
        LinearModule(name="pooler.projection", layer=None, in_features=4, out_features=4),
    ),
    tasks=(
        TaskSurvey(
            name="origin",
            metrics={"auroc": "max"},
            primary_metric="auroc",
            label_names=("a", "b"),
            train_examples=10,
            validation_examples=10,
            test_examples=10,
        ),
    ),
    device="cpu",
    mean_tokens=10.0,
)
REMEDY = (
    "The model has 3 layers (0-2) with attention.query, attention.value, output.dense;"
    " outside of them pooler.projection. `all-linear` takes every one in the layers."
)


def test_lengths_are_not_searched_where_answers_are_written(load: Load) -> None:
    [task] = SURVEY.tasks
    written = replace(SURVEY, tasks=(replace(task, problem="causal_lm", label_names=()),))
    config = load("search_space: {sequence_len: [16, 32]}\n")
    fault = only(faults_of(lambda: check_survey(config, written)))
    assert fault.key == "search_space.sequence_len"
    assert "sequence_len must be one for all genomes" in fault.rule
    assert check_survey(config, SURVEY) is None
    assert check_survey(load("training: {sequence_len: 16}\n"), written) is None


def test_what_only_all_labels_tell_is_not_asked_of_a_stream(load: Load) -> None:
    [task] = SURVEY.tasks
    passing = replace(SURVEY, tasks=(replace(task, streams=True),))
    config = load(
        "training: {loss.weighting: inverse_frequency}\n"
        "search_space: {sampling.kind: [uniform, balanced]}\n"
    )
    faults = faults_of(lambda: check_survey(config, passing))
    keys = [fault.key for fault in faults]
    assert keys == ["training.loss.weighting", "search_space.sampling.kind"]
    assert all("must be" in fault.rule and "(task origin)" in fault.rule for fault in faults)
    assert check_survey(config, SURVEY) is None
    assert check_survey(load(""), passing) is None


def _faults(load: Load, body: str, **overrides: str) -> tuple[Fault, ...]:
    config = load(body, **overrides)
    return faults_of(lambda: check_survey(config, SURVEY))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "lora_target_modules: [query, attention.value]\n",
        "lora_target_modules: encoder.layer.1.output.dense\n",
        "lora_target_modules: [projection]\nsearch_space: {lora_r: [2, 4]}\n",
        "layers: top-9\n",
        "layers: 1-7\n",
        "search_space: {layers: [all, bottom-1], target_modules: {subset: [query, value]}}\n",
        "search_space: {target_modules: [all-linear, query, [query, dense]]}\n",
    ],
)
def test_targets_and_layers_that_match_pass(body: str, load: Load) -> None:
    check_survey(load(body), SURVEY)


@pytest.mark.parametrize(
    ("body", "line", "key", "rule"),
    [
        (
            "lora_target_modules: [query, q_proj]\n",
            3,
            "lora_target_modules",
            "target modules q_proj match nothing in layers all.",
        ),
        (
            "training:\n  adapter:\n    target_modules: quer\n",
            5,
            "training.adapter.target_modules",
            "target modules quer match nothing in layers all.",
        ),
        (
            "training:\n  layers: 5-7\n",
            4,
            "training.layers",
            "layers '5-7' lie outside a stack of 3 layers (0-2).",
        ),
        (
            "search_space:\n  lora_target_modules:\n    subset: [query, q_proj]\n",
            4,
            "search_space.lora_target_modules",
            "target modules q_proj match nothing in layers all.",
        ),
        (
            "search_space:\n  adapter:\n    target_modules: [all-linear, [k_proj, query]]\n",
            5,
            "search_space.adapter.target_modules",
            "target modules k_proj match nothing in layers all.",
        ),
        (
            "search_space:\n  layers: [all, 4-5]\n",
            4,
            "search_space.layers",
            "layers '4-5' lie outside a stack of 3 layers (0-2).",
        ),
        (
            "layers: top-1\nlora_target: projection\n",
            4,
            "lora_target",
            "target modules projection match nothing in layers top-1.",
        ),
        (
            "target_modules: projection\nsearch_space: {layers: [all, top-1]}\n",
            3,
            "target_modules",
            "target modules projection match nothing in layers top-1.",
        ),
    ],
)
def test_what_matches_nothing_is_told_what_the_model_has(
    body: str, line: int, key: str, rule: str, load: Load
) -> None:
    fault = only(_faults(load, body))
    assert (fault.where, fault.key) == (f"agnews.yaml:{line}", key)
    assert fault.rule == rule
    assert fault.remedy == REMEDY


def test_every_value_that_matches_nothing_is_reported_once(load: Load) -> None:
    body = "search_space:\n  layers: [all, 4-5, 6-7]\n  target_modules: [all-linear, q_proj]\n"
    assert [fault.rule for fault in _faults(load, body)] == [
        "layers '4-5' lie outside a stack of 3 layers (0-2).",
        "layers '6-7' lie outside a stack of 3 layers (0-2).",
        "target modules q_proj match nothing in layers all.",
    ]


def test_a_target_from_the_command_line_is_blamed_on_it(load: Load) -> None:
    fault = only(_faults(load, "", **{"training.lora_target_modules": "[q_proj]"}))
    assert (fault.where, fault.key) == ("command line", "training.lora_target_modules")


def test_a_survey_raises_a_config_error(load: Load) -> None:
    with pytest.raises(ConfigError, match="q_proj"):
        check_survey(load("lora_target_modules: q_proj\n"), SURVEY)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ("training: {sequence_len: 128}\n", "training.sequence_len"),
        ("search_space: {sequence_len: [32, 128]}\n", "search_space.sequence_len"),
        ("search_space: {sequence_len: {low: 16, high: 128}}\n", "search_space.sequence_len"),
    ],
)
def test_texts_longer_than_the_models_positions_are_a_fault(
    load: Load, body: str, key: str
) -> None:
    config = load(body)
    fault = only(faults_of(lambda: check_survey(config, replace(SURVEY, max_tokens=64))))
    assert (fault.key, fault.rule) == (
        key,
        "sequence_len must be <= 64, the positions of this model, got 128.",
    )


def with_tasks(problem: Problem, *label_names: str) -> Survey:
    [task] = SURVEY.tasks
    return replace(SURVEY, tasks=(replace(task, problem=problem, label_names=label_names),))


@pytest.mark.parametrize(
    ("body", "survey"),
    [
        ("search_space: {inference.threshold: {low: 0.2, high: 0.8}}\n", SURVEY),
        (
            "training: {inference: {threshold: 0.3, abstention: 0.1}}\n",
            with_tasks("multi_label", *"abc"),
        ),
        ("training: {inference.temperature: 2.0}\n", with_tasks("regression", "score")),
        ("mode: simulate\ntraining: {inference.threshold: 0.3}\n", with_tasks("regression", "a")),
    ],
)
def test_what_is_made_of_outputs_that_the_tasks_have_passes(
    load: Load, body: str, survey: Survey
) -> None:
    check_survey(load(body), survey)


@pytest.mark.parametrize(
    ("body", "key", "survey", "told"),
    [
        (
            "search_space:\n  inference: {threshold: {low: 0.2, high: 0.8}}\n",
            "search_space.inference.threshold",
            with_tasks("single_label", *"abc"),
            "origin (3 classes)",
        ),
        (
            "training: {inference.threshold: 0.3}\n",
            "training.inference.threshold",
            with_tasks("regression", "score"),
            "origin (numbers)",
        ),
        (
            "search_space: {inference.abstention: {low: 0.0, high: 0.3}}\n",
            "search_space.inference.abstention",
            with_tasks("regression", "score"),
            "origin (numbers)",
        ),
    ],
)
def test_a_gene_that_no_task_can_feel_is_a_fault(
    load: Load, body: str, key: str, survey: Survey, told: str
) -> None:
    config = load(body)
    fault = only(faults_of(lambda: check_survey(config, survey)))
    assert fault.key == key
    assert fault.rule.startswith("only has an effect on")
    assert fault.remedy == f"Remove it; the tasks are {told}."
