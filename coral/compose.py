"""Runs from configs: parts are wired together here and in ``backends``, nowhere else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coral import __version__
from coral.backends import (
    FRESH,
    Backend,
    backend,
    expected_agreement,
    plugin_strategies,
    survey_model,
)
from coral.bundled import bundled_folder
from coral.deliver import deliver
from coral.errors import ConfigError, Fault, ModelError, RunError, TaskError
from coral.evolution import EvolutionState
from coral.hub import HubNeed, Standing, out_of_reach
from coral.loop import evolve
from coral.ports import (
    DataContext,
    Observer,
    Ports,
    Progress,
    Survey,
    TrainingJob,
)
from coral.records import Candidate, GenerationStarted, Outcome
from coral.reporting import Facts, forecast, outline, probe_ladder
from coral.retention import RememberedSizes
from coral.settings import FaultRates, RunSpec
from coral.simulation import find_profile
from coral.spec import LoadedConfig, check_survey, dump_spec, load_config
from coral.storage import (
    RunPaths,
    SqliteRunStore,
    cache_location,
    next_free,
    run_lock,
    write_text_durably,
)
from coral.stored_run import OpenRun, facts_of, open_run
from coral.tasks import discover

RUNS = Path("runs")
PROBE_STEPS = 8


class SilentObserver:
    """Watches nothing."""

    def on_event(self, event: Any, state: Any) -> None: ...

    def on_progress(self, progress: Progress) -> None: ...

    def on_notice(self, topic: str, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a config came from.

    Attributes:
        path: the config file.
        plugin_folders: named by the user; ``plugins/`` beside the config is found without.
    """

    path: Path
    plugin_folders: tuple[Path, ...] = ()

    @property
    def folders(self) -> list[Path]:
        """Every plugin folder outside the bundled ones, absolute."""
        beside = self.path.parent / "plugins"
        return [f.resolve() for f in (*self.plugin_folders, *([beside] if beside.is_dir() else []))]


def find_config(name: str) -> Path:
    """Return the path of a config: a file, or the name of a bundled one.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name)
    if path.exists():
        return path
    folder = bundled_folder("config")
    bundled = folder / f"{name}.yaml"
    if bundled.is_file():
        return bundled
    names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
    fault = Fault(
        where=name,
        key="",
        rule="there is no such config file",
        remedy=f"Check the path, or name a bundled config: {names}.",
    )
    raise ConfigError([fault])


def load(source: Source, overrides: Mapping[str, str]) -> LoadedConfig:
    """Read and validate a config.

    Raises:
        ConfigError: with every fault at once.
        StrategyError: two plugins provide the same strategy.
    """
    registry = discover(source.folders)
    config = load_config(source.path, registry, overrides)
    registry.strategies(plugin_strategies(config.spec, registry))
    with _at_line(config, "cache"):
        cache_location(config.spec.cache)
    if config.spec.simulated:
        with _at_line(config, "simulation", "profile"):
            find_profile(config.spec.simulation.profile)
    return config


@contextmanager
def _at_line(config: LoadedConfig, *keys: str) -> Iterator[None]:
    """Let faults of a config's value say in which line it stands."""
    try:
        yield
    except ConfigError as error:
        where = config.document.where(keys)
        key = ".".join(keys)
        raise ConfigError(
            [replace(fault, where=where) if fault.key == key else fault for fault in error.faults]
        ) from error


def start_run(
    config: LoadedConfig, source: Source, observer: Observer, *, force_fresh: bool = False
) -> Facts:
    """Evolve a config from the start, in a folder of its own.

    Args:
        force_fresh: look at no checkpoint there is; the run keeps its own in a place apart.

    Raises:
        CoralError: see ``coral.errors``.
    """
    spec, fresh = config.spec, _new_place() if force_fresh else ""
    with ExitStack() as stack:
        used = stack.enter_context(backend(spec, source.folders, observer, fresh))
        check_survey(config, used.survey)
        for task in used.survey.tasks:
            for note in task.notes:
                observer.on_notice(f"{task.name}: {note}", f"{task.name}: {note}")
        name = f"{spec.name}-simulated" if spec.simulated else spec.name
        folder = claim(Path(spec.output_dir) if spec.output_dir else RUNS / name)
        spec = replace(spec, output_dir=str(folder))
        stack.enter_context(run_lock(folder))
        run = _begun(folder, spec, source.folders, used.survey, stack)
        if force_fresh:
            run.store.set_meta(FRESH, fresh)
        return _go_on(run, used, observer)


