"""``coral doctor``: a line for each thing that a run needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from coral import doctor
from coral.cli.app import app
from tests.hubs import NOWHERE, PARAMETERS, point_at, serving

CONFIG = """\
base_model: ./model
tasks: [{name: stars, type: text-classification, path: data.csv}]
execution: {workers: 2, device: cpu}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, data and a model of a million parameters, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    point_at(NOWHERE, tmp_path, monkeypatch)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = {"layers.0.q.weight": np.zeros((1000, 1000), dtype=np.float32)}
    save_file(weights, model / "model.safetensors")
    (tmp_path / "data.csv").write_text("text,label\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def examined(*overrides: str, config: str = "config.yaml") -> dict[str, Any]:
    pairs = dict(pair.split("=", 1) for pair in overrides)
    return doctor.examine(config, pairs)


def check(facts: dict[str, Any], topic: str) -> dict[str, Any]:
    """The one check of a topic, or the first that found a fault."""
    found = [one for one in facts["checks"] if one["topic"] == topic]
    return next((one for one in found if not one["ok"]), found[0])


@pytest.mark.usefixtures("project")
def test_a_machine_that_has_everything_is_ready() -> None:
    facts = examined()
    assert facts["ok"], facts
    topics = [one["topic"] for one in facts["checks"]]
    assert topics == [
        "python", "packages", "config", "plugins", "devices", "network", "model", "data", "memory",
        "cache", "runs",
    ]  # fmt: skip
    assert "1,000,000 parameters" in check(facts, "model")["told"]
    assert check(facts, "network")["told"] == "not needed"
    assert check(facts, "devices")["told"] == "2 workers on cpu, 1 thread each"


@pytest.mark.usefixtures("project")
def test_a_config_with_faults_is_a_line_and_the_rest_is_looked_at() -> None:
    facts = examined("lora_r=0")
    assert not facts["ok"]
    assert "lora_r: must be > 0" in check(facts, "config")["told"]
    assert check(facts, "python")["ok"]
    assert check(facts, "plugins")["ok"]
    assert not examined(config="nowhere.yaml")["ok"]


def test_a_config_that_is_no_text_is_a_line(project: Path) -> None:
    (project / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in check(examined(), "config")["told"]


def test_a_broken_plugin_is_named(project: Path) -> None:
    broken = project / "plugins" / "broken"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import no_such_library\n")
    found = check(examined(), "plugins")
    assert not found["ok"]
    assert "no_such_library" in found["told"]


def test_memory_that_is_short_is_a_fault_with_the_workers_that_fit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_free_memory", lambda: 1_000_000_000)
    found = check(examined("execution.workers=4"), "memory")
    assert not found["ok"]
    assert found["told"] == ("4 workers need at least 1.7 GB before they train, 1.0 GB are free")
    assert found["remedy"] == "Set execution.workers: 2."
    monkeypatch.setattr(doctor, "_free_memory", lambda: 1_000)
    assert "a smaller model" in check(examined(), "memory")["remedy"]


@pytest.mark.usefixtures("project")
def test_fewer_bits_need_less_memory() -> None:
    needed = [
        check(examined(*pairs), "memory")["told"].split("least ")[1].split(" GB")[0]
        for pairs in (("execution.workers=200",), ("execution.workers=200",
                      "execution.precision=bfloat16"))
    ]  # fmt: skip
    assert float(needed[0]) - float(needed[1]) == pytest.approx(200 * 2e6 / 1e9)


def test_data_that_are_not_there_are_a_fault(project: Path) -> None:
    (project / "data.csv").unlink()
    found = check(examined(), "data")
    assert found["told"] == "stars: data.csv does not exist"
    assert check(examined('tasks.0.path="*.yaml"'), "data")["ok"]


def test_a_model_without_weights_is_a_fault(project: Path) -> None:
    (project / "model" / "model.safetensors").unlink()
    found = check(examined(), "model")
    assert not found["ok"]
    assert "holds none" in found["told"]
    assert "save_pretrained" in found["remedy"]


@pytest.mark.usefixtures("project")
def test_a_hub_id_without_a_network_is_a_fault_with_its_remedy() -> None:
    facts = examined("base_model=org/model", "tasks.0.path=org/data")
    assert check(facts, "network")["told"] == "needed for org/model, org/data"
    for topic in ("model", "data"):
        found = check(facts, topic)
        assert not found["ok"]
        assert "the hub can't be reached" in found["told"]
    assert "can't be told" in check(facts, "memory")["told"]


def test_a_hub_id_in_reach_is_downloaded_and_its_size_is_known(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as address:
        point_at(address, project, monkeypatch)
        facts = examined("base_model=org/model", "tasks.0.path=org/none")
    assert f"{PARAMETERS:,} parameters, on the hub" in check(facts, "model")["told"]
    assert check(facts, "memory")["told"].startswith("2 workers need at least")
    found = check(facts, "data")
    assert not found["ok"]
    assert "hf auth login" in found["remedy"]


def test_room_for_checkpoints_is_held_against_the_disk(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_free_bytes", lambda folder: 5_000_000)
    found = check(examined(), "cache")
    assert not found["ok"]
    # 24 genomes of rank 32 on one map of 1,000 by 1,000, twelve bytes a parameter.
    assert found["told"].startswith("up to 18 MB of checkpoints, 5 MB free at ")
    assert check(examined("cache_bytes=4MB"), "cache")["ok"]


def test_a_folder_that_cannot_be_written_is_a_fault(project: Path) -> None:
    (project / "file").write_text("")
    found = check(examined("output_dir=file/run"), "runs")
    assert not found["ok"]
    assert found["remedy"] == "Set output_dir to another folder."


@pytest.mark.usefixtures("project")
def test_a_simulated_run_needs_neither_model_nor_data() -> None:
    facts = examined("mode=simulate", "base_model=org/model")
    assert facts["ok"]
    assert "mode" in [one["topic"] for one in facts["checks"]]
    assert "model" not in [one["topic"] for one in facts["checks"]]


def test_a_package_outside_its_range_is_a_line_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor,
        "_requirements",
        lambda: (">=4", list(map(doctor.Requirement, ("torch>=999", "no-such-thing>=1")))),
    )
    facts = examined()
    assert not check(facts, "python")["ok"]
    faults = [one for one in facts["checks"] if one["topic"] == "packages"]
    assert [one["ok"] for one in faults] == [False, False]
    assert faults[0]["remedy"] == "Run: pip install 'torch>=999'"
    assert faults[1]["told"] == "no-such-thing is not installed, >=1 is needed"


@pytest.mark.usefixtures("project")
def test_four_bits_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "bitsandbytes":
            raise doctor.PackageNotFoundError
        return "1"

    monkeypatch.setattr(doctor, "version", version)
    found = check(examined("execution.load_in_4bit=true"), "devices")
    assert "bitsandbytes, which is not installed" in found["told"]


def test_a_check_that_fails_itself_is_a_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(doctor, "_free_memory", broken)
    found = check(examined(), "memory")
    assert not found["ok"]
    assert "ZeroDivisionError: division by zero" in found["told"]


@pytest.mark.usefixtures("project")
def test_the_command_ends_with_1_where_something_is_to_be_put_right() -> None:
    run = CliRunner()
    ready = run.invoke(app, ["doctor", "config.yaml"])
    assert ready.exit_code == 0, ready.output
    assert ready.stdout.splitlines()[-1] == "ready    next: coral evolve config.yaml"
    faulty = run.invoke(app, ["doctor", "config.yaml", "tasks.0.path=none.csv"])
    assert faulty.exit_code == 1
    assert "fix  data" in faulty.stdout
    assert " " * 22 + "Correct the path of the task." in faulty.stdout
    assert faulty.stdout.splitlines()[-1] == "1 thing is to be put right"
    told = run.invoke(app, ["doctor", "config.yaml", "lora_r=0", "--json"])
    assert told.exit_code == 1
    assert json.loads(told.stdout)["ok"] is False
