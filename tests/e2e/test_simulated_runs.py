"""Simulated evolutions as a user runs them: other processes, hash seeds, workers, real kills."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 120
HEAVY = ("torch", "transformers", "peft", "datasets", "sklearn", "scipy")

PLUGIN = '''
"""Two tasks that can't be loaded: a simulation needs neither data nor libraries."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Unloadable:
    name: str
    primary_metric: str = "auroc"

    @property
    def metrics(self):
        return {"auroc": "max", "log_loss": "min"}

    def load(self, context):
        raise RuntimeError("no data here")

    def score(self, labels, probabilities):
        raise RuntimeError("no data here")


@dataclass(frozen=True)
class Shipped(Unloadable):
    simulation_profile: Path = Path(__file__).parent / "shipped.yaml"


TASKS = {"plain": lambda: Unloadable("plain"), "shipped": lambda: Shipped("shipped")}
'''
SHIPPED = """
metrics:
  auroc: {direction: max, chance: 0.5, best: 0.75}
  log_loss: {direction: min, chance: 3.0, best: 1.5}
primary_metric: auroc
labels: 20
train_examples: 333
"""
CONFIG = """
base_model: nobody/has-this-model
mode: simulate
tasks: [plain, shipped]
search_space:
  lora_r: {low: 2, high: 32, log: true}
  learning_rate: {low: 1e-4, high: 3e-2, log: true}
  layers: [all, top-2]
  lora_target_modules: {subset: [q_proj, v_proj]}
evolution: {population_size: 6, generations: 3}
exploit: {quantile: 0.34}
training_stages:
  - {name: short, epoch_budget: 0.2, data_percentage: 20, survival_rate: 0.5}
  - {name: long, epoch_budget: 1.0, data_percentage: 100, survival_rate: 0.5}
prune: {audit_fraction: 0.3}
simulation:
  agreement: {short: 0.3}
  faults: {crash: 0.2, out_of_memory: 0.2, straggler: 0.2, nan: 0.05, lost_checkpoint: 0.2}
execution: {workers: 2}
output_dir: run
"""


def write_project(folder: Path) -> None:
    plugin = folder / "plugins" / "blind"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PLUGIN)
    (plugin / "shipped.yaml").write_text(SHIPPED)
    (folder / "blind.yaml").write_text(CONFIG)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    write_project(folder)
    result = coral(folder, "evolve", "blind.yaml")
    assert result.returncode == 0, result.stderr
    return folder


def environment(folder: Path, hash_seed: str) -> dict[str, str]:
    return {
        **os.environ,
        "CORAL_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": hash_seed,
        "PYTHONDONTWRITEBYTECODE": "",  # an installed Coral is compiled once
    }


def coral(folder: Path, *arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coral", *arguments],
        cwd=folder,
        env=environment(folder, hash_seed),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def trials(folder: Path, run: str = "run") -> str:
    result = coral(folder, "show", run, "--trials")
    assert result.returncode == 0, result.stderr
    return result.stdout


def events(folder: Path, run: str = "run") -> list[tuple[str, str]]:
    connection = sqlite3.connect(folder / run / "run.sqlite")
    try:
        rows = connection.execute("SELECT kind, payload FROM events ORDER BY sequence").fetchall()
    finally:
        connection.close()
    return [(str(kind), str(payload)) for kind, payload in rows]


def champion(folder: Path, run: str) -> object:
    return json.loads((folder / run / "champion" / "coral.json").read_text())


def test_another_process_with_another_hash_seed_stores_the_same_events(project: Path) -> None:
    result = coral(project, "evolve", "blind.yaml", "output_dir=again", hash_seed="123")
    assert result.returncode == 0, result.stderr
    assert events(project, "again") == events(project)
    assert trials(project, "again") == trials(project)
    assert champion(project, "again") == champion(project, "run")


@pytest.mark.parametrize("workers", [1, 64])
def test_the_number_of_virtual_workers_changes_no_trial(project: Path, workers: int) -> None:
    run = f"workers-{workers}"
    result = coral(
        project, "evolve", "blind.yaml", f"output_dir={run}", f"execution.workers={workers}"
    )
    assert result.returncode == 0, result.stderr
    assert trials(project, run) == trials(project)
    assert champion(project, run) == champion(project, "run")
    assert events(project, run) != events(project)
    assert sorted(events(project, run)) == sorted(events(project))


SLOWLY = """
import os, signal, sys
from coral.storage import SqliteRunStore
append, left = SqliteRunStore.append, [int(sys.argv.pop(1))]

def counted(store, event):
    append(store, event)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

SqliteRunStore.append = counted
from coral.cli.app import main
main()
"""


@pytest.mark.parametrize("at", [1, 8, 15, 28, 38])
def test_a_run_killed_at_an_event_resumes_to_the_same_bytes(project: Path, at: int) -> None:
    run = f"killed-{at}"
    command = [sys.executable, "-c", SLOWLY, str(at), "evolve", "blind.yaml", f"output_dir={run}"]
    killed = subprocess.run(
        command, cwd=project, env=environment(project, "5"), capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(events(project, run)) == at
    assert not (project / run / "champion").exists()
    result = coral(project, "resume", run, hash_seed="6")
    assert result.returncode == 0, result.stderr
    assert trials(project, run) == trials(project)
    assert sorted(events(project, run)) == sorted(events(project))
    assert champion(project, run) == champion(project, "run")


def test_a_run_killed_from_outside_resumes_to_the_same_bytes(project: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coral", "evolve", "blind.yaml", "output_dir=shot"],
        cwd=project,
        env=environment(project, "7"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    database = project / "shot" / "run.sqlite"
    deadline = time.monotonic() + TIMEOUT
    while not database.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert coral(project, "resume", "shot").returncode == 0
    assert trials(project, "shot") == trials(project)


def test_a_simulated_run_loads_no_torch(project: Path) -> None:
    code = (
        "import sys\n"
        "from coral.cli.app import app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "finally:\n"
        f"    print('loaded', [n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "evolve", "blind.yaml", "output_dir=light"],
        cwd=project,
        env=environment(project, "0"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "loaded []" in result.stderr


def test_a_run_tells_of_its_misfortunes_and_its_champion(project: Path) -> None:
    facts = json.loads(coral(project, "show", "run", "--json").stdout)
    assert facts["status"] == "finished"
    told = json.loads(trials(project))
    assert facts["trials"]["total"] == len(told)
    operators = [trial["candidate"]["lineage"]["operator"] for trial in told]
    made = sum(operators.count(each) for each in ("exploit", "soup", "squeeze"))
    assert len(told) - made == 18
    assert {"exploit", "soup", "squeeze"} <= set(operators)
    attempts = [outcome["attempts"] for trial in told for outcome in trial["outcomes"]]
    assert max(attempts) >= 2
    metrics = facts["champion"]["metrics"]["validation"]
    assert 0.5 < metrics["shipped.auroc"] <= 0.75, "the shipped profile's best"
    assert metrics["plain.auroc"] > metrics["shipped.auroc"]
    assert champion(project, "run")["simulated"] is True  # type: ignore[index]


def test_a_resumed_run_refuses_another_belief(project: Path) -> None:
    shutil.copytree(project / "run", project / "changed")
    config = project / "changed" / "config.resolved.yaml"
    text = config.read_text()
    assert "crash: 0.2" in text
    config.write_text(text.replace("crash: 0.2", "crash: 0.3"))
    result = coral(project, "resume", "changed")
    assert result.returncode != 0
    assert "must be the one that it began with" in result.stderr


LIBRARIES = "import concurrent.futures, filelock, numpy, pydantic, rich.live, sqlite3, typer, yaml"
"""What any command that begins a run imports."""


def process_seconds(folder: Path, *arguments: str) -> float:
    """Return the process time of Python with these arguments, start-up included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command, env = [sys.executable, *arguments], environment(folder, hash_seed="0")
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_simulated_quickstart_takes_seven_times_as_long_as_its_imports_at_most(
    tmp_path: Path,
) -> None:
    """It takes three to five times as long, here one to one and a half seconds. Machines differ,
    ratios less; with torch among its imports it would be over ten.
    """
    evolution = ("-m", "coral", "evolve", "quickstart", "--simulate")
    process_seconds(tmp_path, *evolution)  # compiles what was never imported
    imports, whole = [], []
    for _ in range(3):
        imports.append(process_seconds(tmp_path, "-c", LIBRARIES))
        whole.append(process_seconds(tmp_path, *evolution))
    assert min(whole) < 7 * min(imports)


def test_a_genome_takes_as_long_at_the_end_as_at_the_start(tmp_path: Path) -> None:
    size = ("evolution.population_size=50", "evolution.generations=40", "output_dir=run")
    assert coral(tmp_path, "evolve", "quickstart", "--simulate", *size).returncode == 0
    with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite")) as connection:
        ends = [
            end
            for (end,) in connection.execute(
                "SELECT recorded_at FROM events"
                " WHERE kind = 'generation_finished' ORDER BY sequence"
            )
        ]
    spans = [later - earlier for earlier, later in pairwise(ends)]
    assert median(spans[-10:]) < 1.5 * median(spans[:10])
