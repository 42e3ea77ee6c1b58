"""What a running evolution says."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from coral.cli.screen import Screen
from coral.evolution import EvolutionState, advance
from coral.ports import Progress
from coral.records import Event, StageFinished, TrialsDerived
from coral.settings import ConfirmSettings, RunSpec
from tests.reporting.runs import (
    BROKEN,
    EXAMPLES,
    SIMULATED,
    SPEC,
    WARM,
    bred,
    confirmed,
    harvested,
    hopeless,
    outcome,
    rematched,
)


def _said(
    events: list[Event], *, terminal: bool = False, spec: RunSpec = SPEC, width: int = 80
) -> str:
    """Return what the screen says of a run."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False)
    state = EvolutionState(train_examples=EXAMPLES)
    with Screen(spec, console) as screen:
        screen.on_progress(Progress(key="a", trial=0, stage="S0", step=3, end_step=5, loss=1.25))
        for event in events:
            state = advance(state, event, spec)
            screen.on_event(event, state)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_every_event_of_a_run_is_told(terminal: bool) -> None:
    text = _said(confirmed(), terminal=terminal)
    for part in (
        "gen 1/1  4 genomes",
        "trial   1  S1  auroc 0.9000",
        "trial   3  S0  oom: CUDA out of [memory]",
        "trial   2  pruned: auroc 0.55",
        "trial   3  failed: CUDA out of [memory]",
        "front 2  best auroc 0.9000  pruned 1/4  failed 1",
        "scored on the test split",
    ):
        assert part in text


def test_a_terminal_shows_what_is_under_way() -> None:
    assert "3/5" in _said([], terminal=True)
    assert "3/5" not in _said([], terminal=False)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_simulated_run_says_so_from_the_first_line_to_the_last(terminal: bool) -> None:
    text = _said(confirmed(), terminal=terminal, spec=SIMULATED)
    assert "loading" not in text
    for part in (
        "simulating with profile mine",
        "step 10  2.0 virtual s",
        "simulated  gen 1/1  front 2",
        "scored on the simulated test split",
    ):
        assert part in text


def test_a_real_run_is_not_called_simulated() -> None:
    text = _said(confirmed(), terminal=True)
    assert "loading the base model" in text
    assert "simulat" not in text
    assert "virtual" not in text


def test_a_run_where_all_fails_is_told() -> None:
    assert "best auroc none" in _said(hopeless())


def _lines(events: list[Event]) -> list[str]:
    return _said(events, spec=WARM, width=120).splitlines()


def test_a_trial_that_takes_anothers_place_is_told() -> None:
    line = "  trial  11  takes the place of trial 10: copy of trial 9, mutated"
    assert line in _lines(bred())


def test_inherited_weights_are_told_at_the_stage_where_a_trial_enters() -> None:
    lines = _lines(bred())
    assert any(
        line.startswith("  trial   7  S1") and line.endswith("  from trial 1 (kept 100 %)")
        for line in lines
    )
    assert any(line.endswith("  from trials 4 and 0 (kept 97 %)") for line in lines)
    assert sum("(kept" in line for line in lines) == 3


def test_what_went_another_way_is_told_below_its_outcome() -> None:
    lines = _lines(bred())
    place = lines.index("             trial 0 made again")
    assert lines[place - 1].startswith("  trial   8  S1")
    assert "\x1b[2m             trial 0 made again" in _said(
        bred(), spec=WARM, terminal=True
    )  # dim


def test_a_soup_is_told_with_its_members_and_its_gain() -> None:
    line = "  soup     trial 4: 0.75 of trial 1, 0.25 of trial 0; rank 8  auroc 0.9200 (+0.0200)"
    assert line in _lines(harvested())


def test_what_was_squeezed_is_told_by_its_source() -> None:
    lines = _lines(harvested())
    assert "  squeezed trial 4: rank 4 0.9100" in lines
    assert "  squeezed trial 1: energy 90 % 0.8900" in lines


def test_adapters_squeezed_from_one_trial_share_a_line_failures_included() -> None:
    *events, last = harvested()
    assert isinstance(last, TrialsDerived)
    soup, four, share = last.trials
    legacy = four.candidate.legacy
    failed = replace(
        share,
        candidate=replace(share.candidate, legacy=legacy),
        outcomes=(outcome(6, 1, 0.0, BROKEN),),
    )
    lines = _lines([*events, replace(last, trials=(soup, four, failed))])
    assert "  squeezed trial 4: rank 4 0.9100, energy 90 % oom" in lines


def test_a_generation_without_soup_says_nothing_of_it() -> None:
    assert _lines(bred())[-1].startswith("gen 2/2")


def test_the_confirmation_is_told_as_such() -> None:
    lines = [line for line in _lines(rematched()) if line.startswith("  confirm")]
    assert [line.partition("  auroc")[0] for line in lines] == [
        "  confirm  trial 7 from scratch",
        "  confirm  trial 7 from scratch",
        "  confirm  default recipe, as many steps",
    ]
    assert "5 contestants scored on the test split" in _lines(rematched())


def test_a_rematch_that_fails_is_told() -> None:
    failed = StageFinished(trial=7, outcome=outcome(7, 1, 0.0, BROKEN))
    line = "  confirm  trial 7 from scratch  oom: CUDA out of [memory]"
    assert line in _lines([*bred(), failed])


Left = Callable[[list[Event], RunSpec], int | None]
ALONE = replace(WARM, confirm=ConfirmSettings(top_k=0))
TWO_SEEDS = replace(WARM, confirm=ConfirmSettings(top_k=1, seeds=2))


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Left:
    """Tells how many seconds are left, as a terminal says, after a run's events, ten each."""

    def seconds(events: list[Event], spec: RunSpec) -> int | None:
        ticks = iter([0.0])
        last = 10.0 * len(events)
        clock = SimpleNamespace(monotonic=lambda: next(ticks, last))
        monkeypatch.setattr("coral.cli.screen.time", clock)
        text = _said(events, spec=spec, terminal=True, width=120)
        told = re.findall(r"elapsed(?:, about (?:(\d+) min )?(\d+) s left)?", text)[-1]
        return 60 * int(told[0] or 0) + int(told[1]) if told[1] else None

    return seconds


def test_the_time_left_counts_the_confirmation(left: Left) -> None:
    # One of two generations, expected to train 3 epochs, took 90 s.
    assert left(harvested(), ALONE) == 90
    # Two seeds of 1 epoch, and the default recipe for the 2 that are in the soup.
    assert left(harvested(), TWO_SEEDS) == 90 + 120


def test_the_time_left_shrinks_while_the_confirmation_trains(left: Left) -> None:
    *events, _ = rematched()
    told = [left(events[: len(events) - missing], TWO_SEEDS) or 0 for missing in (3, 2, 1, 0)]
    assert told == sorted(told, reverse=True)
    assert 0 < told[-1] < told[0]


def test_nothing_is_left_to_estimate_once_all_is_scored(left: Left) -> None:
    assert left(rematched(), TWO_SEEDS) is None


def test_a_terminal_says_that_it_is_confirming() -> None:
    *events, _ = rematched()
    assert "confirming  front" in _said(events, spec=WARM, terminal=True)
    assert "confirming" not in _said(bred(), spec=WARM, terminal=True)
