"""A whole evolution on texts with images, as a user runs it, on a tiny Gemma 3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("PIL")

from tests.e2e.test_real_runs import coral
from tests.training.vision_models import save_model, write_news

CONFIG = """
base_model: ./model
tasks:
  - name: news
    type: fakenews-gemma3n
    path: data/news.csv
    metrics: [auroc, ece, robust_auroc, cross_modal_gain]
training: {sequence_len: 16, learning_rate: 1e-2, encoding.pooling: last}
search_space: {lora_r: {low: 1, high: 4}}
evolution: {population_size: 2, generations: 1}
training_stages:
  - {name: short, epoch_budget: 0.5, data_percentage: 50, survival_rate: 1}
  - {name: long, epoch_budget: 3, data_percentage: 100, survival_rate: 1}
prune: {rules: [{metric: text_only_auroc, below: 0.01, stage: short}]}
objectives: [auroc, ece, peak_memory_bytes]
confirm: {top_k: 0}
soup: {candidates: 0}
squeeze: {sources: 0}
execution: {workers: 1}
output_dir: run
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, posts of which one image is missing, and a config."""
    folder = tmp_path_factory.mktemp("news")
    save_model(folder / "model")
    write_news(folder / "data", 120)
    (folder / "data" / "images" / "7.png").unlink()
    (folder / "news.yaml").write_text(CONFIG)
    return folder


def test_it_ends_with_a_champion_and_says_what_it_did_with_images(project: Path) -> None:
    result = coral(project, "evolve", "news.yaml", "--json")
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stderr.split())
    assert told.count("1 of 120 images of train can't be used (1 missing)") == 1
    assert told.count("nothing below adapters is shared between genomes") == 1
    facts = json.loads(result.stdout)
    champion = facts["champion"]["metrics"]
    assert champion["validation"]["auroc"] > 0.5
    assert champion["validation"]["peak_memory_bytes"] > 1e8
    assert set(champion["test"]) >= {"ece", "robust_auroc", "cross_modal_gain", "news.auroc"}
    proxies = {(trust["proxy"], trust["stage"]) for trust in facts["audit"]["proxy_trust"]}
    assert proxies == {("news.text_only_auroc", "short")}


def test_the_data_are_shown_with_what_is_wrong_with_their_images(project: Path) -> None:
    result = coral(project, "data", "news.yaml")
    assert result.returncode == 0, result.stderr
    assert "1 of 120 images of train can't be used" in " ".join(result.stdout.split())
