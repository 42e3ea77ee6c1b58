"""Facts on a terminal of 80 columns."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from coral.cli.tables import (
    duration,
    origin,
    print_failures,
    print_forecast,
    print_run,
    print_runs,
    size,
    value_text,
)
from coral.records import Event
from coral.reporting import as_json, forecast
from coral.settings import RunSpec
from tests.reporting.runs import (
    SIMULATED,
    SPEC,
    WARM,
    bred,
    confirmed,
    facts_of,
    finished,
    hopeless,
    rematched,
    unpromoted,
)
from tests.reporting.test_forecast import PROBE, SURVEY

Make = Callable[[], list[Event]]
MAKERS: list[Make] = [confirmed, finished, hopeless, unpromoted, list, bred, rematched]
STATUSES = ["finished", "interrupted", "failed", "running"]


def _printed(show: Callable[[Any, Console], None], facts: Any) -> str:
    """Return what 80 columns show."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show(facts, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("spec", [SPEC, SIMULATED], ids=lambda spec: spec.mode)
def test_any_run_can_be_shown(make: Make, status: str, spec: RunSpec) -> None:
    facts = facts_of(make(), status, spec)
    read_back = json.loads(as_json(facts))
    for shown in (facts, read_back):
        text = _printed(print_run, shown)
        assert "runs/tiny" in text
        assert status in text
        assert ("simulated" in text.splitlines()[0]) == spec.simulated


def test_a_run_shows_champion_baseline_front_and_cost() -> None:
    text = _printed(print_run, facts_of(confirmed()))
    for part in ("0.9000", "0.8800", "0.7500", "0.7200", "+0.1600", "query, value", "75.0%"):
        assert part in text
    assert "champion  runs/tiny/champion\n" in text
    assert "time    12 s on 3 workers" in text
    assert "workers training and scoring take 12 s on 1, 6 s on 2, 6 s on 3, 4 s on 4" in text
    assert "simulated" not in text


def test_a_simulated_run_is_told_as_such_in_every_part() -> None:
    text = " ".join(_printed(print_run, facts_of(confirmed(), spec=SIMULATED)).split())
    for part in (
        "come from profile mine; agreement S0 -0.5; faults crash 0.25; workers of 2 GB",
        " simulated validation test validation test ",
        "champion minus default on simulated test",
        "Pareto front, simulated",
        "time 6 s on 3 virtual workers, simulated in 12 s",
        "plan found runs/tiny/champion/coral.json (no adapter)",
    ):
        assert part in text
    assert "champion runs" not in text


def test_a_confirmation_is_a_table_that_marks_who_is_handed_over() -> None:
    text = _printed(print_run, facts_of(rematched(), spec=WARM))
    rows = [line.split("  ") for line in text.splitlines()]
    table = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    first = table.index(["confirmed on auroc", "validation", "test", "steps", "TFLOP"])
    assert table[first : first + 5] == [
        ["confirmed on auroc", "validation", "test", "steps", "TFLOP"],
        ["* trial 7, its own weights", "0.9500", "0.9400", "15", "0.00"],
        ["trial 7 from scratch, 2 seeds", "0.9100 ± 0.0141", "0.9000 ± 0.0141", "10"],
        ["default recipe", "0.7500", "0.7200", "10"],
        ["default recipe, as many steps", "0.8100", "0.8000", "15"],
    ]
    told = " ".join(text.split())
    assert "* champion/ holds trial 7, its own weights: the best on validation, which alone" in told


def test_a_genome_that_beats_its_lineage_is_told_with_its_seed() -> None:
    told = " ".join(_printed(print_run, facts_of(rematched(winner=2), spec=WARM)).split())
    assert "* trial 7 from scratch, 2 seeds" in told
    assert "champion/ holds trial 7 from scratch on seed 72: the best on validation" in told


def test_a_run_of_one_seed_has_no_deviation() -> None:
    facts = facts_of(rematched(), spec=WARM)
    facts["confirmation"]["groups"][1] |= {"seeds": 1, "validation": {"mean": 0.9, "std": None}}
    line = next(
        line for line in _printed(print_run, facts).splitlines() if "7 from scratch" in line
    )
    assert "trial 7 from scratch  " in line
    assert line.count("±") == 1


def test_a_run_that_is_not_confirmed_has_no_table() -> None:
    assert "confirmed on" not in _printed(print_run, facts_of(bred(), spec=WARM))


def test_what_was_made_without_training_is_marked_on_the_front() -> None:
    facts = facts_of(bred(), spec=WARM)
    text = _printed(print_run, facts)
    assert "trial   7  auroc 0.9500  trainable_parameters 8,000  mutation of 1, kept 100 %" in text
    assert "trial   4  auroc 0.9200  trainable_parameters 5,000  soup of 2, kept 99 %" in text
    assert (
        text.count("learning_rate=") == len(facts["pareto"]) - 1
    )  # a soup has the genes of another


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"operator": "recipe"}, "recipe"),
        ({"operator": "mutation", "parents": [1]}, "mutation of 1, cold"),
        (
            {
                "operator": "crossover",
                "parents": [2, 1],
                "inherits": [{"trial": 1}],
                "retained_energy": 0.966,
            },
            "crossover of 2 and 1, kept 97 %",
        ),
        (
            {
                "operator": "squeeze",
                "parents": [8],
                "inherits": [{"trial": 8}],
                "derivation": {"kind": "squeeze", "rank": 4, "energy": None},
                "retained_energy": 0.915,
            },
            "squeezed from 8 to rank 4, kept 92 %",
        ),
        (
            {
                "operator": "squeeze",
                "parents": [8],
                "inherits": [{"trial": 8}],
                "derivation": {"kind": "squeeze", "rank": None, "energy": 0.9},
                "retained_energy": 0.93,
            },
            "squeezed from 8 to energy 90 %, kept 93 %",
        ),
    ],
)
def test_a_trials_origin_is_told_in_words(row: dict[str, Any], told: str) -> None:
    blank = {"parents": [], "inherits": [], "derivation": None, "retained_energy": None}
    assert origin({**blank, "shares": None, **row}) == told


