"""What docs/strategies.md shows can be copied and run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coral import compose
from coral.ports import BUILT_IN
from coral.tasks import discover
from coral.testing.strategy_conformance import (
    METRICS,
    CurriculumConformance,
    LossWeightingConformance,
    ObjectiveConformance,
    SamplerConformance,
    SelectionConformance,
)
from tests.test_strategies import Noting

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "strategies.md").read_text()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's config, plugin and tests; the plugin's blocks go into one file."""
    monkeypatch.chdir(tmp_path)
    *plugin, tests = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    [config] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "plugins" / "mine").mkdir(parents=True)
    (tmp_path / "plugins" / "mine" / "__init__.py").write_text("\n\n".join(plugin))
    (tmp_path / "test_mine.py").write_text(tests)
    (tmp_path / "config.yaml").write_text(config)
    return tmp_path


def test_a_run_with_all_of_them(project: Path) -> None:
    source, observer = compose.Source(path=project / "config.yaml"), Noting()
    config = compose.load(source, {"mode": "simulate"})
    plugins = [(kind, name) for kind, name in config.spec.strategies if name not in BUILT_IN[kind]]
    assert {kind for kind, _ in plugins} | {"objectives"} == set(BUILT_IN)
    facts = compose.start_run(config, source, observer)
    assert np.isfinite(facts["champion"]["metrics"]["validation"]["auroc_per_million"])
    assert "loss weighting long_and_rare" in observer.noticed[0][1]


def test_every_one_passes_its_suite(project: Path) -> None:
    [mine] = [p for p in discover([project / "plugins" / "mine"]).plugins if p.name == "mine"]
    assert mine.error is None
    own = {kind: next(iter(named.values())) for kind, named in mine.strategies.items()}
    plan = compose.load(compose.Source(path=project / "config.yaml"), {}).spec.training
    curriculum, given = CurriculumConformance(), (own["curricula"], plan.curriculum)
    curriculum.test_it_says_of_every_example_whether_it_is_let_in_and_is_repeatable(*given)
    curriculum.test_at_any_time_it_lets_something_in(*given)
    weights = "test_every_example_has_a_weight_and_it_is_repeatable"
    getattr(SamplerConformance(), weights)(own["samplers"], plan.sampling)
    getattr(LossWeightingConformance(), weights)(own["loss_weightings"], plan.loss)
    selection = SelectionConformance()
    name = "test_it_picks_as_many_different_trials_as_it_is_asked_for_and_is_repeatable"
    getattr(selection, name)(own["selections"])
    selection.test_it_picks_among_equals(own["selections"])
    ObjectiveConformance().test_it_is_a_finite_number_and_repeatable(
        own["objectives"], dict(METRICS)
    )


def test_the_tests_that_it_shows_pass(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=project,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
