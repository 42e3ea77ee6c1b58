"""Handing over: the champion's adapter, and those of the front."""

from __future__ import annotations

import shutil
from pathlib import Path

import coral
from coral.evolution import EvolutionState
from coral.loop import finalist
from coral.ports import Ports
from coral.reporting import adapter_card
from coral.settings import RunSpec
from coral.storage import RunPaths, replace_folder


def deliver(state: EvolutionState, spec: RunSpec, ports: Ports, paths: RunPaths) -> None:
    """Write ``champion/`` and ``pareto/``, each whole or not at all; earlier ones are replaced."""
    assert state.champion is not None
    _replace(paths.pareto, state.front, state, spec, ports)
    _replace(paths.champion, (state.champion,), state, spec, ports)


def _replace(
    folder: Path,
    trials: tuple[int, ...],
    state: EvolutionState,
    spec: RunSpec,
    ports: Ports,
) -> None:
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    for number in trials:
        trial = state.trials[number]
        card = adapter_card(trial, state, spec, ports.survey, coral.__version__)
        target = draft if folder.name == "champion" else draft / f"trial-{number}"
        ports.executor.export(finalist(number, state, spec, ports.survey), target, card)
    replace_folder(draft, folder)
