"""From stored runs to a simulation profile: ``coral calibrate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from coral.errors import RunError
from coral.reporting import Facts
from coral.simulation import Profile, dump_profile
from coral.simulation.calibrate import calibrate
from coral.simulation.recorded import Recording
from coral.storage import SqliteRunStore, write_text_durably
from coral.stored_run import open_run


def calibrate_runs(folders: Sequence[Path], output: Path) -> Facts:
    """Fit a profile to recorded runs and write it; the file's stem names it.

    Raises:
        RunError: a folder holds no run, there are too few trials, the runs don't belong together,
            or the profile can't be written.
    """
    profile = calibrate([read_recording(folder) for folder in folders], output.stem)
    try:
        write_text_durably(output, header(profile) + dump_profile(profile))
    except OSError as error:
        raise RunError(
            f"{output} can't be written: {error.strerror}.\nName another file with -o."
        ) from error
    assert profile.goodness is not None
    return {
        "profile": str(output),
        "runs": [str(folder) for folder in folders],
        "fitted_to": profile.fitted_to,
        "base_model": profile.model.base_model,
        "tasks": list(profile.tasks),
        "goodness": asdict(profile.goodness),
    }


def read_recording(folder: Path) -> Recording:
    """Return what a stored run has recorded.

    Raises:
        RunError: the folder holds no run.
    """
    with SqliteRunStore.read_only(folder) as store:
        run = open_run(folder, store)
        state = run.state()
    return Recording(
        spec=run.spec,
        survey=run.survey,
        trials=state.trials,
        scores=state.confirmation.scores if state.confirmation else (),
    )


def header(profile: Profile) -> str:
    """Return the comment that a profile begins with."""
    assert profile.goodness is not None
    return (
        f"# Fitted by `coral calibrate` to {profile.goodness.recorded_trials}"
        f" {profile.fitted_to} trials of {profile.model.base_model}.\n"
        "# What each number means: docs/simulation.md.\n"
    )
