"""The command line as a user meets it: real processes, exit codes, one message and no traceback."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coral.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
GOOD = "base_model: org/encoder\ntasks: [docstring_kind]\n"

WATCHED = """
import atexit, sys
heavy = ("torch", "transformers", "peft", "datasets", "ray")
loaded = lambda: [name for name in heavy if name in sys.modules]
atexit.register(lambda: print("loaded:", *loaded(), file=sys.stderr))
from coral.cli.app import main
main()
"""
"""Runs the command line and ends stderr with the heavy libraries that it loaded."""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "CORAL_CACHE": "cache"}


def _run(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _coral(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run("-c", WATCHED, *arguments, folder=folder)


def _message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a command that was refused, in a process that stayed light."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    message, _, loaded = done.stderr.rpartition("loaded:")
    assert loaded.strip() == ""
    return message


def test_help_loads_no_heavy_library_and_takes_a_third_of_a_second(tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = _run("-m", "coral", "--help", folder=tmp_path)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert "Evolve LoRA genomes" in done.stdout
    assert min(seconds) <= 0.35, seconds  # a busy machine adds to the others

    done = _run("-X", "importtime", "-m", "coral", "--help", folder=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "coral.cli.app" in imported
    assert not imported & {"torch", "deap", "pydantic", "numpy", "yaml", "rich.markdown"}


def test_faults_of_a_config_exit_with_2_and_load_no_torch(tmp_path: Path) -> None:
    config = tmp_path / "agnews.yaml"
    config.write_text(f"{GOOD}seed: -1\nsearch_space:\n  lora_r: {{low: 64, high: 8}}\n")
    message = _message(_coral(tmp_path, "evolve", "agnews.yaml", "evolution.generations=0"))
    assert [line for line in message.splitlines() if not line.startswith(" ")] == [
        "agnews.yaml:3: seed: must be >= 0, got -1.",
        "agnews.yaml:5: search_space.lora_r: low <= high must hold, got low=64, high=8.",
        "command line: evolution.generations: must be > 0, got 0.",
    ]
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_is_missing_exits_with_2(tmp_path: Path) -> None:
    message = _message(_coral(tmp_path, "show", "nowhere"))
    assert message.startswith("coral: nowhere: ")
    assert len(message.strip().splitlines()) == 2


def test_predicting_without_a_champion_exits_with_2_before_torch_is_loaded(tmp_path: Path) -> None:
    message = _message(_coral(tmp_path, "predict", ".", "some text"))
    assert "must hold a champion" in message
    assert "coral resume ." in message


def test_what_was_simulated_cannot_predict_and_says_so_before_torch_is_loaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "run" / "champion").mkdir(parents=True)
    (tmp_path / "run" / "champion" / "coral.json").write_text('{"simulated": true}')
    for folder in ("run", "run/champion"):
        message = _message(_coral(tmp_path, "predict", folder))  # stdin is not read
        assert message.startswith(f"coral: {folder} was simulated")
        assert "coral evolve CONFIG" in message


def test_a_prediction_cannot_be_simulated(tmp_path: Path) -> None:
    message = _message(_coral(tmp_path, "predict", ".", "some text", "--simulate"))
    assert message.startswith("coral: predictions can't be simulated")


def test_the_schema_is_printed_as_json(tmp_path: Path) -> None:
    done = _run("-m", "coral", "schema", folder=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["title"] == "Coral config"


WAITING = """
import time
from coral import compose
from coral.cli.app import main

def wait(*_, **__):
    print("waiting", flush=True)
    time.sleep(60)

compose.start_run = wait
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_run_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "agnews.yaml").write_text(GOOD)
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "evolve", "agnews.yaml"],
        cwd=tmp_path,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        "interrupted; what was finished is kept. next: coral resume RUN (`coral runs` lists them)"
    )


