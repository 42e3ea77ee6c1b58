"""Keys from the command line."""

from __future__ import annotations

import pytest

from coral.errors import Fault
from tests.spec.configs import HEAD, Load, faults_of, only

LONG = """\
base_model: org/encoder
tasks:
  - {name: origin, train_examples: 10}
  - kind
search_space:
  schedule.learning_rate: {low: 1e-3, high: 1e-2}
training_stages:
  - {name: only, epoch_budget: 1, data_percentage: 100, survival_rate: 1}
"""


def _faults(load_text: Load, **overrides: str) -> tuple[Fault, ...]:
    return faults_of(lambda: load_text(LONG, **overrides))


def test_a_dotted_key_sets_a_value_in_a_part_that_the_file_lacks(load: Load) -> None:
    spec = load(**{"evolution.generations": "5", "training.schedule.learning_rate": "2e-4"}).spec
    assert spec.evolution.generations == 5
    assert spec.training.schedule.learning_rate == 2e-4


def test_a_dotted_key_sets_a_value_in_an_empty_part(load: Load) -> None:
    assert load("training:\n", **{"training.lora_r": "8"}).spec.training.adapter.rank == 8


def test_an_override_leaves_the_rest_of_its_part(load: Load) -> None:
    body = "evolution: {population_size: 4, generations: 2}\n"
    evolution = load(body, **{"evolution.generations": "5"}).spec.evolution
    assert (evolution.population_size, evolution.generations) == (4, 5)


def test_a_value_is_yaml(load: Load) -> None:
    spec = load(**{"training": "{lora_r: 8, layers: top-2}", "budget.max_epochs": "null"}).spec
    assert (spec.training.adapter.rank, spec.training.adapter.layers) == (8, "top-2")
    assert spec.budget.max_epochs is None


@pytest.mark.parametrize("key", ["tasks.0.train_examples", "tasks[0].train_examples"])
def test_an_item_of_a_list_is_named_by_its_index(key: str, load_text: Load) -> None:
    spec = load_text(LONG, **{key: "20"}).spec
    assert spec.tasks[0].options == {"train_examples": 20}


def test_a_whole_item_of_a_list_can_be_set(load_text: Load) -> None:
    spec = load_text(LONG, **{"tasks.1": "{name: kind, shuffle: false}"}).spec
    assert spec.tasks[1].options == {"shuffle": False}


def test_a_dotted_name_that_the_file_writes_is_one_key(load_text: Load) -> None:
    overrides = {
        "search_space.schedule.learning_rate.high": "0.02",
        "training_stages.0.epoch_budget": "2",
    }
    spec = load_text(LONG, **overrides).spec
    (gene,) = spec.space.genes
    assert (gene.low, gene.high) == (1e-3, 0.02)  # type: ignore[union-attr]


def test_an_override_of_an_aliased_part_leaves_its_twin(load: Load) -> None:
    body = "search_space:\n  lora_r: &range {low: 2, high: 8}\n  batch_size: *range\n"
    rank, batch_size = load(body, **{"search_space.lora_r.high": "16"}).spec.space.genes
    assert (rank.path, rank.high) == ("adapter.rank", 16)  # type: ignore[union-attr]
    assert (batch_size.path, batch_size.high) == ("schedule.batch_size", 8)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("evolution.generations", "0", "must be > 0, got 0"),
        ("evolution.generatons", "5", "unknown key"),
        ("training.lora_r", "8.5", "must be a whole number, got 8.5"),
        ("search_space", "{lora_r: {low: 64, high: 8}}", "low <= high must hold"),
        ("base_model", "./none", "./none does not exist"),
    ],
)
def test_a_fault_of_an_override_names_the_command_line(
    key: str, value: str, rule: str, load_text: Load
) -> None:
    fault = only(_faults(load_text, **{key: value}))
    assert fault.where == "command line"
    assert fault.key.startswith(key)
    assert rule in fault.rule


def test_what_an_override_replaced_is_no_longer_blamed_on_the_file(load_text: Load) -> None:
    text = f"{HEAD}search_space:\n  lora_r: [2, 4]\n"
    fault = only(faults_of(lambda: load_text(text, search_space="{lora_r: [0, 4]}")))
    assert (fault.where, fault.key) == ("command line", "search_space.lora_r[0]")


def test_faults_of_the_command_line_come_after_those_of_the_file(load_text: Load) -> None:
    text = f"{HEAD}seed: -1\n"
    found = faults_of(lambda: load_text(text, **{"evolution.generations": "0"}))
    assert [fault.where for fault in found] == ["agnews.yaml:3", "command line"]


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("tasks.2.name", "kind", "tasks is a list of 2 items, there is no item 2"),
        ("tasks.first.name", "kind", "tasks is a list of 2 items, there is no item first"),
        ("training_stages.-1.name", "kind", "a list of 1 item, there is no item -1"),
        ("base_model.name", "x", 'base_model is "org/encoder", there are no keys in it'),
        ("evolution..generations", "5", "a key is names joined by dots"),
        ("evolution", "[1,", "the value is YAML, got [1,"),
        ("evolution", "{a: 1, a: 2}", "a key may appear once"),
        ("evolution", "{1: 2}", "a key is text, got 1"),
        ("evolution", "[" * 100 + "]" * 100, "the value has at most 60 levels, got [[["),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(
    key: str, value: str, rule: str, load_text: Load
) -> None:
    fault = only(_faults(load_text, **{key: value}))
    assert (fault.where, fault.key) == ("command line", key)
    assert rule in fault.rule
    assert fault.remedy
