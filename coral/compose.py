"""The only place where parts are wired together: configs to specs, specs to ports."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coral import __version__
from coral.bundled import bundled_folder
from coral.deliver import deliver
from coral.errors import ConfigError, Fault, RunError
from coral.execution import PoolExecutor
from coral.loop import evolve
from coral.ports import (
    DataContext,
    Observer,
    Ports,
    Progress,
    Survey,
    TrainingJob,
)
from coral.reporting import Facts, forecast, probe_ladder
from coral.settings import ExecutionSettings, RunSpec
from coral.spec import LoadedConfig, check_survey, dump_spec, load_config
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
    return load_config(source.path, discover(source.folders), overrides)


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


@contextmanager
def workers(
    spec: RunSpec, folders: Sequence[Path], observer: Observer
) -> Iterator[tuple[PoolExecutor, Survey]]:
    """Lend running workers with the model loaded, and what they found."""
    devices = pick_devices(spec.execution)
    with PoolExecutor(
        "coral.compose:build_trainer",
        trainer_payload(spec, folders),
        workers=len(devices),
        devices=list(dict.fromkeys(devices)),
        threads_per_worker=spec.execution.threads_per_worker,
        trial_timeout_seconds=spec.execution.trial_timeout_seconds,
        retries=spec.execution.retries,
        on_progress=observer.on_progress,
    ) as executor:
        yield executor, executor.survey()


def start_run(config: LoadedConfig, source: Source, observer: Observer) -> Facts:
    """Evolve a config from the start, in a folder of its own.

    Raises:
        CoralError: see ``coral.errors``.
    """
    spec = config.spec
    with ExitStack() as stack:
        executor, survey = stack.enter_context(workers(spec, source.folders, observer))
        check_survey(config, survey)
        folder = _claim(Path(spec.output_dir) if spec.output_dir else RUNS / spec.name)
        spec = replace(spec, output_dir=str(folder))
        stack.enter_context(run_lock(folder))
        write_text_durably(RunPaths(folder).resolved_config, dump_spec(spec))
        meta = {
            "coral_version": __version__,
            "name": spec.name,
            "survey": json.dumps(asdict(survey)),
            "plugin_folders": json.dumps([str(f) for f in source.folders]),
            "generations": str(spec.evolution.generations),
        }
        store = stack.enter_context(SqliteRunStore.create(folder, meta))
        run = OpenRun(
            folder=folder,
            store=store,
            spec=spec,
            survey=survey,
            plugin_folders=tuple(source.folders),
        )
        return _go_on(run, executor, observer)


def dry_run(config: LoadedConfig, source: Source, observer: Observer) -> Facts:
    """Check everything that a run needs, time a few steps, and return the plan of the run.

    Raises:
        CoralError: what ``start_run`` would raise before it trains.
    """
    spec = config.spec
    with workers(spec, source.folders, observer) as (executor, survey):
        check_survey(config, survey)
        count = len(pick_devices(spec.execution))
        ladder = probe_ladder(survey.train_examples, spec.training.schedule.batch_size, PROBE_STEPS)
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
            for i in range(count)
        ]
        probes = list(executor.run(jobs))
        for failure in (probe.failure for probe in probes):
            if failure is not None:
                raise RunError(
                    f"the default recipe failed within {PROBE_STEPS} steps ({failure.kind}):"
                    f" {failure.message}\n{failure.traceback or 'Lower its learning rate.'}"
                )
        return forecast(spec, survey, probes, count)


def _claim(folder: Path) -> Path:
    """Make the run's folder; a numbered sibling if it is taken."""
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
        RunError: it is not a run, or model or data are no longer those it began with.
    """
    with ExitStack() as stack:
        stack.enter_context(run_lock(folder))
        store = stack.enter_context(SqliteRunStore.open(folder))
        run = open_run(folder, store)
        if generations is not None:
            total = run.state().generation + generations
            store.set_meta("generations", str(total))
            run = open_run(folder, store)
        executor, survey = stack.enter_context(workers(run.spec, run.plugin_folders, observer))
        _require_same(run.survey, survey)
        return _go_on(run, executor, observer)


def _require_same(recorded: Survey, found: Survey) -> None:
    for what, one, two in (
        ("base model", recorded.model_digest, found.model_digest),
        ("data", recorded.data_digest, found.data_digest),
    ):
        if one != two:
            raise RunError(
                f"the run's {what} must be the one that it began with; it has changed since.\n"
                f"Bring back the earlier {what}, or start a new run."
            )


def _go_on(run: OpenRun, executor: PoolExecutor, observer: Observer) -> Facts:
    run.store.begin_sitting()
    ports = Ports(
        executor=executor,
        runs=run.store,
        checkpoints=DirectoryCheckpointStore(CachePaths(cache_root()).checkpoints),
        observer=observer,
        survey=run.survey,
    )
    state = evolve(run.spec, ports)
    deliver(state, run.spec, ports, RunPaths(run.folder))
    return facts_of(run, state, "finished")
