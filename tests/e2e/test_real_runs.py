"""Whole evolutions as a user runs them: real training, real processes, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.terminal import coral
from tests.thrifty import THRIFTY
from tests.tiny import write_project

ROOT = Path(__file__).parents[2]
TIMEOUT = 180


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(scope="module")
def finished(project: Path) -> Path:
    """A run with two workers, never interrupted."""
    result = coral(project, "evolve", "toy.yaml")
    assert result.returncode == 0, result.stderr
    return project / "run"


def environment(project: Path, cache: str = "cache") -> dict[str, str]:
    return {
        **os.environ,
        "CORAL_CACHE": str(project / cache),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
    }


def trials(project: Path, run: str) -> str:
    """Every trial of a run as canonical JSON, times left out."""
    result = coral(project, "show", run, "--trials")
    assert result.returncode == 0, result.stderr
    return result.stdout


def decisions(project: Path, run: str) -> list[tuple[object, ...]]:
    """What must not depend on interruptions: genomes, lineage, verdicts, metrics."""
    return [
        (
            trial["candidate"],
            trial["verdict"],
            [(o["stage"], o["metrics"], o["cumulative_steps"]) for o in trial["outcomes"]],
        )
        for trial in json.loads(trials(project, run))
    ]


def bred(project: Path, run: str) -> int:
    """Return how many trials were bred, soups and squeezed adapters aside."""
    return sum(not t["candidate"]["derivation"] for t in json.loads(trials(project, run)))


def kill_after(project: Path, run: str, events: int, cache: str) -> None:
    """Start a run and SIGKILL it once it has stored that many events."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coral", "evolve", "toy.yaml", f"output_dir={run}"],
        cwd=project,
        env=environment(project, cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_events(project / run / "run.sqlite", events)
    finally:
        workers = descendants_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until_gone(workers)


def descendants_of(pid: int) -> list[int]:
    """Return the processes below ``pid``, by Linux's and macOS's ``ps``."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    parents = dict(map(int, line.split()) for line in listed.stdout.splitlines())
    found, young = [], [pid]
    while young:
        young = [child for child, parent in parents.items() if parent in young]
        found += young
    return found


def wait_until_gone(pids: list[int]) -> None:
    """Wait for workers to notice that their parent is dead; until then they may write."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if not any(is_running(pid) for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError(f"workers {pids} outlived their parent by {TIMEOUT} s")


def is_running(pid: int) -> bool:
    state = subprocess.run(
        ["ps", "-p", str(pid), "-o", "stat="], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


def wait_for_events(database: Path, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if database.is_file():
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
                (stored,) = connection.execute("SELECT COUNT(*) FROM events").fetchone()
            if stored >= count:
                return
        time.sleep(0.05)
    raise AssertionError(f"{count} events were not stored within {TIMEOUT} s")


def test_a_run_hands_over_a_champion_that_beats_chance(project: Path, finished: Path) -> None:
    facts = json.loads(coral(project, "show", "run", "--json").stdout)
    assert facts["status"] == "finished"
    assert facts["champion"]["metrics"]["test"]["auroc"] > 0.9
    assert bred(project, "run") == 8
    assert facts["trials"]["failed"] == 0
    spent, naive = facts["cost"]["optimizer_steps"], facts["cost"]["naive_optimizer_steps"]
    assert 0 < spent < naive
    champion = json.loads((finished / "champion" / "coral.json").read_text())
    confirmation = facts["confirmation"]
    winner = confirmation["contestants"][confirmation["winner"]]
    assert (champion["trial"], champion["weights"]["kind"]) == (winner["trial"], winner["kind"])
    assert champion["metrics"] == winner["metrics"]
    assert (finished / "champion" / "adapter_model.safetensors").is_file()
    members = {folder.name for folder in (finished / "pareto").iterdir()}
    assert members == {f"trial-{row['trial']}" for row in facts["pareto"]}


def test_the_screen_ends_with_the_champion_and_the_next_command(
    project: Path, finished: Path
) -> None:
    shown = coral(project, "show", "run").stdout
    assert "default recipe" in shown
    assert "champion  run/champion" in shown


def test_the_champion_labels_texts_from_arguments_and_stdin(project: Path, finished: Path) -> None:
    by_argument = coral(project, "predict", "run", "w1 red cat w2", "--json")
    by_stdin = coral(project, "predict", "run", "--json", stdin="w1 red cat w2\n")
    assert by_argument.returncode == 0, by_argument.stderr
    assert by_argument.stdout == by_stdin.stdout
    shares = json.loads(by_argument.stdout)[0]["tasks"]["colours"]
    assert max(shares, key=shares.__getitem__) == "red"


def test_a_killed_run_resumes_to_the_same_bytes(project: Path, finished: Path) -> None:
    kill_after(project, "killed", events=8, cache="cache-killed")
    assert json.loads(coral(project, "show", "killed", "--json").stdout)["status"] == "interrupted"
    resumed = coral(project, "resume", "killed", cache="cache-killed")
    assert resumed.returncode == 0, resumed.stderr
    assert trials(project, "killed") == trials(project, "run")


@pytest.mark.parametrize("events", [6, 12], ids=["half-way up the ladder", "parents' weights"])
def test_a_deleted_cache_costs_retraining_and_nothing_else(
    project: Path, finished: Path, events: int
) -> None:
    run, cache = f"emptied-{events}", f"cache-emptied-{events}"
    kill_after(project, run, events=events, cache=cache)
    shutil.rmtree(project / cache)
    resumed = coral(project, "resume", run, cache=cache)
    assert resumed.returncode == 0, resumed.stderr
    assert decisions(project, run) == decisions(project, "run")
    assert "made again" in trials(project, run)


def test_children_start_from_their_parents_weights(project: Path, finished: Path) -> None:
    heirs = [t for t in json.loads(trials(project, "run")) if t["candidate"]["legacy"]]
    warm = [trial for trial in heirs if not trial["candidate"]["derivation"]]
    assert warm
    for trial in warm:
        first = trial["outcomes"][0]
        assert first["stage"] == trial["candidate"]["entry"]
        assert first["inheritance"]["retained_energy"] > 0
        assert first["cumulative_steps"] > first["cost"]["optimizer_steps"]


def test_results_do_not_depend_on_worker_count(project: Path, finished: Path) -> None:
    alone = coral(
        project,
        "evolve",
        "toy.yaml",
        "output_dir=alone",
        "execution.workers=1",
        cache="cache-alone",
    )
    assert alone.returncode == 0, alone.stderr
    assert trials(project, "alone") == trials(project, "run")


def test_packs_do_not_make_results_depend_on_worker_count(project: Path) -> None:
    for workers in (1, 2):
        run = f"packed-{workers}"
        packed = ["execution.pack=3", f"execution.workers={workers}", f"output_dir={run}"]
        done = coral(project, "evolve", "toy.yaml", *packed, cache=f"cache-{run}")
        assert done.returncode == 0, done.stderr
    assert trials(project, "packed-1") == trials(project, "packed-2")


def test_strategies_of_a_plugin_reach_the_workers(project: Path) -> None:
    """By name: worker processes find the plugin themselves."""
    result = coral(
        project,
        "evolve",
        "toy.yaml",
        "--plugins",
        str(THRIFTY),
        "output_dir=thrifty",
        "training.curriculum.kind=hard_first",
        "training.sampling.kind=long_texts_often",
        "training.loss.weighting=rare_and_long",
        "evolution.selection=youngest",
        "objectives=[auroc_per_million, auroc]",
        "evolution.population_size=2",
        "soup.candidates=0",
        "squeeze.sources=0",
        "confirm.top_k=0",
        "execution.workers=1",
        "execution.pack=2",
    )
    assert result.returncode == 0, result.stderr
    told = decisions(project, "thrifty")
    assert not [verdict for _, verdict, _ in told if verdict["status"] == "failed"]
    metrics = [outcome[1] for _, _, outcomes in told for outcome in outcomes]
    assert all("auroc_per_million" in each for each in metrics)
    assert max(each["auroc"] for each in metrics) > 0.7


def test_a_second_process_on_a_run_is_refused_with_exit_code_4(project: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coral", "evolve", "toy.yaml", "output_dir=busy"],
        cwd=project,
        env=environment(project, "cache-busy"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_events(project / "busy" / "run.sqlite", 1)
        second = coral(project, "resume", "busy", cache="cache-busy")
        assert second.returncode == 4, second.stderr
        assert "Traceback" not in second.stderr
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 130
        assert "coral resume" in told
    finally:
        process.kill()
        process.wait()


def test_a_finished_run_can_be_extended(project: Path, finished: Path) -> None:
    shutil.copytree(finished, project / "extended")
    result = coral(project, "resume", "extended", "--generations", "1", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["generation"], bred(project, "extended")) == (3, 12)


def test_a_run_without_survivors_ends_with_exit_code_3_and_says_why(project: Path) -> None:
    result = coral(
        project,
        "evolve",
        "toy.yaml",
        "output_dir=doomed",
        "training.learning_rate=1e9",
        "search_space.learning_rate={low: 1e8, high: 1e9, log: true}",
        cache="cache-doomed",
    )
    assert result.returncode == 3, result.stderr
    assert "no trial of generation 0 survived" in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(coral(project, "show", "doomed", "--json").stdout)["status"] == "failed"


def test_targets_that_match_nothing_name_those_that_exist(project: Path) -> None:
    result = coral(project, "evolve", "toy.yaml", "training.lora_target_modules=[q_proj]")
    assert result.returncode == 2
    assert "q_proj" in result.stderr
    assert "attention.self.query" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_tells_the_plan_and_leaves_nothing_behind(project: Path) -> None:
    before = sorted(path.name for path in project.iterdir())
    result = coral(project, "evolve", "toy.yaml", "--dry-run", "--json", "output_dir=never")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert [stage["name"] for stage in plan["stages"]] == ["short", "long"]
    assert plan["optimizer_steps"] < plan["naive_optimizer_steps"]
    assert plan["wall_seconds"] > 0
    assert sorted(path.name for path in project.iterdir()) == before


def test_a_real_comparison_trains_the_same_genomes_both_ways(project: Path) -> None:
    small = ("--population", "3", "--generations", "1", "--folder", "compared")
    result = coral(project, "compare", "toy.yaml", *small, "--json", cache="cache-compared")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert [(way["way"], way["simulated"]) for way in facts["ways"]] == [
        ("simulation", True),
        ("multi-fidelity", False),
        ("naive", False),
    ]
    early, naive = (
        json.loads(trials(project, f"compared/{n}")) for n in ("multi-fidelity", "naive")
    )
    assert [t["candidate"]["genome"] for t in naive] == [t["candidate"]["genome"] for t in early]
    assert all(len(trial["outcomes"]) == 1 for trial in naive)
    assert facts["ways"][1]["step_speedup"] > 1
    assert "about" in result.stderr