def _invoke(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process."""
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_binary_file_is_refused_as_a_config(here: Path) -> None:
    (here / "model.bin").write_bytes(bytes(range(256)))
    code, out, errors = _invoke("evolve", "model.bin")
    assert (code, out) == (2, "")
    assert errors.startswith("model.bin:2: a config is UTF-8 text, got byte 0x80 at offset 128.")


def test_a_folder_is_refused_as_a_config(here: Path) -> None:
    code, out, errors = _invoke("evolve", ".")
    assert (code, out) == (2, "")
    assert errors.startswith(".: the config can't be read: Is a directory.")


def test_a_config_that_does_not_exist_names_the_bundled_ones(here: Path) -> None:
    code, _, errors = _invoke("evolve", "quickstrat")
    assert code == 2
    assert "quickstart" in errors


def test_overrides_are_given_as_arguments_or_as_options(here: Path) -> None:
    (here / "agnews.yaml").write_text(GOOD)
    for given in (["seed=-5"], ["--set", "seed=-5"]):
        code, _, errors = _invoke("evolve", "agnews.yaml", *given)
        assert code == 2
        assert errors.startswith("command line: seed: must be >= 0, got -5.")


def test_an_override_without_a_key_and_a_value_is_refused(here: Path) -> None:
    (here / "agnews.yaml").write_text(GOOD)
    code, _, errors = _invoke("evolve", "agnews.yaml", "seed", "=1", "--set", "5")
    assert code == 2
    assert [line for line in errors.splitlines() if not line.startswith(" ")] == [
        "command line: an override is KEY=VALUE, got seed.",
        "command line: an override is KEY=VALUE, got =1.",
        "command line: an override is KEY=VALUE, got 5.",
    ]


def test_a_plugin_folder_that_is_missing_exits_with_2(here: Path) -> None:
    (here / "agnews.yaml").write_text(GOOD)
    code, _, errors = _invoke("evolve", "agnews.yaml", "--plugins", "nowhere")
    assert code == 2
    assert errors.startswith("coral: plugin folder ")


@pytest.mark.parametrize(
    "command", [["show"], ["show", "--json"], ["show", "--trials"], ["lineage"], ["resume"]]
)
def test_a_foreign_database_is_no_run(command: list[str], here: Path) -> None:
    with sqlite3.connect(here / "run.sqlite") as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()
    code, out, errors = _invoke(command[0], ".", *command[1:])
    assert (code, out) == (2, "")
    assert errors.startswith("coral: ")
    assert len(errors.strip().splitlines()) == 2


def test_a_file_that_is_no_database_is_no_run(here: Path) -> None:
    (here / "run.sqlite").write_text("not a database" * 100)
    code, out, errors = _invoke("show", ".")
    assert (code, out) == (2, "")
    assert errors.startswith("coral: ")


def test_resuming_a_missing_run_makes_no_folder(here: Path) -> None:
    code, _, errors = _invoke("resume", "nowhere")
    assert code == 2
    assert errors.startswith("coral: nowhere")
    assert not (here / "nowhere").exists()


def test_a_folder_without_runs_says_how_to_start_one(here: Path) -> None:
    assert _invoke("runs") == (0, "No runs in runs. Start one: coral evolve quickstart\n", "")
    assert _invoke("runs", ".", "--json") == (0, "[]\n", "")


def test_a_broken_run_does_not_hide_the_list(here: Path) -> None:
    (here / "runs" / "broken").mkdir(parents=True)
    (here / "runs" / "broken" / "run.sqlite").write_text("not a database")
    code, _, errors = _invoke("runs")
    assert code == 0
    assert errors.startswith("coral: runs/broken")


def test_texts_to_predict_must_be_text(here: Path) -> None:
    (here / "coral.json").write_text("{}")
    (here / "texts").write_bytes(b"\xff\xfe")
    code, _, errors = _invoke("predict", ".", "--file", "texts")
    assert code == 2
    assert errors.startswith("coral: texts can't be read as text")


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["show"], ["resume", ".", "--generations", "0"]]
)
def test_misuse_exits_with_2(arguments: list[str], here: Path) -> None:
    code, out, errors = _invoke(*arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in errors


def test_the_version_is_printed() -> None:
    import coral

    assert _invoke("version") == (0, f"{coral.__version__}\n", "")
