"""A trial's lineage on a terminal of 80 columns."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import coral
from coral.cli.app import app
from coral.cli.lineage import DEEPEST, print_lineage
from coral.evolution import EvolutionState
from coral.records import Legacy
from coral.reporting import as_json, lineage_facts
from tests.reporting.runs import WARM, bred, state_of

STATE = state_of(bred(), WARM)
CONFIG = """\
base_model: package:not_installed/model
tasks: [docstring_kind]
mode: simulate
search_space: {lora_r: {low: 2, high: 16, log: true}}
evolution: {population_size: 4, generations: 2}
training_stages:
  - {name: short, epoch_budget: 0.2, data_percentage: 20, survival_rate: 0.5}
  - {name: long, epoch_budget: 1.0, data_percentage: 100, survival_rate: 0.5}
prune: []
output_dir: run
"""


def _facts(number: int, state: EvolutionState = STATE) -> dict[str, Any]:
    return {"run": "runs/tiny", **lineage_facts(state.trials[number], state, WARM)}


def _printed(facts: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_lineage(json.loads(as_json(facts)), console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_tree_shows_each_trial_with_what_it_changed_and_trained() -> None:
    lines = _printed(_facts(8))
    digests = [trial.candidate.digest[:8] for trial in STATE.trials]
    assert lines[: lines.index("")] == [
        "runs/tiny  lineage of trial 8",
        f"trial 8 at S1  {digests[8]}  crossover of 0 and 4, kept 97 %",
        "auroc 0.8800  15 steps, 5 of them here",
        "unlike trial 4: learning_rate 0.001 -> 0.003",
        "├── trial 4 at S1  soup-4  soup of 2, kept 99 %",
        "│   auroc 0.9200  10 steps, 0 of them here",
        f"│   ├── trial 1 at S1, weight 0.75  {digests[1]}  recipe",
        "│   │   auroc 0.9000  10 steps",
        f"│   └── trial 0 at S1, weight 0.25  {digests[0]}  reference",
        "│       auroc 0.7500  10 steps",
        "└── trial 0 at S0  see above",
    ]


def test_the_schedule_has_a_row_for_each_trial_of_the_better_line() -> None:
    lines = _printed(_facts(8))
    start = lines.index("The schedule that the final weights really saw, oldest first") + 1
    assert [" ".join(line.split()) for line in lines[start : start + 5]] == [
        "trial steps stages peak rate scheduler batch decay rank scaling layers",
        "1 0-10 S0 0.001 cosine 16 0.01 16 2 all",
        "S1",
        "4 soup 8 2 all",
        "8 10-15 S1 0.00062 cosine 16 0.01 16 2 all",
    ]


def test_a_rank_that_only_bounds_is_told_as_a_bound() -> None:
    assert any("<=16" in line for line in _printed(_facts(6)))
    assert not any("<=" in line for line in _printed(_facts(5)))


def test_the_total_ends_it() -> None:
    last = "optimizer steps of 4 trials went into these weights"
    assert _printed(_facts(8))[-1] == f"25 {last}"
    assert _printed(_facts(9))[-1] == "10 optimizer steps of 1 trial went into these weights"


def test_a_gene_that_was_not_active_is_told_as_unset() -> None:
    facts = _facts(7)
    facts["nodes"][0]["changed"] = [{"gene": "curriculum.ramp", "from": None, "to": 0.25}]
    assert "unlike trial 1: ramp unset -> 0.25" in _printed(facts)


def _chain(length: int) -> EvolutionState:
    """A run in which every trial has the weights of the one before."""
    model = STATE.trials[7]
    first = replace(STATE.trials[1], candidate=replace(STATE.trials[1].candidate, number=0))
    children = (
        replace(
            model,
            candidate=replace(
                model.candidate, number=number, legacy=(Legacy(trial=number - 1, stage=1),)
            ),
        )
        for number in range(1, length)
    )
    return replace(STATE, trials=(first, *children))


@pytest.mark.parametrize(("ancestors", "cut"), [(DEEPEST, False), (DEEPEST + 1, True)])
def test_a_tree_is_drawn_as_deep_as_a_terminal_allows(ancestors: int, cut: bool) -> None:
    lines = _printed(_facts(ancestors, _chain(ancestors + 1)))
    assert any("trial 0 at S1  and so on; --json tells all" in line for line in lines) == cut
    assert max(map(len, lines)) <= 80


def test_a_lineage_of_a_thousand_generations_is_told() -> None:
    facts = _facts(1500, _chain(1501))
    assert len(facts["nodes"]) == 1501
    assert _printed(facts)[-1].endswith("of 1501 trials went into these weights")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated run's folder."""
    folder = tmp_path_factory.mktemp("lineage")
    (folder / "tiny.yaml").write_text(CONFIG)
    coral.evolve(folder / "tiny.yaml", overrides={"output_dir": str(folder / "run")})
    return folder / "run"


def _coral(arguments: Sequence[str], code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["lineage", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def test_the_champions_lineage_is_shown_unless_another_is_named(run: Path) -> None:
    champion = coral.show(run)["champion"]
    assert f"lineage of trial {champion['trial']}\n" in _coral([str(run)])[0]
    for name in (str(champion["trial"]), champion["digest"][:10]):
        assert json.loads(_coral([str(run), name, "--json"])[0]) == coral.lineage(run)
    assert f"{run}  lineage of trial 0\n" in _coral([str(run), "0"])[0].replace("\n  ", "  ")


def test_python_takes_a_number_or_a_digest(run: Path) -> None:
    facts = coral.lineage(run, 0)
    assert facts["trial"] == 0
    assert coral.lineage(run, facts["digest"]) == facts


def test_a_trial_that_is_not_there_exits_with_2_and_names_the_run(run: Path) -> None:
    out, errors = _coral([str(run), "nobody"], code=2)
    assert out == ""
    assert errors.startswith(f"coral: {run}: no trial has the number 'nobody'")


def test_a_folder_that_is_no_run_exits_with_2(tmp_path: Path) -> None:
    out, errors = _coral([str(tmp_path)], code=2)
    assert out == ""
    assert errors.startswith(f"coral: {tmp_path}: a run's folder must hold run.sqlite")