def test_the_warm_start_gap_is_told_for_each_stage_that_knows_it() -> None:
    text = " ".join(_printed(print_run, facts_of(bred(), spec=WARM)).split())
    assert (
        "warm S1: median auroc 0.9150 of 2 that inherited, 0.8400 of 2 cold:"
        " +0.0750 [+0.0300, +0.1200], 95 % bootstrap"
    ) in text
    assert "warm S0" not in text  # where nobody came in with inherited weights
    assert "warm" not in _printed(print_run, facts_of(confirmed()))


@pytest.mark.parametrize(
    ("cold", "difference", "told"),
    [
        (0, None, "median auroc 0.9150 of 2 that inherited, none started cold"),
        (
            1,
            {"estimate": -0.1, "low": None, "high": None},
            "of 2 that inherited, 0.8400 of 1 cold: -0.1000 pruned",
        ),
    ],
)
def test_a_gap_without_enough_trials_has_no_interval(cold: int, difference: Any, told: str) -> None:
    facts = facts_of(bred(), spec=WARM)
    facts["warm_start"][1]["cold"]["trials"] = cold
    facts["warm_start"][1]["difference"] = difference
    text = " ".join(_printed(print_run, facts).split())
    assert told in text
    assert "bootstrap" not in text


def test_trials_without_training_are_counted() -> None:
    text = _printed(print_run, facts_of(bred(), spec=WARM))
    assert "trials  12, 3 of them without training: 9 completed, 2 pruned, 1 failed" in text
    assert "trials  4: 2 completed" in _printed(print_run, facts_of(confirmed()))


def test_numbers_of_workers_are_told_in_their_order() -> None:
    facts = {**facts_of(confirmed()), "makespan_seconds": {"1": 16.0, "16": 1.0, "2": 8.0}}
    assert "take 16 s on 1, 8 s on 2, 1 s on 16" in _printed(print_run, facts)


def test_a_run_without_a_champion_says_so() -> None:
    assert "No champion" in _printed(print_run, facts_of(hopeless(), "failed"))


def test_failures_are_printed_as_they_are() -> None:
    text = _printed(print_failures, facts_of(finished()))
    assert "CUDA out of [memory]" in text
    assert "[bold]line 1" in text
    assert "No trial failed." in _printed(print_failures, facts_of(unpromoted()))


def test_runs_are_listed_one_a_line() -> None:
    text = _printed(print_runs, [facts_of(make()) for make in MAKERS])
    assert text.count("runs/tiny") == len(MAKERS)
    assert len(text.splitlines()) == len(MAKERS) + 1
    assert "simulated" not in text


def test_a_simulated_run_is_marked_among_runs() -> None:
    rows = [facts_of(confirmed(), status, SIMULATED) for status in ("finished", "interrupted")]
    _, finished_line, interrupted_line = _printed(print_runs, rows).splitlines()
    assert finished_line.startswith("runs/tiny  simulated  ")
    assert interrupted_line.startswith("runs/tiny  simulated, interrupted  ")


def test_a_long_run_folder_is_told_in_one_piece() -> None:
    facts = {**facts_of(confirmed()), "run": "runs/" + "long" * 30}
    assert facts["run"] in _printed(print_runs, [facts])


def test_a_forecast_is_printed() -> None:
    text = _printed(print_forecast, forecast(SPEC, SURVEY, [PROBE], workers=1))
    assert "S0" in text
    assert "75.0%" in text
    assert "on each of 1 cpu workers" in text
    assert "virtual" not in text


@pytest.mark.parametrize(
    ("agreement", "told"),
    [
        ({"S0": 0.612, "S1": None}, "over the search space: S0 0.61, S1 –"),
        ({}, ""),  # a ladder of one stage
    ],
)
def test_a_forecast_of_a_simulated_run_is_virtual(agreement: dict[str, Any], told: str) -> None:
    facts = forecast(SIMULATED, SURVEY, [PROBE], workers=1)
    facts["simulation"]["expected_agreement"] = agreement
    text = _printed(print_forecast, facts)
    assert text.startswith("tiny  simulated  org/encoder\n")
    assert "times and memory come from profile mine" in text
    assert "on each of 1 virtual workers" in text
    assert "of virtual time" in text
    assert told in text
    assert ("Kendall" in text) == bool(agreement)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.42, "0.4 s"),
        (0.99, "1 s"),
        (59.4, "59 s"),
        (75, "1 min 15 s"),
        (3600, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_times_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_and_values_are_short() -> None:
    assert [size(n) for n in (999, 1_500_000, 2e9)] == ["999 B", "1.5 MB", "2 GB"]
    assert [value_text(v) for v in (0.000123456, 8, ["a", 0.5], True)] == [
        "0.000123",
        "8",
        "a, 0.5",
        "True",
    ]


def test_a_default_recipe_without_scores_is_told() -> None:
    facts = {**facts_of(confirmed()), "baseline": None}
    assert "the default recipe has no scores: see coral show" in _printed(print_run, facts)
    assert "no scores" not in _printed(print_run, facts_of(confirmed()))


def test_what_genomes_share_is_told_by_generation() -> None:
    facts = facts_of(confirmed())
    told = _printed(print_run, {**facts, "shares_computed": [0.853, 0.7]})
    assert "shared  of training and scoring, 85%, 70% was computed, by generation" in told
    assert "was computed" not in _printed(print_run, {**facts, "shares_computed": []})
