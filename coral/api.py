"""Coral from Python: the same as the command line, with the same facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coral import compose, stored_run
from coral.ports import Observer
from coral.spec import LoadedConfig


def evolve(
    config: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[str | Path] = (),
    simulate: bool = False,
    force_fresh: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Evolve a config from the start and return the run's facts.

    Call it under ``if __name__ == "__main__":`` in a script: worker processes import the script.

    Args:
        config: a YAML file, or the name of a bundled config.
        overrides: dotted key to value, such as ``{"evolution.generations": 5}``.
        plugins: folders of task plugins.
        simulate: ask a response surface instead of training; the facts say so.
        force_fresh: look at no checkpoint there is; the run keeps its own in a place apart.

    Raises:
        ConfigError: the config has faults.
        NoSurvivorsError: no trial of the first generation survived.
    """
    loaded, source = _load(config, overrides, plugins, simulate=simulate)
    watching = observer or compose.SilentObserver()
    for note in loaded.notes:
        watching.on_notice(note, note)
    return compose.start_run(loaded, source, watching, force_fresh=force_fresh)


def record(
    config: str | Path,
    *,
    trials: int = 160,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[str | Path] = (),
    simulate: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train a Sobol design through all stages without pruning, and return the run's facts.

    Args:
        trials: genomes to train, the default recipe and the known-good ones included.
        config, overrides, plugins, simulate: as for ``evolve``, whose errors it raises.

    Raises:
        PlanError: there are fewer than two trials.
    """
    loaded, source = _load(config, overrides, plugins, simulate=simulate)
    loaded = replace(loaded, spec=loaded.spec.recording(trials))
    return compose.start_run(loaded, source, observer or compose.SilentObserver())


def calibrate(runs: Sequence[str | Path], output: str | Path) -> dict[str, Any]:
    """Fit a simulation profile to recorded runs, write it, and return how far to trust it.

    Raises:
        RunError: a folder holds no run, there are too few trials, or runs don't belong together.
    """
    from coral.calibration import calibrate_runs

    return calibrate_runs([Path(run) for run in runs], Path(output))


def compare(
    config: str | Path = "quickstart",
    *,
    population: int = 8,
    generations: int = 5,
    folder: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[str | Path] = (),
    simulate: bool = False,
) -> dict[str, Any]:
    """Run one population simulated, naively in full, and over the ladder; return the comparison.

    Args:
        population, generations: go before the config's; ``overrides`` go before them.
        folder: of the comparison; one that was interrupted goes on.
        config, overrides, plugins, simulate: as for ``evolve``, whose errors it raises.
    """
    from coral import comparison

    size = {"evolution.population_size": population, "evolution.generations": generations}
    loaded, source = _load(config, size | dict(overrides or {}), plugins, simulate=simulate)
    target = None if folder is None else Path(folder)
    return comparison.compare(loaded, source, comparison.SilentWatcher(), target)


def _load(
    config: str | Path,
    overrides: Mapping[str, Any] | None,
    plugins: Sequence[str | Path],
    *,
    simulate: bool,
) -> tuple[LoadedConfig, compose.Source]:
    source = compose.Source(
        path=compose.find_config(str(config)),
        plugin_folders=tuple(Path(folder) for folder in plugins),
    )
    mode = {"mode": "simulate"} if simulate else {}
    texts = {key: json.dumps(value) for key, value in {**(overrides or {}), **mode}.items()}
    return compose.load(source, texts), source


def resume(
    run: str | Path,
    *,
    generations: int | None = None,
    force_fresh: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Go on with a run and return its facts; ``generations`` adds that many.

    Args:
        force_fresh: look at no checkpoint there is; what is needed is trained again, and kept in a
            place apart from now on.

    Raises:
        RunError: the folder holds no run that can go on.
        RunLockedError: another process works on it.
    """
    watching = observer or compose.SilentObserver()
    return compose.resume_run(Path(run), watching, generations, force_fresh=force_fresh)


def gc(run: str | Path, *, limit: int | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Remove a run's checkpoints that nobody needs any more; return what went and what stays.

    Args:
        limit: bytes that may stay; None removes what the run has no use for, and nothing else.
        dry_run: only tell.

    Raises:
        RunError: the folder holds no run.
        RunLockedError: another process works on it.
        CheckpointError: the cache can't be reached.
    """
    from coral.collection import collect

    return collect(Path(run), limit=limit, dry_run=dry_run)


def show(run: str | Path) -> dict[str, Any]:
    """Return a run's facts.

    Raises:
        RunError: the folder holds no run.
    """
    return stored_run.read_run(Path(run))


def lineage(run: str | Path, trial: int | str | None = None) -> dict[str, Any]:
    """Return what went into a trial's weights, and the schedule that they really saw.

    Args:
        trial: its number, or how its digest begins; None for the champion.

    Raises:
        RunError: the folder holds no run, or there is no such trial, or more than one.
    """
    return stored_run.read_lineage(Path(run), None if trial is None else str(trial))


def predict(
    run: str | Path, texts: Sequence[str | tuple[str, str]]
) -> list[dict[str, dict[str, float] | str | None]]:
    """Label or answer texts with a run's champion or any folder that Coral handed over.

    Args:
        texts: or pairs of them, for tasks that compare two.

    Returns:
        For each text, task name to label name to probability, or to the predicted number; of a task
        whose answers are written, to the answer. None in the place of the labels where the adapter
        abstains.

    Raises:
        RunError: there is no adapter, as in a simulated run.
        ModelError: the adapter is damaged, its base model can't be loaded, or a pair is needed.
    """
    folder = stored_run.find_champion(Path(run))

    from coral.training.export import Predictor

    return Predictor(folder).predict(texts)
