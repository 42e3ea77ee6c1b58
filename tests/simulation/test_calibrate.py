"""Profiles fitted to trials: real ones, and simulated ones whose truth is known."""

from __future__ import annotations

import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coral import compose
from coral.backends import simulated_world
from coral.calibration import calibrate_runs, read_recording
from coral.errors import RunError
from coral.execution import VirtualExecutor
from coral.fidelity import kendall_tau
from coral.loop import evolve
from coral.ports import Ports
from coral.rng import stream
from coral.simulation import (
    Profile,
    SimulatedTrainer,
    WeightsInAddresses,
    find_profile,
    read_profile,
)
from coral.simulation.calibrate import expected_quality, fit, starting_profile
from coral.simulation.recorded import Recording, quality, recorded_trials
from coral.tasks import discover
from tests.scripted_runs import MemoryRunStore, Watcher

RECORDINGS = Path(__file__).parent / "recordings"
"""160 trials of all-MiniLM-L6-v2 on the docstring tasks; docs/simulation.md says how they came."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The recorded runs, unpacked."""
    folder = tmp_path_factory.mktemp("recorded")
    for source in sorted(RECORDINGS.iterdir()):
        target = folder / source.name
        target.mkdir()
        shutil.copy(source / "config.resolved.yaml", target)
        (target / "run.sqlite").write_bytes(
            lzma.decompress((source / "run.sqlite.xz").read_bytes())
        )
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def recordings(runs: list[Path]) -> list[Recording]:
    return [read_recording(run) for run in runs]


def test_a_profile_tells_real_trials_that_it_was_not_fitted_to(recordings: list[Recording]) -> None:
    trials = recorded_trials(recordings)
    # Not every other trial: neighbours of a Sobol sequence lie in different halves of the space.
    order = stream(0, "halves").permutation(len(trials))
    kept, held = ([trials[i] for i in half] for half in (order[:100], order[100:]))
    fitted = fit(starting_profile(recordings[0], "most"), kept, recordings)
    primary = {name: task.primary_metric for name, task in fitted.tasks.items()}
    seen, told = quality(held, primary, -1), expected_quality(fitted, held)
    assert kendall_tau(seen.tolist(), told.tolist()) > 0.6
    assert float(np.median(np.abs(seen - told))) < 0.03


def test_the_bundled_profile_is_the_one_of_these_recordings(recordings: list[Recording]) -> None:
    bundled = read_profile(find_profile("minilm-docstrings"))
    trials = recorded_trials(recordings)
    assert bundled.fitted_to == "real"
    assert bundled.goodness is not None
    assert bundled.goodness.recorded_trials == len(trials) >= 150
    assert bundled.goodness.tau >= 0.7
    primary = {name: task.primary_metric for name, task in bundled.tasks.items()}
    told = expected_quality(bundled, trials)
    assert kendall_tau(quality(trials, primary, -1).tolist(), told.tolist()) > bundled.goodness.tau


def test_too_few_trials_are_refused(recordings: list[Recording]) -> None:
    few = replace(recordings[0], trials=recordings[0].trials[:5])
    with pytest.raises(
        RunError, match=r"at least 24 trials .*, got 5\.\nRecord some: coral record"
    ):
        recorded_trials([few])


def test_runs_on_other_models_are_not_calibrated_together(recordings: list[Recording]) -> None:
    other = replace(recordings[1], spec=replace(recordings[1].spec, base_model="another"))
    with pytest.raises(RunError, match="must have the same base model"):
        recorded_trials([recordings[0], other])


def test_an_empty_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").touch()
    with pytest.raises(RunError, match="the database is empty"):
        calibrate_runs([tmp_path], tmp_path / "profile.yaml")


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(RunError, match="must be Coral's"):
        calibrate_runs([tmp_path], tmp_path / "profile.yaml")
    assert not (tmp_path / "profile.yaml").exists()


def test_a_calibration_finds_the_truth_behind_simulated_trials() -> None:
    """The profile that made the trials is known, so the fit can be held to it."""
    truth = read_profile(find_profile("minilm-docstrings"))
    recording = simulated_recording(truth, trials=96)
    found = fit(starting_profile(recording, "found"), recorded_trials([recording]), [recording])
    assert found.fitted_to == "simulated"
    for name, tolerance in (("heat_scaling", 0.25), ("collapse_rate", 0.3), ("best_heat", 0.5)):
        assert getattr(found.surface, name) == pytest.approx(
            getattr(truth.surface, name), abs=tolerance
        )
    assert found.cost.seconds_per_teraflop == pytest.approx(
        truth.cost.seconds_per_teraflop, rel=0.05
    )
    assert found.noise.loss_deviation == pytest.approx(truth.noise.loss_deviation, rel=0.3)
    assert found.noise.shared == pytest.approx(truth.noise.shared, abs=0.1)
    others = simulated_recording(truth, trials=48, seed=7)
    held = recorded_trials([others])
    primary = {name: task.primary_metric for name, task in found.tasks.items()}
    seen = quality(held, primary, -1).tolist()
    by_truth = kendall_tau(seen, expected_quality(truth, held).tolist())
    assert kendall_tau(seen, expected_quality(found, held).tolist()) > by_truth - 0.1


def simulated_recording(profile: Profile, trials: int, seed: int = 0) -> Recording:
    """Record trials of a profile on the bundled calibration config."""
    config = compose.load(
        compose.Source(path=compose.find_config("calibration")),
        {"mode": "simulate", "seed": str(seed)},
    )
    spec = config.spec.recording(trials)
    world = simulated_world(spec, discover([]))
    assert world.profile.surface == profile.surface
    runs = MemoryRunStore()
    ports = Ports(
        executor=VirtualExecutor(SimulatedTrainer(world), 2),
        runs=runs,
        checkpoints=WeightsInAddresses(),
        observer=Watcher(runs),
        survey=world.survey,
    )
    state = evolve(spec, ports)
    assert state.confirmation is not None
    return Recording(
        spec=spec, survey=world.survey, trials=state.trials, scores=state.confirmation.scores
    )
