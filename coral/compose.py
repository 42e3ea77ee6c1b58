"""The only place where parts are wired together: configs to specs, specs to ports."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coral import __version__
from coral.bundled import bundled_folder
from coral.deliver import deliver
from coral.errors import ConfigError, Fault, RunError
from coral.evolution import EvolutionState
from coral.execution import VirtualExecutor
from coral.loop import evolve
from coral.ports import (
    CheckpointStore,
    DataContext,
    Executor,
    Observer,
    Ports,
    Progress,
    Survey,
    TrainingJob,
)
from coral.records import Candidate, GenerationStarted, Outcome
from coral.reporting import Facts, forecast, probe_ladder
from coral.settings import ExecutionSettings, FaultRates, RunSpec
from coral.simulation import (
    Agreement,
    Pull,
    SimulatedTrainer,
    TaskRequest,
    WeightsInAddresses,
    World,
    find_profile,
    measure_agreement,
    read_profile,
    read_task_profile,
    simulated_survey,
    task_profiles,
)
from coral.spec import LoadedConfig, check_survey, dump_spec, load_config, targets_of
from coral.storage import (
    CachePaths,
    DirectoryCheckpointStore,
    RunPaths,
    SqliteRunStore,
    cache_root,
    next_free,
    run_lock,
    write_text_durably,
)
from coral.stored_run import OpenRun, facts_of, open_run
from coral.tasks import Registry, discover

if TYPE_CHECKING:
    from coral.execution import PoolExecutor

RUNS = Path("runs")
PROBE_STEPS = 8


class SilentObserver:
    """Watches nothing."""

    def on_event(self, event: Any, state: Any) -> None: ...

    def on_progress(self, progress: Progress) -> None: ...


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
    """
    config = load_config(source.path, discover(source.folders), overrides)
    if config.spec.simulated:
        _require_profile(config)
    return config


def _require_profile(config: LoadedConfig) -> None:
    """Say in which line a config names a profile that does not exist."""
    try:
        find_profile(config.spec.simulation.profile)
    except ConfigError as error:
        where = config.document.where(("simulation", "profile"))
        raise ConfigError([replace(fault, where=where) for fault in error.faults]) from error


def build_trainer(
    payload: Mapping[str, Any], *, device: str, report: Callable[[Progress], None]
) -> Any:
    """Build a worker's trainer; the base model and the data are loaded here.

    Args:
        payload: as ``trainer_payload`` makes it.
    """
    import torch

    from coral.training.base import load_base
    from coral.training.data import LoadedTask
    from coral.training.trainer import LoraTrainer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cache = CachePaths(Path(payload["cache_root"]))
    registry: Registry = discover([Path(folder) for folder in payload["plugin_folders"]])
    tasks = {}
    for name, options in payload["tasks"]:
        task = registry.build(name, options)
        tasks[name] = LoadedTask(task=task, data=task.load(DataContext(cache_dir=cache.tasks)))
    base = load_base(
        payload["base_model"], device=device, trust_remote_code=payload["trust_remote_code"]
    )
    return LoraTrainer(base, tasks, DirectoryCheckpointStore(cache.checkpoints), report)


def trainer_payload(spec: RunSpec, folders: Sequence[Path]) -> dict[str, Any]:
    """Return what ``build_trainer`` needs, as plain values."""
    return {
        "base_model": spec.base_model,
        "tasks": [[task.name, dict(task.options)] for task in spec.tasks],
        "plugin_folders": [str(folder) for folder in folders],
        "cache_root": str(cache_root().resolve()),
        "trust_remote_code": spec.execution.trust_remote_code,
    }


def pick_devices(settings: ExecutionSettings) -> list[str]:
    """Return one device a worker: each GPU once, or ``cpu`` for each core.

    GPUs are counted without importing torch, so that the parent process stays small.
    """
    gpus = [] if settings.device == "cpu" else _visible_gpus()
    if settings.device == "cuda" and not gpus:
        fault = Fault(
            where="execution.device",
            key="execution.device",
            rule="cuda needs a GPU that this process can see; there is none",
            remedy="Use `device: cpu` or `auto`.",
        )
        raise ConfigError([fault])
    available = gpus or ["cpu"] * len(_cores())
    if settings.workers == "auto":
        return available
    return [available[i % len(available)] for i in range(settings.workers)]