def _new_place() -> str:
    return secrets.token_hex(4)


def _begun(
    folder: Path, spec: RunSpec, plugin_folders: Sequence[Path], survey: Survey, stack: ExitStack
) -> OpenRun:
    """Make a run's config and store in its folder; ``stack`` closes the store."""
    write_text_durably(RunPaths(folder).resolved_config, dump_spec(spec))
    meta = {
        "coral_version": __version__,
        "name": spec.name,
        "survey": json.dumps(asdict(survey)),
        "plugin_folders": json.dumps([str(f) for f in plugin_folders]),
        "generations": str(spec.evolution.generations),
        "began_in": str(Path.cwd()),
    }
    store = stack.enter_context(SqliteRunStore.create(folder, meta))
    return OpenRun(
        folder=folder,
        store=store,
        spec=spec,
        survey=survey,
        plugin_folders=tuple(plugin_folders),
    )


def run_in(
    folder: Path,
    spec: RunSpec,
    plugin_folders: Sequence[Path],
    used: Backend,
    observer: Observer,
    candidates: tuple[Candidate, ...] = (),
) -> tuple[Facts, EvolutionState]:
    """Run a spec in a folder on a backend already lent; a run that is there goes on.

    Args:
        candidates: the first generation; none to breed it.

    Raises:
        RunLockedError: another process works on it.
        RunError: the folder holds a run of other settings, model or data.
    """
    folder.mkdir(exist_ok=True)
    spec = replace(spec, output_dir=str(folder))
    with ExitStack() as stack:
        stack.enter_context(run_lock(folder))
        if RunPaths(folder).database.exists():
            run = open_run(folder, stack.enter_context(SqliteRunStore.open(folder)))
            _require_same(run, used.survey)
            _require_same_settings(run, spec)
        else:
            run = _begun(folder, spec, plugin_folders, used.survey, stack)
        state = run.state()
        if candidates and not state.trials and not state.candidates:
            run.store.append(GenerationStarted(generation=0, candidates=candidates))
        if state.confirmation and RunPaths(folder).champion.is_dir():
            return facts_of(run, state, "finished"), state
        return _go_on(run, used, observer), run.state()


def _require_same_settings(run: OpenRun, spec: RunSpec) -> None:
    """Refuse another spec than the run's; where its jobs run decides nothing."""
    if replace(run.spec, execution=spec.execution) != spec:
        raise RunError(
            f"{run.folder} must hold a run of these settings; it holds one of others.\n"
            "Give the settings that it began with, or another folder."
        )


def dry_run(config: LoadedConfig, source: Source, observer: Observer) -> Facts:
    """Check everything that a run needs, time a few steps, and return the plan of the run.

    A simulated run's steps are timed without its faults, and its stages' agreement is added. What
    is on the hub and out of reach is told under ``unchecked``, and everything else is checked.

    Raises:
        CoralError: what ``start_run`` would raise before it trains.
    """
    spec = config.spec
    away = {} if spec.simulated else out_of_reach(spec)
    if away:
        return _checked_offline(config, source, away)
    lucky = replace(spec, simulation=replace(spec.simulation, faults=FaultRates()))
    with backend(lucky, source.folders, observer) as used:
        check_survey(config, used.survey)
        facts = forecast(spec, used.survey, probe(spec, used), used.workers)
    if spec.simulated:
        facts["simulation"]["expected_agreement"] = expected_agreement(spec, source.folders)
    return {**facts, "unchecked": []}


def _checked_offline(
    config: LoadedConfig, source: Source, away: Mapping[HubNeed, Standing]
) -> Facts:
    """Check what is on this machine, and return what can be told of the run.

    Raises:
        TaskError: data that are here can't be read.
        ModelError: a model that is here can't be loaded.
        ConfigError: nothing in it matches the targets or layers.
    """
    spec, registry = config.spec, discover(source.folders)
    missing = {need.key for need in away}
    context = DataContext(cache_dir=cache_location(spec.cache).tasks)
    examples: dict[str, int | None] = {}
    for i, settings in enumerate(spec.tasks):
        task = registry.build(settings.registered, settings.arguments)
        here = f"tasks[{i}].path" not in missing
        examples[task.name] = len(task.load(context).train) if here else None
    if "base_model" not in missing:
        check_survey(config, survey_model(spec))
    unchecked = [
        f"{need.kind} {need.name}, which is on the hub: {found.told}"
        for need, found in away.items()
    ]
    return {**outline(spec, examples), "unchecked": unchecked}


