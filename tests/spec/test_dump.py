"""A resolved config loads to the spec that it came from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.settings import RunSpec
from coral.spec import dump_spec, load_config
from coral.spec.document import dump_yaml, parse_document
from tests.spec.configs import REGISTRY, Load

RICH = """\
mode: simulate
output_dir: '1e5'
seed: 7
lora_r: 8
lora_alpha: 12
training:
  target_modules: [query, value]
  curriculum: {kind: progressive, ramp: 0.3}
  task_weights: {origin: 0.3, kind: 0.7}
search_space:
  learning_rate: {low: 1e-5, high: 1e-2, log: true}
  batch_size: {low: 4, high: 32}
  layers: [all, top-2]
  use_dora: flag
  target_modules: {subset: [query, key, value], least: 2}
  task_weights: {floor: 0.2}
  curriculum.kind: [none, progressive]
  curriculum.ramp: {low: 0.1, high: 0.9}
  warmup_ratio: {choices: [0, 0.1], when: {layers: [all]}}
evolution:
  recipes: [{lora_r: 4, target_modules: [query]}]
  selection: tournament
warm_start:
  mode: parent
  cold_share: 0.25
  min_similarity: 0.4
  min_retained_energy: 0.9
  entry: S2_serious
exploit: {quantile: 0.2}
soup: {candidates: 3, rank: 4, tunings: 0}
squeeze: {ranks: [6, 3], energies: [0.99, 0.5], sources: 1}
confirm: {top_k: 1, seeds: 5}
cache: s3://bucket/folder
cache_bytes: 1.5GB
num_epochs: 3
prune:
  audit_fraction: 0.1
  rules:
    - {metric: gradient_norm, above: 3x median}
    - {metric: loss_slope, above: 0, stage: S0_sanity}
objectives: [kind.auroc, {metric: train_cost, direction: min}]
budget: {max_epochs: 10}
execution: {workers: 2, trial_timeout_seconds: null}
simulation:
  profile: mine.yaml
  agreement: {S0_sanity: -0.5, S1_shakeout: 0.9}
  faults: {crash: 0.1, lost_checkpoint: 1}
  memory_bytes: 2e9
"""


def _again(spec: RunSpec) -> RunSpec:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{spec.name}.yaml"
        file.write_text(dump_spec(spec))
        return load_config(file, REGISTRY).spec


@pytest.mark.parametrize("body", ["", RICH], ids=["defaults", "everything"])
def test_a_dumped_spec_loads_to_an_equal_one(body: str, load: Load) -> None:
    spec = load(body).spec
    assert _again(spec) == spec


def test_a_dump_has_every_default_filled_in(load: Load) -> None:
    data = yaml.safe_load(dump_spec(load().spec))
    assert data["training"]["schedule"]["learning_rate"] == 2e-4
    assert data["execution"]["retries"] == 2
    assert len(data["training_stages"]) == 4
    assert (data["mode"], data["simulation"]["faults"]["crash"]) == ("real", 0.0)
    assert (data["warm_start"]["mode"], data["exploit"]["quantile"]) == ("crossover", 0.0)
    assert (data["squeeze"]["ranks"], data["squeeze"]["energies"]) == ([8, 4, 2], [0.9])
    assert (data["soup"]["rank"], data["confirm"]["seeds"]) == (None, 2)
    assert (data["cache"], data["cache_bytes"]) == ("", None)


numbers = st.floats(1e-6, 10)
ranges = st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]).map(sorted)
whole_ranges = st.sets(st.integers(1, 64), min_size=2, max_size=2).map(sorted)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    rates, ranks = draw(ranges), draw(whole_ranges)
    budgets = sorted(draw(st.sets(numbers, min_size=1, max_size=4)))
    shares = sorted(draw(st.lists(st.floats(0.1, 100), min_size=4, max_size=4)))
    space = {
        "learning_rate": {"low": rates[0], "high": rates[1], "log": draw(st.booleans())},
        "lora_r": {"low": ranks[0], "high": ranks[1]},
        "batch_size": draw(st.lists(st.integers(1, 99), min_size=2, unique=True, max_size=4)),
        "scaling": draw(st.lists(numbers, min_size=2, unique=True, max_size=4)),
        "task_weights": {"floor": draw(st.floats(0, 0.4))},
        "target_modules": {"subset": draw(st.lists(names, min_size=2, unique=True, max_size=4))},
    }
    kept = draw(st.sets(st.sampled_from(sorted(space)), min_size=1))
    return {
        "base_model": "org/encoder",
        "tasks": ["origin", {"name": "kind", "train_examples": draw(st.integers(1, 9))}],
        "training": {"schedule": {"learning_rate": draw(numbers)}, "layers": draw(layers)},
        "search_space": {name: space[name] for name in sorted(kept)},
        "training_stages": [
            {
                "name": f"S{i}",
                "epoch_budget": budget,
                "data_percentage": shares[i],
                "survival_rate": draw(st.floats(0.01, 1)),
            }
            for i, budget in enumerate(budgets)
        ],
        "prune": {"audit_fraction": draw(st.floats(0, 1)), "rules": []},
        "output_dir": draw(names),
        "seed": draw(st.integers(0, 2**40)),
    }


names = st.text("aeno0159.-_+: #'é", min_size=1, max_size=8)
layers = st.sampled_from(["all", "top-1", "bottom-2", "0-3"])


@settings(max_examples=25, deadline=None)
@given(configs())
def test_any_valid_config_survives_being_resolved(config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "agnews.yaml"
        file.write_text(dump_yaml(config))
        spec = load_config(file, REGISTRY).spec
    assert _again(spec) == spec


@given(st.dictionaries(names, st.one_of(names, st.floats(allow_nan=False), st.integers())))
def test_plain_values_survive_a_dump(data: dict[str, Any]) -> None:
    assert parse_document(dump_yaml(data), "x").data == data
