"""The documented run with answers to write, on a tiny language model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.test_real_runs import ROOT, coral
from tests.training.language import capitals, save_language_model

DOCUMENTED = (ROOT / "docs" / "sft.md").read_text()
QUICK = (
    "training.sequence_len=48",
    "training.learning_rate=1e-2",
    "search_space.learning_rate={low: 5e-3, high: 3e-2, log: true}",
    "evolution={population_size: 3, generations: 2}",
    "confirm.top_k=1",
    "confirm.seeds=1",
    "execution={workers: 1}",
    "output_dir=run",
)
LADDER = """
training_stages:
  - {name: short, epoch_budget: 0.5, data_percentage: 50, survival_rate: 0.7}
  - {name: long, epoch_budget: 2.0, data_percentage: 100, survival_rate: 1.0}
prune: {rules: [], audit_fraction: 0.0}
"""


def block(language: str) -> str:
    """The first code block of a language in the documentation."""
    [first, *_] = re.findall(rf"```{language}\n(.*?)```", DOCUMENTED, re.DOTALL)
    return str(first)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assist")
    save_language_model(folder / "model", "qwen3")
    config = block("yaml").replace("Qwen/Qwen3-0.6B", "./model")
    config = config.replace("format: chat", "format: chat\n    generate_examples: 4")
    (folder / "assist.yaml").write_text(config + LADDER)
    lines = [block("json"), *(json.dumps({"messages": talk}) + "\n" for talk in capitals(120))]
    (folder / "chat.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def finished(project: Path) -> Path:
    result = coral(project, "evolve", "assist.yaml", *QUICK)
    assert result.returncode == 0, result.stderr
    assert "champion  run/champion" in result.stdout
    return project / "run"


def test_the_documented_config_shows_its_data_with_what_is_trained(project: Path) -> None:
    result = coral(project, "data", "assist.yaml", QUICK[0])
    assert result.returncode == 0, result.stderr
    assert re.search(r"assistant\n«\w+\.<\|im_end\|>»", result.stdout)


def test_a_run_hands_over_what_answers_better_than_the_base(finished: Path, project: Path) -> None:
    facts = json.loads((finished / "champion" / "coral.json").read_text())
    validation = facts["metrics"]["validation"]
    assert set(validation) >= {"perplexity", "token_accuracy", "exact_match", "rouge_l"}
    assert validation["perplexity"] < 20  # untrained it is several hundred
    told = coral(project, "predict", "run", "3: capital of Peru?", "--json")
    assert told.returncode == 0, told.stderr
    [answer] = json.loads(told.stdout)
    assert answer["tasks"]["assist"]


def test_parents_soups_and_rematches_are_as_for_labels(finished: Path, project: Path) -> None:
    trials = json.loads(coral(project, "show", "run", "--trials").stdout)
    assert any(trial["candidate"]["legacy"] for trial in trials)
    assert any(trial["candidate"]["derivation"] for trial in trials)
    assert not any(outcome["failure"] for trial in trials for outcome in trial["outcomes"])
