"""Strategies by name: fixed, searched, in recipes and conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coral.errors import Fault
from coral.genome import ChoiceGene
from coral.records import Cost, Objective
from coral.settings import RunSpec
from coral.spec import dump_spec, load_config
from coral.spec.load import load_resolved
from coral.spec.schema import config_schema
from coral.tasks import Plugin, Registry
from tests.spec.configs import HEAD, REGISTRY, faults_of, only


class Frugality:
    direction = "min"

    def __call__(self, metrics: Mapping[str, float], cost: Cost) -> float:
        return 0.0


def _any(*_: Any) -> Any: ...


MINE = Registry(
    plugins=(
        *REGISTRY.plugins,
        Plugin(
            name="mine",
            origin="here",
            strategies={
                "curricula": {"hard_first": _any},
                "samplers": {"by_length": _any},
                "loss_weightings": {"by_age": _any},
                "selections": {"youngest": _any},
                "objectives": {"frugality": Frugality(), "log_loss": Frugality()},
            },
        ),
    )
)

FULL = """\
training:
  sampling: {kind: by_length}
  loss: {weighting: by_age}
search_space:
  curriculum.kind: [none, progressive, hard_first]
  sampling.strength: {low: 0.1, high: 1.0, when: {sampling.kind: [balanced, by_length]}}
evolution: {selection: youngest, recipes: [{curriculum.kind: hard_first}]}
objectives: [auroc, frugality]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def load(path: Path, body: str) -> RunSpec:
    path.write_text(HEAD + body)
    return load_config(path, MINE).spec


def fault(path: Path, body: str) -> Fault:
    return only(faults_of(lambda: load(path, body)))


def test_a_plugins_strategies_are_named_like_corals_own(path: Path) -> None:
    spec = load(path, FULL)
    assert spec.training.sampling.kind == "by_length"
    assert spec.training.loss.weighting == "by_age"
    assert spec.evolution.selection == "youngest"
    assert spec.objectives[1] == Objective(metric="frugality", direction="min")
    [gene] = [gene for gene in spec.space.genes if isinstance(gene, ChoiceGene)]
    assert gene.options == ("none", "progressive", "hard_first")


def test_a_spec_knows_every_strategy_that_it_may_come_to_use(path: Path) -> None:
    assert set(load(path, FULL).strategies) == {
        ("curricula", "none"),
        ("curricula", "progressive"),
        ("curricula", "hard_first"),
        ("samplers", "by_length"),
        ("loss_weightings", "by_age"),
        ("selections", "youngest"),
    }
    recipe = "evolution: {recipes: [{sampling.kind: by_length}]}\n"
    assert ("samplers", "by_length") in load(path, recipe).strategies


def test_they_come_back_from_the_resolved_config(path: Path) -> None:
    spec = load(path, FULL)
    path.write_text(dump_spec(spec))
    assert load_resolved(path, MINE).spec == spec


@pytest.mark.parametrize(
    ("body", "line", "key", "rule", "remedy"),
    [
        (
            "training:\n  curriculum: {kind: hard_frist}\n",
            4,
            "training.curriculum.kind",
            "must be 'none', 'progressive' or 'hard_first', got \"hard_frist\"",
            "Did you mean 'hard_first'?",
        ),
        (
            "search_space:\n  sampling.kind: [uniform, balanced, odd]\n",
            4,
            "search_space.sampling.kind[2]",
            "must be 'uniform', 'balanced' or 'by_length', got \"odd\"",
            'the default is "uniform". Others need the folder of their plugin: --plugins.',
        ),
        (
            "search_space:\n  lora_r: {choices: [2, 4], when: {loss.weighting: by_hand}}\n",
            4,
            "search_space.lora_r.when.loss.weighting",
            "must be 'none', 'inverse_frequency' or 'by_age', got \"by_hand\"",
            "Correct the value",
        ),
        (
            "evolution:\n  selection: yungest\n",
            4,
            "evolution.selection",
            "must be 'nsga2', 'nsga3', 'tournament' or 'youngest', got \"yungest\"",
            "Did you mean 'youngest'?",
        ),
        (
            "evolution:\n  recipes: [{curriculum.kind: soft}]\n",
            4,
            "evolution.recipes[0].curriculum.kind",
            "must be 'none', 'progressive' or 'hard_first'",
            "--plugins",
        ),
        ("training:\n  sampling.kind: 3\n", 4, "training.sampling.kind", "must be a text", ""),
        (
            "objectives:\n  - frugalty\n",
            4,
            "objectives[0]",
            "no task of this run gives it, got frugalty",
            "Did you mean 'frugality'?",
        ),
        (
            "objectives:\n  - log_loss\n",
            4,
            "objectives[0]",
            "log_loss is a metric of this run, and an objective of a plugin",
            "Rename the objective in the plugin.",
        ),
        (
            "search_space:\n  sampling.strength: {low: 0.1, high: 0.9}\n",
            4,
            "search_space.sampling.strength",
            'only has an effect where sampling.kind is "balanced", got "uniform"',
            "",
        ),
    ],
)
def test_a_name_that_nobody_provides_is_a_fault_with_line_and_remedy(
    body: str, line: int, key: str, rule: str, remedy: str, path: Path
) -> None:
    found = fault(path, body)
    assert found.where.endswith(f"mine.yaml:{line}")
    assert found.key == key
    assert rule in found.rule
    assert remedy in found.remedy


def test_the_schema_offers_corals_own_and_takes_others() -> None:
    schema = config_schema()["properties"]
    selection = schema["evolution"]["properties"]["selection"]
    own, other = selection["anyOf"]
    assert own["enum"] == ["nsga2", "nsga3", "tournament"]
    assert other == {"type": "string"}
    assert json.dumps(schema["training"]).count("inverse_frequency") == 2
