"""Defaults, and what depends on what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coral.evolution.recipes import RECIPES
from coral.fidelity import DEFAULT_LADDER, DEFAULT_RULES
from coral.records import Objective
from coral.settings import (
    BudgetSettings,
    EvolutionSettings,
    ExecutionSettings,
    FaultRates,
    SimulationSettings,
)
from coral.spec import load_config
from tests.spec.configs import HEAD, REGISTRY, Load

LADDER = """\
training_stages:
  - {name: tiny, epoch_budget: 0.1, data_percentage: 10, survival_rate: 1}
  - {name: small, epoch_budget: 0.5, data_percentage: 50, survival_rate: 0.5}
  - {name: full, epoch_budget: 1, data_percentage: 100, survival_rate: 0.5}
"""


def test_a_model_and_a_task_are_a_config(load: Load) -> None:
    spec = load().spec
    assert spec.name == "agnews"
    assert [task.name for task in spec.tasks] == ["origin", "kind"]
    assert spec.evolution == EvolutionSettings()
    assert spec.training_stages == DEFAULT_LADDER
    assert spec.prune.rules == DEFAULT_RULES
    assert spec.budget == BudgetSettings()
    assert spec.execution == ExecutionSettings()
    assert (spec.seed, spec.output_dir) == (0, "")


def test_a_run_is_named_after_its_file(tmp_path: Path) -> None:
    file = tmp_path / "agnews-v1.5.yaml"
    file.write_text(HEAD)
    assert load_config(file, REGISTRY).spec.name == "agnews-v1.5"


def test_epochs_stretch_the_default_ladder(load: Load) -> None:
    for name in ("num_epochs", "num_train_epochs"):
        stages = load(f"{name}: 6\n").spec.training_stages
        assert [stage.name for stage in stages] == [stage.name for stage in DEFAULT_LADDER]
        assert [stage.epoch_budget for stage in stages] == pytest.approx([0.15, 0.9, 3, 6])
        assert [s.data_percentage for s in stages] == [s.data_percentage for s in DEFAULT_LADDER]


def test_epochs_may_repeat_what_the_ladder_says(load: Load) -> None:
    assert load(f"{LADDER}num_epochs: 1\n").spec.training_stages[-1].epoch_budget == 1


def test_the_default_rules_move_to_the_first_two_stages_of_a_ladder(load: Load) -> None:
    assert [str(rule) for rule in load(LADDER).spec.prune.rules] == [
        "gradient_norm above 5x median at tiny",
        "loss_slope above 0.0 at tiny",
        "auroc below 0.55 at small",
    ]


def test_no_default_rule_applies_to_the_last_stage(load: Load) -> None:
    lines = LADDER.splitlines()
    two = "\n".join([lines[0], lines[1], lines[3]]) + "\n"
    one = "\n".join([lines[0], lines[3]]) + "\n"
    assert {rule.stage for rule in load(two).spec.prune.rules} == {"tiny"}
    assert load(one).spec.prune.rules == ()


def test_an_audit_keeps_the_default_rules(load: Load) -> None:
    prune = load("prune: {audit_fraction: 0.2}\n").spec.prune
    assert prune.audit_fraction == 0.2
    assert prune.rules == DEFAULT_RULES


@pytest.mark.parametrize("body", ["prune: []\n", "prune: {rules: []}\n"])
def test_rules_can_be_switched_off(body: str, load: Load) -> None:
    assert load(body).spec.prune.rules == ()


def test_rules_are_a_list_or_under_rules(load: Load) -> None:
    rule = "{metric: origin.recall, below: 0.1, stage: S0_sanity}"
    short, long = load(f"prune: [{rule}]\n"), load(f"prune: {{rules: [{rule}]}}\n")
    assert short.spec.prune == long.spec.prune
    assert str(short.spec.prune.rules[0]) == "origin.recall below 0.1 at S0_sanity"


@pytest.mark.parametrize(
    ("written", "direction"),
    [
        ("auroc", "max"),
        ("log_loss", "min"),
        ("origin.recall", "max"),
        ("kind.log_loss", "min"),
        ("trainable_parameters", "min"),
        ("train_cost", "min"),
        ("{metric: log_loss}", "min"),
        ("auroc, peak_memory_bytes", "min"),
        ("{metric: log_loss, direction: max}", "max"),
        ("{metric: auroc, direction: min}", "min"),
    ],
)
def test_an_objective_has_the_direction_of_its_metric_unless_said(
    written: str, direction: str, load: Load
) -> None:
    *_, objective = load(f"objectives: [{written}]\n").spec.objectives
    assert objective.direction == direction


def test_the_default_objective_is_the_tasks_primary_metric(load: Load) -> None:
    assert load().spec.objectives == (Objective(metric="auroc", direction="max"),)


@pytest.mark.parametrize(
    ("recipe", "fields"),
    [
        ("{lora_r: 8, learning_rate: 1e-3}", {"adapter.rank": 8, "schedule.learning_rate": 1e-3}),
        ("{adapter: {target_modules: [query]}}", {"adapter.target_modules": ("query",)}),
        ("{micro_batch_size: 4}", {"schedule.batch_size": 4}),
        ("{lora_alpha: 32, lora_r: 8}", {"adapter.rank": 8, "adapter.scaling": 4.0}),
        ("{lora_alpha: 32}", {"adapter.scaling": 8.0}),  # at the config's own rank
    ],
)
def test_a_recipe_takes_every_name_that_training_takes(
    recipe: str, fields: Mapping[str, Any], load: Load
) -> None:
    spec = load(f"lora_r: 4\nevolution: {{recipes: [{recipe}]}}\n").spec
    assert spec.evolution.recipes == (fields,)


def test_the_known_good_recipes_could_be_written_in_a_config(load: Load) -> None:
    recipes = ", ".join(
        "{" + ", ".join(f"{path}: {value}" for path, value in recipe.items()) + "}"
        for recipe in RECIPES
    )
    assert load(f"evolution: {{recipes: [{recipes}]}}\n").spec.evolution.recipes == RECIPES


def test_a_run_is_real_unless_the_config_says_otherwise(load: Load) -> None:
    spec = load().spec
    assert (spec.mode, spec.simulated) == ("real", False)
    assert spec.simulation == SimulationSettings()
    assert load("", mode="simulate").spec.simulated


def test_a_simulation_is_read_part_by_part(load: Load) -> None:
    body = (
        "mode: simulate\n"
        "simulation:\n"
        "  profile: mine.yaml\n"
        "  agreement: {S0_sanity: -0.5}\n"
        "  faults: {crash: 1, lost_checkpoint: 0.25}\n"
        "  memory_bytes: 2e9\n"
    )
    spec = load(body).spec
    assert spec.simulation == SimulationSettings(
        profile="mine.yaml",
        agreement={"S0_sanity": -0.5},
        faults=FaultRates(crash=1.0, lost_checkpoint=0.25),
        memory_bytes=2e9,
    )


def test_a_simulation_needs_no_base_model_on_this_machine(load_text: Load) -> None:
    text = "base_model: package:not_installed/model\ntasks: [kind]\nmode: simulate\n"
    assert load_text(text).spec.base_model == "package:not_installed/model"


def test_options_of_a_task_reach_it_as_written(load_text: Load) -> None:
    text = "base_model: org/encoder\ntasks:\n  - {name: kind, train_examples: 7, shuffle: false}\n"
    assert load_text(text).spec.tasks[0].options == {"train_examples": 7, "shuffle": False}


def test_the_rest_of_a_part_keeps_its_defaults(load: Load) -> None:
    spec = load("execution: {workers: 2}\nbudget: {max_epochs: 3}\n").spec
    assert spec.execution == ExecutionSettings(workers=2)
    assert spec.budget == BudgetSettings(max_epochs=3)
