"""Handing over: the champion's adapter, and those of the front."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import coral
from coral.confirmation import finalist, trained
from coral.evolution import EvolutionState
from coral.ports import Ports
from coral.reporting import adapter_card
from coral.settings import RunSpec
from coral.storage import RunPaths, replace_folder


def deliver(state: EvolutionState, spec: RunSpec, ports: Ports, paths: RunPaths) -> None:
    """Write ``champion/`` and ``pareto/``, each whole or not at all; earlier ones are replaced.

    The champion is the contestant that won the confirmation; the front's adapters are those of the
    search itself.
    """
    assert state.confirmation is not None
    with _replaced(paths.pareto) as draft:
        for number in state.front:
            card = adapter_card(state.trials[number], state, spec, ports.survey, coral.__version__)
            job = trained(number, state, spec, ports.survey)
            ports.executor.export(job, draft / f"trial-{number}", card)
    winner = state.confirmation.contestants[state.confirmation.winner]
    trial = state.trials[winner.trial]
    card = adapter_card(trial, state, spec, ports.survey, coral.__version__, winner)
    with _replaced(paths.champion) as draft:
        ports.executor.export(finalist(winner, state, spec, ports.survey), draft, card)


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Lend a draft of a folder, and put it in its place at the end."""
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    yield draft
    replace_folder(draft, folder)
