"""A comparison on the screen: progress with an estimate, a table, and what is marked in it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coral import comparison, compose
from coral.cli.app import app
from coral.cli.comparison import ComparisonScreen, Meter, as_markdown, plan_lines, print_comparison

CONFIG = """
base_model: org/encoder
tasks: [docstring_kind]
search_space: {learning_rate: {low: 5e-4, high: 5e-2, log: true}}
training_stages:
  - {name: short, epoch_budget: 0.2, data_percentage: 20, survival_rate: 0.5}
  - {name: long, epoch_budget: 1.0, data_percentage: 100, survival_rate: 0.5}
prune: {rules: [], audit_fraction: 0.0}
"""
SMALL = ("--population", "3", "--generations", "2")
PLAN = {
    "comparison": "runs/compare-toy",
    "config": "toy",
    "simulated": False,
    "genomes": 40,
    "workers": 2,
    "device": "cpu",
    "ways": [
        {"way": "multi-fidelity", "epochs": 10.0, "optimizer_steps": 1000, "seconds": 300.0},
        {"way": "naive", "epochs": 40.0, "optimizer_steps": 4000, "seconds": 1200.0},
    ],
}


def way(name: str, *, simulated: bool, **changes: Any) -> dict[str, Any]:
    return {
        "way": name,
        "run": f"runs/compare-toy/{name}",
        "simulated": simulated,
        "seconds": 600.0,
        "clock": "real",
        "optimizer_steps": 4000,
        "step_speedup": 1.0,
        "time_speedup": 1.0,
        "champion": 3,
        "test": {"estimate": 0.95, "low": 0.94, "high": 0.96},
        "kendall_tau": None,
        **changes,
    }


FACTS = {
    "comparison": "runs/compare-toy",
    "config": "toy",
    "simulated": False,
    "profile": "minilm",
    "seed": 0,
    "objective": {"metric": "auroc", "direction": "max"},
    "genomes": 40,
    "population": 8,
    "generations": 5,
    "workers": 2,
    "ways": [
        way(
            "simulation",
            simulated=True,
            seconds=0.25,
            step_speedup=None,
            time_speedup=2400.0,
            kendall_tau=0.5,
        ),
        way("multi-fidelity", simulated=False, step_speedup=2.5, kendall_tau=None),
        way("naive", simulated=False, test={"estimate": 0.97, "low": None, "high": None}),
    ],
    "theory": {"step_speedup": 2.46},
    "champion": {"trial": 3, "naive_best": 7, "naive_place": 2, "regret": 0.0125},
    "champion_test_difference": -0.02,
    "simulator": {"trial": 7, "naive_best": 7, "naive_place": 1, "regret": 0.0},
    "simulation_speedup": 1200.0,
}


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_extrapolated_over_all_ways() -> None:
    clock = Clock()
    meter = Meter({"multi-fidelity": 10.0, "naive": 40.0}, clock)
    meter.begin("multi-fidelity")
    assert (meter.share, meter.seconds_left) == (0, None)
    clock.now = 60.0
    meter.advance(5.0, 5.0)
    assert meter.share == pytest.approx(0.1)
    assert meter.seconds_left == pytest.approx(540.0)


def test_a_way_that_pruned_more_than_expected_leaves_less_to_do() -> None:
    meter = Meter({"multi-fidelity": 10.0, "naive": 40.0}, Clock())
    meter.begin("multi-fidelity")
    meter.advance(5.0, 5.0)
    meter.begin("naive")
    assert meter.share == pytest.approx(5 / 45)


def test_audits_beyond_the_expected_never_turn_the_bar_back() -> None:
    meter = Meter({"multi-fidelity": 10.0, "naive": 40.0}, Clock())
    meter.begin("multi-fidelity")
    meter.advance(15.0, 5.0)
    before = meter.share
    meter.begin("naive")
    assert meter.share == before == pytest.approx(15 / 55)


def test_what_an_earlier_process_trained_does_not_make_this_one_fast() -> None:
    clock = Clock()
    meter = Meter({"multi-fidelity": 10.0, "naive": 40.0}, clock)
    meter.begin("multi-fidelity")
    meter.begin("naive")  # the first way was finished before
    clock.now = 30.0
    meter.advance(21.0, 1.0)
    assert meter.share == pytest.approx(21 / 40)
    assert meter.seconds_left is not None
    assert meter.seconds_left == pytest.approx(30.0 * 19)


def test_the_simulation_takes_no_share_of_the_work() -> None:
    meter = Meter({"naive": 40.0}, Clock())
    meter.begin("simulation")
    meter.advance(5.0, 5.0)
    meter.begin("naive")
    assert meter.share == 0


def test_the_plan_says_what_will_be_trained_and_for_how_long() -> None:
    told = "\n".join(plan_lines(PLAN))
    assert "40 genomes, 2 cpu workers" in told
    assert re.search(r"naive +at most 40.0 epochs, 4,000 optimizer steps, about 20 min", told)
    assert "all of it about 25 min" in told


def printed(facts: dict[str, Any], width: int = 120) -> str:
    stream = io.StringIO()
    print_comparison(facts, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_the_table_marks_the_simulation_and_nothing_else() -> None:
    lines = printed(FACTS).splitlines()
    assert [line.split("  ")[0] for line in lines if re.match(r"sim|multi|naive", line)][:3] == [
        "simulation (simulated)",
        "multi-fidelity",
        "naive",
    ]
    assert "steps and test score are what profile minilm predicts; its time is real" in printed(
        FACTS
    )


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    assert "0.950 [0.940, 0.960]" in printed(FACTS, width=80)
    assert "2,400x" in printed(FACTS, width=80)


def test_the_page_holds_the_table_and_the_choices() -> None:
    page = as_markdown(FACTS)
    simulation = "| simulation (simulated) | 0.25 s | 4,000 | – | 2,400x |"
    assert f"{simulation} 0.950 [0.940, 0.960] | 0.50 |" in page
    assert "| naive | 10 min 00 s | 4,000 | 1x | 1x | 0.970 | – |" in page
    assert "is number 2 of 40: 0.0125 behind trial 7 on validation" in page
    assert "multi-fidelity's minus naive's: -0.0200" in page
    assert "the simulator's favourite (trial 7), trained naively, is naive's best as well" in page


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a config in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(CONFIG)
    return tmp_path


def _invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_a_simulated_comparison_is_marked_in_every_output(here: Path) -> None:
    code, out, errors = _invoke("compare", "toy.yaml", "--simulate", *SMALL)
    assert code == 0, errors
    page = (here / "runs/compare-toy-simulated/comparison.md").read_text()
    for shown in (out, page.lower()):
        assert shown.lstrip("# ").startswith("simulated comparison of toy: 6 genomes (3 x 2")
        assert "nothing was trained" in shown.replace("\n", " ")
    assert page.count("(simulated) |") == 3
    assert errors.count("\n") == errors.count("imulat") + 2  # the two parts of the plan


def test_a_comparison_as_json_is_what_was_saved(here: Path) -> None:
    code, out, _ = _invoke("compare", "toy.yaml", "--simulate", "--json", *SMALL)
    assert code == 0
    saved = (here / "runs/compare-toy-simulated/comparison.json").read_text()
    assert json.loads(out) == json.loads(saved)
    assert json.loads(out)["simulated"] is True


def test_overrides_win_over_the_size_of_the_comparison(here: Path) -> None:
    code, out, _ = _invoke(
        "compare", "toy.yaml", "evolution.generations=1", "--simulate", "--json", *SMALL
    )
    assert (code, json.loads(out)["genomes"]) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.yaml"], "there is no such config file"),
        (["toy.yaml", "seed=-1"], "seed: must be >= 0, got -1"),
        (["toy.yaml", "--population", "1"], "--population"),
        (["toy.yaml", "--folder", "toy.yaml", "--simulate"], "can't be made"),
    ],
)
def test_bad_input_exits_with_2(arguments: list[str], told: str, here: Path) -> None:
    code, out, errors = _invoke("compare", *arguments)
    assert (code, out) == (2, "")
    assert told in errors
    assert not (here / "runs").exists()


def test_nobody_surviving_exits_with_3_and_says_what_is_kept(here: Path) -> None:
    code, out, errors = _invoke(
        "compare", "toy.yaml", "--simulate", "simulation.faults={nan: 1.0}", *SMALL
    )
    assert (code, out) == (3, "")
    assert "no trial of generation 0 survived" in errors
    assert "kept in runs/compare-toy-simulated" in errors


def test_an_interrupted_comparison_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compose, "evolve", stop)
    code, _, errors = _invoke("compare", "toy.yaml", "--simulate", *SMALL)
    assert code == 130
    assert "next: the same command with --folder runs/compare-toy-simulated\n" in errors
    monkeypatch.undo()
    monkeypatch.chdir(here)
    again = ("--folder", "runs/compare-toy-simulated")
    assert _invoke("compare", "toy.yaml", "--simulate", *SMALL, *again)[0] == 0


def test_a_terminal_gets_a_bar_and_other_screens_at_most_a_line_a_twentieth(here: Path) -> None:
    source = compose.Source(path=here / "toy.yaml")
    loaded = compose.load(source, {"mode": "simulate"})
    shown = {}
    for is_terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, width=100, force_terminal=is_terminal, highlight=False)
        with ComparisonScreen(loaded.spec, console) as screen:
            comparison.compare(loaded, source, screen)
        shown[is_terminal] = stream.getvalue()
    assert "━" in shown[True]
    assert "━" not in shown[False]
    told = [line for line in shown[False].splitlines() if "elapsed" in line]
    assert 5 <= len(told) <= 20
    assert told[-1].startswith("100%")
