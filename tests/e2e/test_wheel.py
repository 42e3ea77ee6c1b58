"""The wheel works from an empty folder: bundled plugins and configs travel in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(target), "."]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def test_the_wheel_holds_plugins_configs_types_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "coral/bundled/plugins/docstrings/__init__.py" in names
    assert "coral/templates/plugin/task.txt" in names
    assert "coral/bundled/config/quickstart.yaml" in names
    assert "coral/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_the_bundled_quickstart_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, *install, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "CORAL_CACHE": str(ROOT / "cache")}
    result = subprocess.run(
        [sys.executable, "-m", "coral", "evolve", "quickstart", "--dry-run", "--json"],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    asked = yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text())["tasks"]
    assert plan["tasks"] == {task["name"]: task["train_examples"] for task in asked}
    assert plan["share_of_naive"] < 0.4
    assert not any(empty.iterdir())