def _visible_gpus() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [f"cuda:{i}" for i, name in enumerate(listed.split(",")) if name.strip("- ")]
    return [f"cuda:{i}" for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Who trains, and what it says of model and data.

    Attributes:
        cheap: what it does costs next to nothing to do again.
    """

    executor: Executor
    survey: Survey
    checkpoints: CheckpointStore
    workers: int
    cheap: bool = False


@contextmanager
def backend(spec: RunSpec, folders: Sequence[Path], observer: Observer) -> Iterator[Backend]:
    """Lend running workers with the model loaded, or a simulation of them."""
    with ExitStack() as stack:
        if spec.simulated:
            yield _simulation(spec, folders, observer)
            return
        devices = pick_devices(spec.execution)
        executor = stack.enter_context(_workers(spec, folders, observer, devices))
        yield Backend(
            executor=executor,
            survey=executor.survey(),
            checkpoints=DirectoryCheckpointStore(CachePaths(cache_root()).checkpoints),
            workers=len(devices),
        )


def _workers(
    spec: RunSpec, folders: Sequence[Path], observer: Observer, devices: Sequence[str]
) -> PoolExecutor:
    from coral.execution import (
        PoolExecutor,
    )  # brings multiprocessing, which a simulation never needs

    return PoolExecutor(
        "coral.compose:build_trainer",
        trainer_payload(spec, folders),
        workers=len(devices),
        devices=list(dict.fromkeys(devices)),
        threads_per_worker=spec.execution.threads_per_worker,
        trial_timeout_seconds=spec.execution.trial_timeout_seconds,
        retries=spec.execution.retries,
        on_progress=observer.on_progress,
    )


def _simulation(spec: RunSpec, folders: Sequence[Path], observer: Observer) -> Backend:
    """Return virtual workers around a simulated trainer; nothing is loaded.

    Raises:
        ConfigError: the profile is missing or has faults.
    """
    world = simulated_world(spec, discover(folders))
    pull = _agreement(spec, world)[1] if spec.simulation.agreement else None
    # A config for GPUs is simulated without one.
    virtual = len(pick_devices(replace(spec.execution, device="auto")))
    trainer = SimulatedTrainer(world, pull)
    return Backend(
        executor=VirtualExecutor(
            trainer, virtual, observer.on_progress, retries=spec.execution.retries
        ),
        survey=world.survey,
        checkpoints=WeightsInAddresses(),
        workers=virtual,
        cheap=True,
    )


def _agreement(spec: RunSpec, world: World) -> tuple[Agreement, Pull]:
    """Return how stages agree with the last, and the pull towards what the config wants."""
    measured = measure_agreement(world, spec.space, spec.training_stages, spec.seed)
    names = [stage.name for stage in spec.training_stages]
    wanted = {names.index(name): tau for name, tau in spec.simulation.agreement.items()}
    return measured, measured.pull(wanted)


def expected_agreement(spec: RunSpec, folders: Sequence[Path]) -> dict[str, float | None]:
    """Return the Kendall tau of each stage's ranking with the last one's, by its name.

    Over the search space, without prune rules; None where nothing differs.
    """
    measured, pull = _agreement(spec, simulated_world(spec, discover(folders)))
    found = [measured.tau(i, strength) for i, strength in enumerate(pull.strength[:-1])]
    stages = spec.training_stages[:-1]
    return {
        stage.name: None if math.isnan(tau) else tau
        for stage, tau in zip(stages, found, strict=True)
    }


def simulated_world(spec: RunSpec, registry: Registry) -> World:
    """Return what the simulation of a run believes.

    Raises:
        ConfigError: the profile, or the one that a task's plugin ships, is missing or has faults.
    """
    profile = read_profile(find_profile(spec.simulation.profile))
    requests = []
    for settings in spec.tasks:
        task = registry.build(settings.name, settings.options)
        shipped = getattr(task, "simulation_profile", None)
        requests.append(
            TaskRequest(
                name=task.name,
                metrics=task.metrics,
                primary_metric=task.primary_metric,
                options=settings.options,
                profile=None if shipped is None else read_task_profile(Path(shipped)),
            )
        )
    tasks = task_profiles(profile, requests)
    survey = simulated_survey(
        profile,
        tasks,
        targets=targets_of(spec.space),
        settings=asdict(spec.simulation),
    )
    return World(profile=replace(profile, tasks=tasks), survey=survey, settings=spec.simulation)


def start_run(config: LoadedConfig, source: Source, observer: Observer) -> Facts:
    """Evolve a config from the start, in a folder of its own.

    Raises:
        CoralError: see ``coral.errors``.
    """
    spec = config.spec
    with ExitStack() as stack:
        used = stack.enter_context(backend(spec, source.folders, observer))
        check_survey(config, used.survey)
        name = f"{spec.name}-simulated" if spec.simulated else spec.name
        folder = claim(Path(spec.output_dir) if spec.output_dir else RUNS / name)
        spec = replace(spec, output_dir=str(folder))
        stack.enter_context(run_lock(folder))
        return _go_on(_begun(folder, spec, source.folders, used.survey, stack), used, observer)


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

    A simulated run's steps are timed without its faults, and its stages' agreement is added.

    Raises:
        CoralError: what ``start_run`` would raise before it trains.
    """
    spec = config.spec
    lucky = replace(spec, simulation=replace(spec.simulation, faults=FaultRates()))
    with backend(lucky, source.folders, observer) as used:
        check_survey(config, used.survey)
        facts = forecast(spec, used.survey, probe(spec, used), used.workers)
    if spec.simulated:
        facts["simulation"]["expected_agreement"] = expected_agreement(spec, source.folders)
    return facts


def probe(spec: RunSpec, used: Backend) -> list[Outcome]:
    """Train the default recipe for a few steps on every worker at once.

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
        for i in range(used.workers)
    ]
    probes = list(used.executor.run(jobs))
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


def resume_run(folder: Path, observer: Observer, generations: int | None = None) -> Facts:
    """Go on with a run where it was; with ``generations``, up to that many more.

    Raises:
        RunLockedError: another process works on it.
        RunError: it is not a run, or model, data or simulation profile are no longer those that it
            began with.
    """
    with ExitStack() as stack:
        stack.enter_context(run_lock(folder))
        store = stack.enter_context(SqliteRunStore.open(folder))
        run = open_run(folder, store)
        if generations is not None:
            total = run.state().generation + generations
            store.set_meta("generations", str(total))
            run = open_run(folder, store)
        used = stack.enter_context(backend(run.spec, run.plugin_folders, observer))
        _require_same(run, used.survey)
        return _go_on(run, used, observer)


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


def _go_on(run: OpenRun, used: Backend, observer: Observer) -> Facts:
    if used.cheap:
        run.store.sync_rarely()
    run.store.begin_sitting()
    run.store.set_meta("workers", str(used.workers))
    ports = Ports(
        executor=used.executor,
        runs=run.store,
        checkpoints=used.checkpoints,
        observer=observer,
        survey=run.survey,
    )
    state = evolve(run.spec, ports)
    deliver(state, run.spec, ports, RunPaths(run.folder))
    return facts_of(run, state, "finished")
