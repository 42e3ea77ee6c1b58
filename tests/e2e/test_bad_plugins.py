"""Plugins that misbehave in real runs: what is finished stays, and the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.terminal import coral
from tests.tiny import write_project

MOODY = '''

import time
from pathlib import Path


class Moody(Colours):
    """Scores as it should, but for the calls that a file asks to go wrong, each of them once."""

    def score(self, labels, probabilities):
        for mood in ("hang", "raise", "nan"):
            try:
                Path(mood).unlink()
            except FileNotFoundError:
                continue
            if mood == "hang":
                time.sleep(600)
            if mood == "raise":
                raise LookupError("no scores today")
            return dict.fromkeys(self.metrics, float("nan"))
        return super().score(labels, probabilities)


TASKS = {"colours": Moody}
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


def edit(project: Path, change: dict[str, str], tail: str = "") -> None:
    plugin = project / "plugins" / "toy" / "__init__.py"
    text = plugin.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    plugin.write_text(text + tail)


def test_trials_whose_scores_go_wrong_fail_one_by_one_and_the_run_goes_on(project: Path) -> None:
    edit(project, {}, MOODY)
    for mood in ("hang", "raise", "nan"):
        (project / mood).touch()
    # The reference, which is never given up, may be among the three.
    options = (
        "execution.trial_timeout_seconds=8",
        "evolution.population_size=6",
        "evolution.generations=1",
    )
    done = coral(project, "evolve", "toy.yaml", *options)
    assert done.returncode == 0, done.stderr
    assert (project / "run" / "champion").is_dir()
    trials = json.loads(coral(project, "show", "run", "--trials").stdout)
    failures = [
        outcome["failure"]
        for trial in trials
        for outcome in trial["outcomes"]
        if outcome["failure"]
    ]
    told = {failure["kind"]: failure["message"] for failure in failures}
    assert len(failures) == 3
    assert "it stood in score (" in told["timeout"]
    assert "plugins/toy/__init__.py:" in told["timeout"]
    messages = " ".join(failure["message"] for failure in failures)
    assert "task colours raised in score(): LookupError('no scores today')" in messages
    assert "score() must return finite numbers, got colours.auroc=nan" in messages
    assert f"plugin toy ({project}/plugins/toy)" in messages


def test_a_load_that_hangs_ends_the_run_before_it_trains(project: Path) -> None:
    hang = "    def load(self, context):\n        import time; time.sleep(600)"
    edit(project, {"    def load(self, context):": hang})
    options = ("execution.task_timeout_seconds=1", "execution.workers=1")
    done = coral(project, "evolve", "toy.yaml", *options)
    assert done.returncode == 2
    assert "coral: task 'colours': load() took longer than task_timeout_seconds = 1" in done.stderr
    assert f"it stands in load ({project}/plugins/toy/__init__.py:" in done.stderr
    assert f"plugin toy ({project}/plugins/toy)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "run").exists()
