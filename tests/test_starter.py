"""A first config for somebody's data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from coral.compose import Source, load
from coral.errors import ConfigError, TaskError
from coral.starter import FEW_EXAMPLES, write_starter
from tests.terminal import coral
from tests.training.models import save_model

WORDS = {"good": "red", "fair": "green", "bad": "blue"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write_reviews(rows: int = 120, words: int = 6) -> None:
    """Reviews whose colour tells their stars."""
    stars = list(WORDS)
    with Path("my reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "review", "stars"])
        for i in range(rows):
            star = stars[i % 3]
            filler = " ".join(f"w{(7 * i + j) % 40}" for j in range(words - 1))
            writer.writerow([i, f"{filler} {WORDS[star]}", star])


def test_the_config_that_is_written_loads_and_says_what_was_found(here: Path) -> None:
    write_reviews()
    facts = write_starter("my reviews.csv", Path("coral.yaml"))
    assert facts["options"] == {"path": "my reviews.csv", "text": "review", "label": "stars"}
    assert facts["labels"] == ["bad", "fair", "good"]
    assert facts["train_examples"] + facts["validation_examples"] + facts["test_examples"] == 120
    spec = load(Source(path=Path("coral.yaml")), {}).spec
    [task] = spec.tasks
    assert (task.name, task.type) == ("my_reviews", "text-classification")
    assert spec.training.encoding.sequence_len == facts["sequence_len"] == 16
    assert spec.training_stages[-1].epoch_budget == 3
    assert "adapter.layers" in {gene.path for gene in spec.space.genes}


def test_conversations_get_a_config_for_a_language_model(here: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    lines = [
        json.dumps({"messages": [*said, {"role": "user", "content": str(i)}]}) for i in range(40)
    ]
    Path("chat.jsonl").write_text("\n".join(lines))
    facts = write_starter("chat.jsonl", Path("coral.yaml"))
    assert facts["options"] == {"path": "chat.jsonl", "format": "chat", "messages": "messages"}
    assert facts["problem"] == "causal_lm"
    spec = load(Source(path=Path("coral.yaml")), {}).spec
    assert "Qwen" in spec.base_model
    assert spec.objectives[0].metric == "perplexity"
    assert spec.training.encoding.sequence_len == facts["sequence_len"] == 128
    assert "schedule.head_lr_multiplier" not in {gene.path for gene in spec.space.genes}


def test_long_texts_and_many_of_them_get_another_config(here: Path) -> None:
    write_reviews(rows=FEW_EXAMPLES * 2, words=60)
    facts = write_starter("my reviews.csv", Path("coral.yaml"), "some/model")
    assert facts["sequence_len"] == 128
    spec = load(Source(path=Path("coral.yaml")), {}).spec
    assert spec.base_model == "some/model"
    assert [stage.name for stage in spec.training_stages][-1] == "S3_finisher"


def test_a_file_that_is_there_is_not_overwritten(here: Path) -> None:
    write_reviews()
    Path("coral.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="must not be there yet"):
        write_starter("my reviews.csv", Path("coral.yaml"))
    assert Path("coral.yaml").read_text() == "mine"


def test_what_can_not_be_guessed_is_said_with_the_columns_there_are(here: Path) -> None:
    Path("x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TaskError, match="columns are a, b"):
        write_starter("x.csv", Path("coral.yaml"))
    assert not Path("coral.yaml").exists()


def test_from_a_csv_to_a_champion_in_two_commands(here: Path) -> None:
    write_reviews(rows=240)
    save_model(here / "model")

    def run(*arguments: str) -> str:
        done = coral(here, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = run("init", "my reviews.csv", "--base-model", "./model")
    assert "3 classes: bad, fair, good" in told
    assert "next: coral evolve coral.yaml" in told
    small = ["evolution.population_size=3", "evolution.generations=1", "output_dir=run"]
    space = ["search_space.layers=[all, top-1]", "confirm.top_k=0", "learning_rate=0.02"]
    facts = json.loads(run("evolve", "coral.yaml", *small, *space, "--json"))
    assert facts["champion"]["metrics"]["test"]["auroc"] > 0.7
    card = json.loads((here / "run" / "champion" / "coral.json").read_text())
    assert card["tasks"]["my_reviews"]["labels"] == ["bad", "fair", "good"]
