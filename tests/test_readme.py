"""What the README shows can be copied and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coral.compose import Source, load
from coral.plan import plan_paths
from coral.ports import DataContext
from coral.tasks import discover

README = (Path(__file__).parents[1] / "README.md").read_text()


def example(start: str, language: str) -> str:
    """The README's code block of a language that begins with a line."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if block.startswith(start))


def test_the_config_that_the_readme_explains_is_valid(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(example("base_model: package", "yaml"))
    spec = load(Source(path=tmp_path / "config.yaml"), {}).spec
    assert {gene.path for gene in spec.space.genes} >= {"adapter.rank", "tasks.weights"}
    assert spec.training.adapter.alpha == 32


def test_the_plugin_that_the_readme_shows_loads_a_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "plugins" / "reviews"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(example("# plugins/reviews", "python"))
    (tmp_path / "reviews.yaml").write_text(example("# reviews.yaml", "yaml"))
    rows = "".join(f"text {i},{'good' if i % 2 else 'bad'}\n" for i in range(50))
    (tmp_path / "reviews.csv").write_text("text,label\n" + rows)
    spec = load(Source(path=tmp_path / "reviews.yaml"), {}).spec
    task = discover([tmp_path / "plugins"]).build("reviews", dict(spec.tasks[0].options))
    data = task.load(DataContext(cache_dir=tmp_path))
    assert data.label_names == ("bad", "good")
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 4, 6)


def test_the_task_without_code_that_the_readme_shows_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stars.yaml").write_text(example("# stars.yaml", "yaml"))
    rows = "".join(f"text {i},{i % 5 + 1}\n" for i in range(100))
    Path("reviews.csv").write_text("review,stars\n" + rows)
    [settings] = load(Source(path=Path("stars.yaml")), {}).spec.tasks
    task = discover().build(settings.registered, settings.arguments)
    assert task.load(DataContext(cache_dir=tmp_path)).label_names == ("1", "2", "3", "4", "5")


def test_the_search_without_training_that_the_documentation_shows_is_valid(tmp_path: Path) -> None:
    documented = (Path(__file__).parents[1] / "docs" / "inference.md").read_text()
    [block] = re.findall(r"```yaml\n(.*?)```", documented, re.DOTALL)
    (tmp_path / "config.yaml").write_text(block)
    spec = load(Source(path=tmp_path / "config.yaml"), {}).spec
    assert spec.space.shares_weights
    assert [objective.metric for objective in spec.objectives] == ["selective_accuracy", "coverage"]
    for path in plan_paths():
        assert not path.startswith("inference.") or path.partition(".")[2] in documented


def test_the_task_that_the_documentation_explains_has_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    documented = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    [block] = re.findall(r"```yaml\n(.*?)```", documented, re.DOTALL)
    Path("config.yaml").write_text("base_model: org/encoder\n" + block)
    rows = "".join(f"text {i},{i % 5 + 1},author {i % 25}\n" for i in range(100))
    Path("reviews.csv").write_text("review,stars,author\n" + rows)
    [settings] = load(Source(path=Path("config.yaml")), {}).spec.tasks
    data = (
        discover()
        .build(settings.registered, settings.arguments)
        .load(DataContext(cache_dir=tmp_path))
    )
    authors = [
        {int(text.split()[1]) % 25 for text in split.texts} for split in (data.train, data.test)
    ]
    assert not authors[0] & authors[1]
