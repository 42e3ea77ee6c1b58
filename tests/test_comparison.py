"""One population three ways, on the simulated trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coral import comparison, compose
from coral.comparison import SilentWatcher, compare
from coral.errors import ConfigError, NoSurvivorsError, RunError, RunLockedError
from coral.evolution import EvolutionState
from coral.fidelity import kendall_tau, ladder_steps
from coral.ports import Observer
from coral.records import Event
from coral.reporting import Facts
from coral.settings import RunSpec
from coral.storage import SqliteRunStore, run_lock
from coral.stored_run import export_trials, open_run, read_run

CONFIG = """
mode: simulate
base_model: org/encoder
tasks: [docstring_kind, docstring_library]
search_space:
  lora_r: {low: 2, high: 32, log: true}
  learning_rate: {low: 5e-4, high: 5e-2, log: true}
  batch_size: [8, 16, 32]
evolution: {population_size: 4, generations: 2}
training_stages:
  - {name: short, epoch_budget: 0.2, data_percentage: 20, survival_rate: 0.5}
  - {name: long, epoch_budget: 1.0, data_percentage: 100, survival_rate: 0.5}
prune: {rules: [], audit_fraction: 0.3}
execution: {workers: 2}
"""
REAL = {"mode": "real"}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A simulated comparison, to be read only."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "toy.yaml").write_text(CONFIG)
    source = compose.Source(path=folder / "toy.yaml")
    return compare(compose.load(source, {}), source, SilentWatcher(), folder / "here")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a config in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(CONFIG)
    return tmp_path


def compared(
    folder: str | None = None, watcher: SilentWatcher | None = None, **overrides: str
) -> Facts:
    source = compose.Source(path=Path("toy.yaml"))
    config = compose.load(source, {key.replace("__", "."): v for key, v in overrides.items()})
    return compare(config, source, watcher or SilentWatcher(), folder and Path(folder))


def state_of(folder: Path) -> tuple[RunSpec, EvolutionState]:
    with SqliteRunStore.read_only(folder) as store:
        run = open_run(folder, store)
        return run.spec, run.state()


def way(facts: Facts, name: str) -> Facts:
    (found,) = (each for each in facts["ways"] if each["way"] == name)
    return found


def test_naive_trains_every_genome_of_the_evolution_straight_to_the_last_budget(
    facts: Facts,
) -> None:
    folder = Path(facts["comparison"])
    spec, bred = state_of(folder / "multi-fidelity")
    _, naive = state_of(folder / "naive")
    assert len(bred.trials) == 8
    assert [(t.number, t.candidate.digest) for t in naive.trials] == [
        (t.number, t.candidate.digest) for t in bred.trials
    ]
    assert {trial.candidate.generation for trial in naive.trials} == {0}
    for trial in naive.trials:
        (outcome,) = trial.outcomes
        batch_size = spec.plan_of(trial.candidate).schedule.batch_size
        full = ladder_steps(spec.training_stages[-1:], naive.train_examples, batch_size)[-1]
        assert outcome.failure is not None or outcome.cost.optimizer_steps == full


def test_the_default_recipe_is_trial_0_of_all_runs(facts: Facts) -> None:
    for name in ("multi-fidelity", "naive"):
        baseline = read_run(Path(facts["comparison"]) / name)["baseline"]
        assert (baseline["trial"], baseline["operator"]) == (0, "reference")


def test_speed_ups_are_what_naive_took_over_what_the_way_took(facts: Facts) -> None:
    steps = {
        name: sum(trial.cost.optimizer_steps for trial in state_of(Path(row["run"]))[1].trials)
        for name in ("multi-fidelity", "naive")
        for row in [way(facts, name)]
    }
    found, naive = way(facts, "multi-fidelity"), way(facts, "naive")
    assert found["optimizer_steps"] == steps["multi-fidelity"] < steps["naive"]
    assert found["step_speedup"] == steps["naive"] / steps["multi-fidelity"]
    assert found["time_speedup"] == naive["seconds"] / found["seconds"]
    assert (naive["step_speedup"], naive["time_speedup"]) == (1, 1)
    assert facts["theory"]["step_speedup"] == pytest.approx(1 / (0.2 + 0.5 * 0.8))


def test_the_multi_fidelity_ranking_is_by_stage_then_by_value(facts: Facts) -> None:
    order = {None: -1, "short": 0, "long": 1}
    early = [
        (order[t["multi_fidelity_stage"]], t["multi_fidelity"] or 0.0) for t in facts["trials"]
    ]
    full = [t["naive"] or 0.0 for t in facts["trials"]]
    places = [float(sorted(early).index(each)) for each in early]
    assert way(facts, "multi-fidelity")["kendall_tau"] == pytest.approx(kendall_tau(places, full))
    assert {stage for stage, _ in early} == {0, 1}


def test_a_simulated_comparison_says_so_of_all_but_the_time_of_the_simulation(
    facts: Facts,
) -> None:
    assert facts["simulated"]
    assert [(w["way"], w["simulated"], w["clock"]) for w in facts["ways"]] == [
        ("simulation", True, "real"),
        ("multi-fidelity", True, "virtual"),
        ("naive", True, "virtual"),
    ]
    assert way(facts, "simulation")["kendall_tau"] is None


def test_virtual_time_is_that_of_the_workers_asked_for() -> None:
    one, two = compared(execution__workers="1"), compared(execution__workers="2")
    trained = state_of(Path(way(one, "naive")["run"]))[1].ledger.searched.seconds
    assert way(one, "naive")["seconds"] == pytest.approx(trained)
    assert way(two, "naive")["seconds"] < 0.7 * trained


def test_the_facts_are_saved_beside_the_runs(facts: Facts) -> None:
    folder = Path(facts["comparison"])
    assert json.loads((folder / "comparison.json").read_text()) == json.loads(json.dumps(facts))
    runs = {path.name for path in folder.iterdir() if path.is_dir()}
    assert runs == {"multi-fidelity", "naive"}


def test_a_second_comparison_takes_a_folder_of_its_own() -> None:
    assert compared()["comparison"] == "runs/compare-toy-simulated"
    assert compared()["comparison"] == "runs/compare-toy-simulated-2"


class Stopper(SilentWatcher):
    """Stops the comparison in a way, after a number of its events."""

    def __init__(self, way: str, events: int) -> None:
        self.stop, self.events, self.way = way, events, ""

    def on_way(self, name: str) -> None:
        self.way = name

    def on_event(self, event: Event, state: Any) -> None:
        self.events -= self.way == self.stop
        if self.events < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("stopped", "kept"), [("multi-fidelity", 4), ("naive", 5)])
def test_an_interrupted_comparison_goes_on_to_the_same_trials(stopped: str, kept: int) -> None:
    compared("whole")
    with pytest.raises(KeyboardInterrupt):
        compared("cut", Stopper(stopped, 4))
    assert len(state_of(Path("cut") / stopped)[1].outcomes) == kept
    compared("cut")
    for name in ("multi-fidelity", "naive"):
        assert export_trials(Path("cut") / name) == export_trials(Path("whole") / name)
        assert events_in(Path("cut") / name) == events_in(Path("whole") / name)


def events_in(folder: Path) -> int:
    with SqliteRunStore.read_only(folder) as store:
        return len(list(store.events()))


def test_what_is_finished_is_neither_trained_nor_handed_over_again() -> None:
    first = compared("here")
    champions = [Path("here") / name / "champion" for name in ("multi-fidelity", "naive")]
    before = [champion.stat().st_mtime_ns for champion in champions]
    assert compared("here", Stopper("naive", 0)) == first
    assert [champion.stat().st_mtime_ns for champion in champions] == before


def test_a_comparison_of_other_settings_is_refused() -> None:
    compared("here")
    with pytest.raises(RunError, match="must hold a run of these settings"):
        compared("here", seed="1")


def test_the_number_of_workers_may_change_when_a_comparison_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        compared("here", Stopper("multi-fidelity", 3))
    assert compared("here", execution__workers="3")["workers"] == 3


def test_a_naive_run_of_other_genomes_is_refused() -> None:
    compared("here", seed="1")
    other = state_of(Path("here/multi-fidelity"))[1].trials
    source = compose.Source(path=Path("toy.yaml"))
    spec = compose.load(source, {}).spec.without_inheritance()
    spec = comparison.naive_spec(spec, len(other))
    genomes = tuple(replace(trial.candidate, generation=0) for trial in other)
    Path("there").mkdir()
    with compose.backend(spec, (), SilentWatcher()) as used:
        compose.run_in(Path("there/naive"), spec, (), used, SilentWatcher(), genomes)
    with pytest.raises(RunError, match="must hold the genomes of the multi-fidelity run"):
        compared("there")


def test_the_folder_of_a_run_is_refused() -> None:
    facts = compared("here")
    with pytest.raises(RunError, match="it holds a run"):
        compared(way(facts, "naive")["run"])


def test_a_folder_that_is_a_file_is_refused() -> None:
    Path("file").write_text("")
    with pytest.raises(RunError, match="can't be made"):
        compared("file")


def test_two_processes_never_share_a_comparison() -> None:
    compared("here")
    with run_lock(Path("here")), pytest.raises(RunLockedError):
        compared("here")


def test_every_genome_of_a_comparison_starts_cold_though_the_config_starts_warm() -> None:
    folder = Path(compared(warm_start="{mode: crossover, cold_share: 0.0}")["comparison"])
    for name in ("multi-fidelity", "naive"):
        trials = state_of(folder / name)[1].trials
        assert len(trials) == 8
        for trial in trials:
            assert not trial.candidate.legacy
            assert trial.candidate.derivation is None
            steps = sum(outcome.cost.optimizer_steps for outcome in trial.scored)
            assert not trial.scored or trial.scored[-1].cumulative_steps == steps


def test_a_misleading_stage_misleads_the_evolution_and_not_the_naive_run() -> None:
    honest = compared(evolution__generations="1")
    misled = compared(evolution__generations="1", simulation__agreement="{short: -0.9}")
    first, second = ([t["multi_fidelity"] for t in facts["trials"]] for facts in (honest, misled))
    assert first != second
    assert [t["naive"] for t in misled["trials"]] == [t["naive"] for t in honest["trials"]]


def test_nobody_surviving_ends_the_comparison() -> None:
    with pytest.raises(NoSurvivorsError):
        compared(simulation__faults="{nan: 1.0}")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """Workers that say they train and simulate instead; the specs that they were asked for."""
    asked: list[RunSpec] = []

    @contextmanager
    def lend(
        spec: RunSpec, folders: Sequence[Path], observer: Observer
    ) -> Iterator[compose.Backend]:
        asked.append(spec)
        with compose.backend(replace(spec, mode="simulate"), folders, observer) as used:
            yield used

    monkeypatch.setattr(comparison, "backend", lend)
    return asked


def test_a_real_comparison_marks_what_is_simulated(trained: list[RunSpec]) -> None:
    facts = compared(**REAL)
    assert not facts["simulated"]
    assert [(w["way"], w["simulated"], w["clock"]) for w in facts["ways"]] == [
        ("simulation", True, "real"),
        ("multi-fidelity", False, "real"),
        ("naive", False, "real"),
    ]
    assert facts["comparison"] == "runs/compare-toy"
    assert way(facts, "simulation")["run"] == "runs/compare-toy/simulation"
    assert way(facts, "simulation")["step_speedup"] is None


def test_real_workers_are_started_once(trained: list[RunSpec]) -> None:
    compared(**REAL)
    assert [spec.mode for spec in trained].count("real") == 1


def test_a_simulator_that_is_right_about_every_genome_has_a_tau_of_1(
    trained: list[RunSpec],
) -> None:
    facts = compared(**REAL)
    assert way(facts, "simulation")["kendall_tau"] == pytest.approx(1)
    assert [t["simulated"] for t in facts["trials"]] == [t["naive"] for t in facts["trials"]]
    assert facts["simulator"]["regret"] == 0


def test_a_real_comparison_says_beforehand_what_it_will_take(trained: list[RunSpec]) -> None:
    plans = []

    class Reader(SilentWatcher):
        def on_plan(self, plan: Facts) -> None:
            assert not list(Path(plan["comparison"]).glob("*/run.sqlite"))
            plans.append(plan)

    compared(watcher=Reader(), **REAL)
    (plan,) = plans
    early, naive = plan["ways"]
    assert (plan["genomes"], plan["workers"]) == (8, 2)
    assert naive["epochs"] == 8
    assert early["epochs"] == pytest.approx(8 * (0.2 + 0.5 * 0.8))
    assert 0 < early["seconds"] < naive["seconds"]
    assert 0 < early["optimizer_steps"] < naive["optimizer_steps"]


def test_a_missing_profile_is_found_before_anything_is_trained(trained: list[RunSpec]) -> None:
    with pytest.raises(ConfigError, match=r"simulation\.profile"):
        compared(**REAL, simulation__profile="nowhere")
    assert not list(Path().glob("runs/*/multi-fidelity"))
