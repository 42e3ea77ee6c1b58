"""What a running evolution says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coral.cli.screen import Screen
from coral.evolution import EvolutionState, advance
from coral.ports import Progress
from coral.records import Event
from coral.settings import RunSpec
from tests.reporting.runs import EXAMPLES, SIMULATED, SPEC, confirmed, hopeless


def _said(events: list[Event], *, terminal: bool = False, spec: RunSpec = SPEC) -> str:
    """Return what the screen says of a run on 80 columns."""
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False)
    state = EvolutionState(train_examples=EXAMPLES)
    with Screen(spec, console) as screen:
        screen.on_progress(Progress(trial=0, stage=0, step=3, end_step=5, loss=1.25))
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
