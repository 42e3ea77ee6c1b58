"""Coral from Python: the same as the command line, with the same facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coral import compose, stored_run
from coral.ports import Observer


def evolve(
    config: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    plugins: Sequence[str | Path] = (),
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Evolve a config from the start and return the run's facts.

    Call it under ``if __name__ == "__main__":`` in a script: workers are spawned processes.

    Args:
        config: a YAML file, or the name of a bundled config.
        overrides: dotted key to value, such as ``{"evolution.generations": 5}``.
        plugins: folders of task plugins.

    Raises:
        ConfigError: the config has faults.
        NoSurvivorsError: no trial of the first generation survived.
    """
    import json

    source = compose.Source(
        path=compose.find_config(str(config)),
        plugin_folders=tuple(Path(folder) for folder in plugins),
    )
    texts = {key: json.dumps(value) for key, value in (overrides or {}).items()}
    loaded = compose.load(source, texts)
    return compose.start_run(loaded, source, observer or compose.SilentObserver())


def resume(
    run: str | Path, *, generations: int | None = None, observer: Observer | None = None
) -> dict[str, Any]:
    """Go on with a run and return its facts; ``generations`` adds that many.

    Raises:
        RunError: the folder holds no run that can go on.
        RunLockedError: another process works on it.
    """
    return compose.resume_run(Path(run), observer or compose.SilentObserver(), generations)


def show(run: str | Path) -> dict[str, Any]:
    """Return a run's facts.

    Raises:
        RunError: the folder holds no run.
    """
    return stored_run.read_run(Path(run))


def predict(run: str | Path, texts: Sequence[str]) -> list[dict[str, dict[str, float]]]:
    """Label texts with a run's champion, or with any folder that Coral handed over.

    Returns:
        For each text, task name to label name to probability.

    Raises:
        ModelError: there is no adapter, or its base model can't be loaded.
    """
    from coral.training.export import Predictor

    folder = Path(run)
    inner = folder / "champion"
    return Predictor(inner if inner.is_dir() else folder).predict(texts)
