"""What an evolution loads: a library that takes longer to load than Coral to run stays out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EVOLUTION = """
import sys
from pathlib import Path

import coral.compose
from coral.loop import evolve
from coral.reporting import as_json, run_facts
from coral.storage import SqliteRunStore
from tests.scripted_runs import SPEC, WatchedExecutor, ports_of

folder = Path(sys.argv[1])
with SqliteRunStore.create(folder, {}) as store:
    state = evolve(SPEC, ports_of(WatchedExecutor(), store))
as_json(run_facts(state, SPEC, folder=folder, status="finished", wall_seconds=1.0))
heavy = {"scipy", "sklearn", "pandas", "matplotlib", "torch", "transformers", "peft", "datasets"}
print(*sorted(heavy & set(sys.modules)))
"""


def test_an_evolution_and_its_report_load_neither_scipy_nor_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVOLUTION, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"