def probe(spec: RunSpec, used: Backend) -> list[Outcome]:
    """Train the default recipe for a few steps on every worker at once, as many as go together.

    Raises:
        RunError: it fails.
    """
    batch_size = spec.training.schedule.batch_size
    ladder = probe_ladder(used.survey.train_examples, batch_size, PROBE_STEPS)
    jobs = [
        TrainingJob(
            key=f"probe {i}",
            trial=i,
            plan=spec.training,
            stage=0,
            stages=ladder,
            seed=spec.seed,
            micro_batch_size=spec.execution.micro_batch_size,
        )
        for i in range(used.workers * used.survey.slots)
    ]
    probes = list(used.executor.run(jobs))
    used.checkpoints.discard({probe.checkpoint for probe in probes if probe.checkpoint})
    for failure in (probe.failure for probe in probes):
        if failure is not None:
            raise RunError(
                f"the default recipe failed within {PROBE_STEPS} steps ({failure.kind}):"
                f" {failure.message}\n{failure.traceback or 'Lower its learning rate.'}"
            )
    return probes


def claim(folder: Path) -> Path:
    """Make the run's folder; a numbered sibling if it is taken.

    Raises:
        RunError: it can't be made.
    """
    while True:
        free = next_free(folder)
        try:
            free.mkdir(parents=True)
            return free
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(
                f"the run's folder {free} can't be made: {error.strerror}.\n"
                "Set output_dir to a folder that you may write in."
            ) from error


def resume_run(
    folder: Path,
    observer: Observer,
    generations: int | None = None,
    *,
    force_fresh: bool = False,
) -> Facts:
    """Go on with a run where it was; with ``generations``, up to that many more.

    Args:
        force_fresh: look at no checkpoint there is, from now on: what is needed is trained again,
            and kept in a place apart.

    Raises:
        RunLockedError: another process works on it.
        RunError: it is not a run, or model, data, simulation profile or strategies are no longer
            those that it began with.
    """
    with ExitStack() as stack:
        stack.enter_context(run_lock(folder))
        store = stack.enter_context(SqliteRunStore.open(folder))
        run = open_run(folder, store)
        if generations is not None:
            total = run.state().generation + generations
            store.set_meta("generations", str(total))
            run = open_run(folder, store)
        fresh = _new_place() if force_fresh else store.meta().get(FRESH, "")
        with _told_where_it_began(store.meta().get("began_in", "")):
            used = stack.enter_context(backend(run.spec, run.plugin_folders, observer, fresh))
        _require_same(run, used.survey)
        if force_fresh:
            store.set_meta(FRESH, fresh)
        return _go_on(run, used, observer)


@contextmanager
def _told_where_it_began(folder: str) -> Iterator[None]:
    """Let what can't be found say that relative paths start elsewhere."""
    try:
        yield
    except (ModelError, TaskError) as error:
        if not folder or Path(folder) == Path.cwd():
            raise
        raise type(error)(
            f"{error}\nThe run began in {folder}: resume it there if its config has relative paths."
        ) from error


def _require_same(run: OpenRun, found: Survey) -> None:
    model, data = "base model", "data"
    if run.spec.simulated:
        model = f"simulation profile {run.spec.simulation.profile}"
        data = "simulation profile of the tasks"
    for what, one, two in (
        (model, run.survey.model_digest, found.model_digest),
        (data, run.survey.data_digest, found.data_digest),
    ):
        if one != two:
            raise RunError(
                f"the run's {what} must be the one that it began with; it has changed since.\n"
                f"Bring back the earlier {what}, or start a new run."
            )
    names = sorted(run.survey.strategies.keys() | found.strategies.keys())
    changed = [n for n in names if run.survey.strategies.get(n) != found.strategies.get(n)]
    if changed:
        raise RunError(
            f"the run's {', '.join(changed)} must be what it was when the run began; the plugin has"
            " changed since.\nBring back the earlier plugin, or start a new run."
        )


def _go_on(run: OpenRun, used: Backend, observer: Observer) -> Facts:
    if used.cheap:
        run.store.sync_rarely()
    run.store.begin_sitting()
    run.store.set_meta("workers", str(used.workers))
    ports = Ports(
        executor=used.executor,
        runs=run.store,
        checkpoints=RememberedSizes(used.checkpoints),
        observer=observer,
        survey=run.survey,
        workers=used.workers,
        strategies=used.strategies,
    )
    state = evolve(run.spec, ports)
    deliver(state, run.spec, ports, RunPaths(run.folder))
    return facts_of(run, state, "finished")
