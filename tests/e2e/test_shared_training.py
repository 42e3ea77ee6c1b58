"""Genomes that share their training, as a user runs them: real training, processes and kills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_real_runs import coral, decisions, kill_after
from tests.tiny import write_project

SEARCH = """
base_model: ./model
tasks: [colours]
training: {sequence_len: 16, learning_rate: 1e-2, adapter.dropout: 0.1}
search_space:
  lora_r: [2, 4]
  inference.temperature: {low: 0.5, high: 4.0, log: true}
  inference.abstention: {low: 0.1, high: 0.4}
evolution: {population_size: 6, generations: 2}
training_stages:
  - {name: short, epoch_budget: 0.5, data_percentage: 50, survival_rate: 0.5}
  - {name: long, epoch_budget: 1.0, data_percentage: 100, survival_rate: 1.0}
prune: {rules: [], audit_fraction: 0.3}
objectives: [selective_accuracy, log_loss]
warm_start: {cold_share: 0}
confirm: {top_k: 1, seeds: 1}
execution: {workers: 2, pack: 1}
output_dir: run
"""
ENDS = (6, 12)
"""Cumulative steps by each stage's end: 192 examples in batches of 16."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder).write_text(SEARCH)
    done = coral(folder, "evolve", "toy.yaml")
    assert done.returncode == 0, done.stderr
    return folder


def trials_of(project: Path, run: str) -> list[dict[str, Any]]:
    told = coral(project, "show", run, "--trials")
    assert told.returncode == 0, told.stderr
    found: list[dict[str, Any]] = json.loads(told.stdout)
    return found


def test_every_training_is_paid_for_once(project: Path) -> None:
    steps: dict[str, int] = {}
    evaluated = 0
    for trial in trials_of(project, "run"):
        if trial["candidate"]["derivation"]:
            continue
        for outcome in trial["outcomes"]:
            weights = outcome["key"].partition("+")[0]
            spent = outcome["cost"]["optimizer_steps"]
            evaluated += spent == 0
            steps[weights] = steps.get(weights, 0) + spent
    assert evaluated >= 4
    assert set(steps.values()) <= {ENDS[0], ENDS[1] - ENDS[0]}


def test_what_is_shared_differs_by_the_answers_alone(project: Path) -> None:
    by_weights: dict[str, list[dict[str, Any]]] = {}
    losses: dict[tuple[str, float], set[float]] = {}
    for trial in trials_of(project, "run"):
        temperature = trial["candidate"]["genome"]["inference.temperature"]
        for outcome in trial["outcomes"]:
            weights = outcome["key"].partition("+")[0]
            by_weights.setdefault(weights, []).append(outcome)
            losses.setdefault((weights, temperature), set()).add(outcome["metrics"]["log_loss"])
    shared = [group for group in by_weights.values() if len(group) > 1]
    assert shared
    for first, *others in shared:
        for other in others:
            assert other["checkpoint"] == first["checkpoint"]
            assert other["curve"] == first["curve"]
            for metric in ("accuracy", "gradient_norm", "train_cost"):
                assert other["metrics"][metric] == pytest.approx(first["metrics"][metric])
    by_temperature = [loss for own in losses.values() for loss in own]
    assert len(by_temperature) == len(set(by_temperature)) == len(losses)


def test_the_champion_answers_as_its_genome_says(project: Path) -> None:
    card = json.loads((project / "run" / "champion" / "coral.json").read_text())
    genome, inference = card["genome"], card["plan"]["inference"]
    if card["weights"]["kind"] in ("lineage", "cold"):
        assert inference["temperature"] == genome["inference.temperature"]
    done = coral(project, "predict", "run", "red w1 w2", "w1 w2 w3 w4", "green w5", "w7", "--json")
    assert done.returncode == 0, done.stderr
    answers = [row["tasks"]["colours"] for row in json.loads(done.stdout)]
    needed = card["tasks"]["colours"].get("needed_confidence", 0.0)
    assert all(answer is None or max(answer.values()) >= needed for answer in answers)


def test_a_killed_run_decides_alike(project: Path) -> None:
    kill_after(project, "killed", 6, "cache-killed")
    resumed = coral(project, "resume", "killed", cache="cache-killed")
    assert resumed.returncode == 0, resumed.stderr
    assert decisions(project, "killed") == decisions(project, "run")
