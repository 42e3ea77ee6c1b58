"""One population three ways: simulated, trained over the ladder, and trained in full.

Multi-fidelity is the config's own evolution. Naive takes the genomes that it bred and trains every
one of them from scratch to the last stage's budget. The simulation is the same evolution without
training; the simulator then also ranks the genomes that were really trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from coral.backends import Backend, backend
from coral.compose import RUNS, SilentObserver, Source, claim, probe, run_in
from coral.errors import RunError
from coral.evolution import EvolutionState
from coral.fidelity import PruneSettings, ladder_share
from coral.ports import Observer
from coral.records import Candidate, Outcome
from coral.reporting import Facts, Way, as_json, comparison_facts, forecast
from coral.reporting.comparison import WayName
from coral.settings import BudgetSettings, RunSpec
from coral.spec import LoadedConfig, check_survey
from coral.storage import RunPaths, run_lock, write_text_durably
from coral.work import job_of, work_of

RESULT = "comparison.json"
"""Name of the facts' file in a comparison's folder."""


class Watcher(Observer, Protocol):
    """Watches a comparison, and every run in it."""

    def on_plan(self, plan: Facts) -> None:
        """Hear what will be trained, once it is known and before it begins."""
        ...

    def on_way(self, name: WayName) -> None:
        """Hear which run the events that follow belong to."""
        ...


class SilentWatcher(SilentObserver):
    """Watches nothing."""

    def on_plan(self, plan: Facts) -> None: ...

    def on_way(self, name: WayName) -> None: ...


def compare(
    config: LoadedConfig, source: Source, watcher: Watcher, folder: Path | None = None
) -> Facts:
    """Run a config's population three ways and return what each took and found.

    The facts are saved as ``comparison.json`` beside the three runs.

    Args:
        folder: of the comparison; one that was interrupted goes on. None takes a new one,
            ``runs/compare-<name>``.

    Raises:
        ConfigError: the config or the simulation's profile has faults.
        NoSurvivorsError: no trial of a first generation survived.
        RunError: the folder holds something else, or a comparison of other settings.
        RunLockedError: another process works on it.
    """
    spec, folders = config.spec.without_inheritance(), source.folders
    with ExitStack() as stack:
        used = stack.enter_context(backend(spec, folders, watcher))
        check_survey(config, used.survey)
        probes = [] if spec.simulated else probe(spec, used)
        folder = _folder(folder, spec)
        stack.enter_context(run_lock(folder))
        watcher.on_plan(plan_facts(spec, used, probes, folder))

        def way(name: WayName, spec: RunSpec, used: Backend, genomes: Genomes = ()) -> Way:
            watcher.on_way(name)
            facts, state = run_in(folder / name, spec, folders, used, watcher, genomes)
            return Way(name=name, facts=facts, trials=state.trials)

        simulation = None
        if not spec.simulated:  # first, so that faults of a profile are found before any training
            simulated = replace(spec, mode="simulate")
            with backend(simulated, folders, watcher) as simulator:
                check_survey(config, simulator.survey)
                simulation = way("simulation", simulated, simulator)
        multi_fidelity = way("multi-fidelity", spec, used)
        genomes = all_at_once(multi_fidelity)
        full = naive_spec(spec, len(genomes))
        if spec.simulated:  # a simulation knows the ladder that it is made for
            used = stack.enter_context(backend(full, folders, watcher))
        naive = way("naive", full, used, genomes)
        _require_same_genomes(naive, genomes)
        facts = comparison_facts(
            spec,
            folder,
            simulation=simulation or replace(multi_fidelity, name="simulation"),
            multi_fidelity=multi_fidelity,
            naive=naive,
            simulated=None if spec.simulated else simulate(genomes, full, folders),
        )
        write_text_durably(folder / RESULT, as_json(facts) + "\n")
    return facts


Genomes = tuple[Candidate, ...]


def _folder(folder: Path | None, spec: RunSpec) -> Path:
    """Return the comparison's folder, which exists."""
    if folder is None:
        return claim(RUNS / f"compare-{spec.name}{'-simulated' if spec.simulated else ''}")
    if RunPaths(folder).database.exists():
        raise RunError(
            f"{folder} must be a comparison's folder, or a new one; it holds a run.\n"
            "Name another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the comparison's folder {folder} can't be made: {error.strerror}.\n"
            "Name a folder that you may write in."
        ) from error
    return folder


def all_at_once(run: Way) -> Genomes:
    """Return the candidates of a whole run as one first generation, under their own numbers."""
    return tuple(replace(trial.candidate, generation=0, shares=None) for trial in run.trials)


def naive_spec(spec: RunSpec, genomes: int) -> RunSpec:
    """Return the spec that trains ``genomes`` from scratch, straight to the last stage's budget.

    The horizon of the schedules and the data are those of the last stage.
    """
    return replace(
        spec,
        name=f"{spec.name}-naive",
        evolution=replace(spec.evolution, population_size=max(2, genomes), generations=1),
        training_stages=spec.training_stages[-1:],
        prune=PruneSettings(rules=(), audit_fraction=0.0),
        budget=BudgetSettings(),
        simulation=replace(spec.simulation, agreement={}),
    )


def _require_same_genomes(naive: Way, genomes: Genomes) -> None:
    trained = [trial.candidate.digest for trial in naive.trials]
    if trained != [candidate.digest for candidate in genomes]:
        raise RunError(
            f"{naive.facts['run']} must hold the genomes of the multi-fidelity run beside it;"
            " it holds others.\nRemove it to train them again, or compare in another folder."
        )


def simulate(genomes: Genomes, spec: RunSpec, plugin_folders: Sequence[Path]) -> list[Outcome]:
    """Return what the simulator makes of genomes under a one-stage spec, in their order."""
    simulated = replace(spec, mode="simulate")
    with backend(simulated, plugin_folders, SilentObserver()) as used:
        state = EvolutionState(train_examples=used.survey.train_examples)
        works = [work_of(genome, state, simulated, used.survey) for genome in genomes]
        jobs = [job_of(work, 0, simulated) for work in works]
        outcomes = {outcome.key: outcome for outcome in used.executor.run(jobs)}
    return [outcomes[job.key] for job in jobs]


def plan_facts(spec: RunSpec, used: Backend, probes: Sequence[Outcome], folder: Path) -> Facts:
    """Return what a comparison will train, and about how long that takes.

    Args:
        probes: timed steps of the default recipe; none for no estimate of time.
    """
    genomes = spec.evolution.population_size * spec.evolution.generations
    full = naive_spec(spec, genomes)
    return {
        "comparison": str(folder),
        "config": spec.name,
        "simulated": spec.simulated,
        "profile": spec.simulation.profile,
        "genomes": genomes,
        "workers": used.workers,
        "device": used.survey.device,
        "ways": [
            _expected("multi-fidelity", spec, used, probes),
            _expected("naive", full, used, probes),
        ],
    }


def _expected(name: WayName, spec: RunSpec, used: Backend, probes: Sequence[Outcome]) -> Facts:
    """Return the most that a way takes: nothing is pruned by a rule."""
    population, generations = spec.evolution.population_size, spec.evolution.generations
    share = ladder_share(spec.training_stages, population)
    timed = forecast(spec, used.survey, probes, used.workers) if probes else None
    return {
        "way": name,
        "epochs": share * population * generations * spec.training_stages[-1].epoch_budget,
        "optimizer_steps": None if timed is None else timed["optimizer_steps"],
        "seconds": None if timed is None else timed["wall_seconds"],
    }
