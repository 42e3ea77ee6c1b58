"""Runs on disk: opening one, and telling what it holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coral.errors import RunError
from coral.evolution import EvolutionState, replay
from coral.ports import LinearModule, Survey, TaskSurvey
from coral.reporting import Facts, export_state, find_trial, lineage_facts, run_facts
from coral.settings import RunSpec
from coral.spec import load_resolved
from coral.storage import RunPaths, SqliteRunStore, is_locked
from coral.tasks import discover


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run's store and what it says about itself.

    Attributes:
        survey: as recorded when the run began.
    """

    folder: Path
    store: SqliteRunStore
    spec: RunSpec
    survey: Survey
    plugin_folders: tuple[Path, ...]

    def state(self) -> EvolutionState:
        return replay(self.store.events(), self.spec, self.survey.train_examples)


def open_run(folder: Path, store: SqliteRunStore) -> OpenRun:
    """Return a stored run with its spec.

    Raises:
        RunError: its resolved config is missing or no longer valid.
    """
    meta = store.meta()
    folders = tuple(Path(item) for item in json.loads(meta["plugin_folders"]))
    resolved = RunPaths(folder).resolved_config
    if not resolved.is_file():
        raise RunError(f"{folder} has no {resolved.name}.\nRestore the file, or start a new run.")
    existing = [item for item in folders if item.is_dir()]
    overrides = {"evolution.generations": meta["generations"]}
    config = load_resolved(resolved, discover(existing), overrides)
    spec = replace(config.spec, name=meta["name"], output_dir=str(folder))
    return OpenRun(
        folder=folder,
        store=store,
        spec=spec,
        survey=_survey_from(json.loads(meta["survey"])),
        plugin_folders=tuple(existing),
    )


def _survey_from(data: dict[str, Any]) -> Survey:
    modules = tuple(LinearModule(**module) for module in data.pop("linear_modules"))
    tasks = tuple(
        TaskSurvey(**task | {key: tuple(v) for key, v in task.items() if isinstance(v, list)})
        for task in data.pop("tasks")
    )
    rates = tuple((count, rate) for count, rate in data.pop("slot_rates", ()))
    return Survey(linear_modules=modules, tasks=tasks, slot_rates=rates, **data)


def read_run(folder: Path) -> Facts:
    """Return the facts of a run, also while another process works on it.

    Raises:
        RunError: the folder holds no run.
    """
    with SqliteRunStore.read_only(folder) as store:
        run = open_run(folder, store)
        state = run.state()
        return facts_of(run, state, _status(folder, state))


def read_spec(folder: Path, more: int | None = None) -> RunSpec:
    """Return the spec of a stored run. Raises as ``read_run`` does.

    Args:
        more: generations by which it is about to be extended.
    """
    with SqliteRunStore.read_only(folder) as store:
        run = open_run(folder, store)
        if more is None:
            return run.spec
        total = run.state().generation + more
        return replace(run.spec, evolution=replace(run.spec.evolution, generations=total))


def read_lineage(folder: Path, wanted: str | None = None) -> Facts:
    """Return the lineage of a trial's weights. Raises as ``read_run`` does.

    Args:
        wanted: the trial's number, or how its digest begins; None for the champion.

    Raises:
        RunError: there is no such trial, or more than one.
    """
    with SqliteRunStore.read_only(folder) as store:
        run = open_run(folder, store)
        state = run.state()
        try:
            trial = find_trial(state, wanted)
        except RunError as error:
            raise RunError(f"{folder}: {error}") from None
        return {"run": str(folder), **lineage_facts(trial, state, run.spec)}


def export_trials(folder: Path) -> str:
    """Return every trial of a run as canonical JSON. Raises as ``read_run`` does."""
    with SqliteRunStore.read_only(folder) as store:
        return export_state(open_run(folder, store).state())


def facts_of(run: OpenRun, state: EvolutionState, status: str) -> Facts:
    """Return the facts of an open run at ``state``."""
    workers = run.store.meta().get("workers")
    return run_facts(
        state,
        run.spec,
        folder=run.folder,
        status=status,
        wall_seconds=run.store.wall_seconds(),
        workers=None if workers is None else int(workers),
        survey=run.survey,
    )


def _status(folder: Path, state: EvolutionState) -> str:
    if state.confirmation is not None and RunPaths(folder).champion.is_dir():
        return "finished"
    if is_locked(folder):
        return "running"
    return "failed" if state.generation and not state.population else "interrupted"


def find_champion(run: Path) -> Path:
    """Return the folder of a run's champion, or ``run`` itself if it was handed over.

    Raises:
        RunError: there is no adapter in it, or it was simulated and so never had one.
    """
    champion = RunPaths(run).champion
    folder = champion if champion.is_dir() else run
    card = folder / "coral.json"
    if _is_simulated(run, card):
        raise RunError(
            f"{run} was simulated: it holds the plan of an adapter, and no adapter.\n"
            "  Train it with `coral evolve CONFIG`, without --simulate, and name that run."
        )
    if not card.is_file():
        raise RunError(
            f"{run} must hold a champion, there is no {card}.\n"
            f"  Finish the run with `coral resume {run}`, or name another folder."
        )
    return folder


def _is_simulated(run: Path, card: Path) -> bool:
    """Return what the card says or, before there is one, the run."""
    if not card.is_file():
        return RunPaths(run).database.is_file() and read_spec(run).simulated
    try:
        facts = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is wrong with it, the predictor says
        return False
    return isinstance(facts, dict) and facts.get("simulated") is True


def find_runs(root: Path) -> list[Path]:
    """Return the run folders under ``root``, the newest first.

    By their databases, for SQLite leaves files of its own in a folder where a run is only read.
    """
    found = list(root.glob(f"*/{RunPaths(root).database.name}"))
    found.sort(key=lambda database: database.stat().st_mtime, reverse=True)
    return [database.parent for database in found]
