"""``coral data`` and ``coral plugins`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coral.cli.app import app
from tests.tiny import write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    write_project(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_data_shows_splits_lengths_and_examples_as_the_model_sees_them(project: Path) -> None:
    facts = json.loads(invoke("data", "toy.yaml", "training.sequence_len=6", "--json"))
    task = facts["tasks"]["colours"]
    sizes = {name: split["examples"] for name, split in task["splits"].items()}
    assert sizes == {"train": 192, "validation": 90, "test": 90}
    train = task["splits"]["train"]
    assert train["labels"] == {"red": 64, "green": 64, "blue": 64}
    # Three to eight words and the colour, between [CLS] and [SEP].
    assert 6 <= train["tokens"]["median"] <= train["tokens"]["longest"] <= 11
    assert 0.5 < train["cut"] < 1
    assert 0 < train["tokens_lost"] < train["cut"]
    for example in task["examples"]:
        assert example["tokens"] <= 6
        assert example["text"].startswith("[CLS]")
        assert example["label"] in train["labels"]


def test_data_on_the_screen_names_texts_that_are_in_two_splits(project: Path) -> None:
    plugin = project / "plugins" / "toy" / "__init__.py"
    plugin.write_text(plugin.read_text().replace('draw("test", 90)', 'draw("validation", 90)'))
    told = invoke("data", "toy.yaml")
    assert "texts are in validation and test" in told
    assert "classes to train on: blue 64, green 64, red 64" in told
    assert "over 16" in told


def test_plugins_are_listed_with_what_they_provide_and_the_broken_ones(project: Path) -> None:
    broken = project / "plugins" / "broken"
    broken.mkdir()
    (broken / "__init__.py").write_text("import no_such_library\n")
    told = invoke("plugins")
    assert f"toy  colours\n    {project}/plugins/toy" in told
    assert "broken  broken: ModuleNotFoundError" in told
    assert (
        "text  multilabel-classification, regression, sft, text-classification, text-pair" in told
    )
    listed = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json"))}
    assert listed["docstrings"]["tasks"] == ["docstring_kind", "docstring_library"]
    assert listed["toy"]["error"] is None
