"""What a running evolution says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coral.cli.screen import Screen
from coral.evolution import EvolutionState, advance
from coral.ports import Progress
from coral.records import Event
from tests.reporting.runs import EXAMPLES, SPEC, confirmed, hopeless


def _said(events: list[Event], *, terminal: bool = False) -> str:
    """Return what the screen says of a run on 80 columns."""
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False)
    state = EvolutionState(train_examples=EXAMPLES)
    with Screen(SPEC, console) as screen:
        screen.on_progress(Progress(trial=0, stage=0, step=3, end_step=5, loss=1.25))
        for event in events:
            state = advance(state, event, SPEC)
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


def test_a_run_where_all_fails_is_told() -> None:
    assert "best auroc none" in _said(hopeless())
