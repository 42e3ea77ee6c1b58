"""Who trains: worker processes with the base model loaded, or a simulation of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coral.capabilities import collating
from coral.errors import ConfigError, Fault
from coral.execution import VirtualExecutor
from coral.ports import (
    BUILT_IN,
    CheckpointStore,
    DataContext,
    Executor,
    Observer,
    Progress,
    Strategies,
    Survey,
)
from coral.settings import ExecutionSettings, RunSpec
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
from coral.spec import targets_of
from coral.storage import CachePaths, FsspecCheckpointStore, cache_location
from coral.strategies import TITLES
from coral.tasks import Registry, discover, task_calls

if TYPE_CHECKING:
    from coral.execution import PoolExecutor


FRESH = "fresh"
"""Key in a run's meta of the place where it keeps checkpoints of its own, if it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Who trains, and what it says of model and data.

    Attributes:
        cheap: what it does costs next to nothing to do again.
        strategies: Coral's own, and those of plugins that the run uses.
    """

    executor: Executor
    survey: Survey
    checkpoints: CheckpointStore
    workers: int
    cheap: bool = False
    strategies: Strategies = field(default_factory=Strategies)


@contextmanager
def backend(
    spec: RunSpec, folders: Sequence[Path], observer: Observer, fresh: str = ""
) -> Iterator[Backend]:
    """Lend running workers with the model loaded, or a simulation of them.

    Args:
        fresh: as in ``checkpoints_at``.
    """
    if spec.simulated:
        if ignored := _without_effect(spec):
            told = f"a simulation knows nothing of {', '.join(ignored)}: without effect here"
            observer.on_notice("strategies", told)
        yield _with_strategies(_simulation(spec, folders, observer), spec, folders)
        return
    checkpoints = FsspecCheckpointStore(checkpoints_at(spec, fresh))
    devices = pick_devices(spec.execution)
    with _workers(spec, folders, observer, devices, fresh) as executor:
        used = Backend(
            executor=executor,
            survey=executor.survey(),
            checkpoints=checkpoints,
            workers=len(devices),
        )
        yield _with_strategies(used, spec, folders)


SIMULATED: Mapping[str, tuple[str, ...]] = {
    "curricula": BUILT_IN["curricula"],
    "samplers": ("uniform",),
    "loss_weightings": ("none",),
}
"""Strategies of training that a simulation knows."""


def plugin_strategies(spec: RunSpec, registry: Registry) -> list[tuple[str, str]]:
    """Return kind and name of the strategies of plugins that a run may use."""
    computed = registry.objective_directions()
    return [
        *((kind, name) for kind, name in spec.strategies if name not in BUILT_IN[kind]),
        *(("objectives", o.metric) for o in spec.objectives if o.metric in computed),
    ]


def _with_strategies(used: Backend, spec: RunSpec, folders: Sequence[Path]) -> Backend:
    """Return a backend with the run's strategies.

    The survey says what they are, so that a run knows when one has changed. A selection may: what
    it picked so far is stored.
    """
    registry = discover(folders)
    plugins = plugin_strategies(spec, registry)
    deciding = [(kind, name) for kind, name in plugins if kind != "selections"]
    return replace(
        used,
        strategies=registry.strategies(plugins),
        survey=replace(used.survey, strategies=registry.strategy_digests(deciding)),
    )


def _without_effect(spec: RunSpec) -> list[str]:
    return [
        f"{TITLES[kind]} {name}"
        for kind, name in spec.strategies
        if kind in SIMULATED and name not in SIMULATED[kind]
    ]


def checkpoints_at(spec: RunSpec, fresh: str = "") -> str:
    """Return the location of a run's checkpoints.

    Args:
        fresh: name of the place where the run keeps its own, apart from all others; empty for the
            one that runs share.
    """
    cache = cache_location(spec.cache)
    return cache.fresh(fresh) if fresh else cache.checkpoints


def build_trainer(
    payload: Mapping[str, Any], *, device: str, report: Callable[[Progress], None]
) -> Any:
    """Build a worker's trainer; the base model and the data are loaded here.

    Args:
        payload: as ``trainer_payload`` makes it.
    """
    import torch

    from coral.training.base import hush, load_base, load_processor
    from coral.training.data import LoadedTask
    from coral.training.prefix import Prefixes
    from coral.training.trainer import LoraTrainer

    hush()  # before tasks bring libraries that make bars
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cache = CachePaths(payload["cache_root"])
    registry: Registry = discover([Path(folder) for folder in payload["plugin_folders"]])
    tasks = {}
    for name, options in payload["tasks"]:
        calls = task_calls(registry, name, options, payload["task_timeout_seconds"])
        data = calls.load(DataContext(cache_dir=cache.tasks))
        tasks[calls.task.name] = LoadedTask(
            task=calls.task,
            data=data,
            plugin=str(calls.plugin),
            difficulty=calls.difficulty(data.train),
            domains=calls.domains(data.train),
        )
    base = load_base(
        payload["base_model"],
        device=device,
        trust_remote_code=payload["trust_remote_code"],
        causal=any(loaded.data.causal is not None for loaded in tasks.values()),
        precision=payload["precision"],
        gradient_checkpointing=payload["gradient_checkpointing"],
        load_in_4bit=payload["load_in_4bit"],
    )
    processor = None
    if any(collating(loaded.task) is not None for loaded in tasks.values()):
        processor = load_processor(
            payload["base_model"], trust_remote_code=payload["trust_remote_code"]
        )
    prefixes = None
    if payload["share_prefixes"]:
        prefixes = Prefixes(
            base, cache.prefixes, payload["prefix_bytes"], payload["prefix_precision"]
        )
    checkpoints = FsspecCheckpointStore(payload["checkpoints"])
    return LoraTrainer(
        base,
        tasks,
        checkpoints,
        report,
        prefixes,
        slots=payload["slots"],
        remembered=cache.slots,
        tokens=cache.tokens,
        strategies=registry.strategies((kind, name) for kind, name in payload["strategies"]),
        abstains=payload["abstains"],
        processor=processor,
    )


def survey_model(spec: RunSpec) -> Survey:
    """Return what the base model alone tells; it is loaded in this process, for the moment."""
    from coral.training.base import load_base

    base = load_base(
        spec.base_model, device="cpu", trust_remote_code=spec.execution.trust_remote_code
    )
    return Survey(
        model_digest=base.digest,
        data_digest="",
        depth=base.depth,
        linear_modules=base.linear_modules,
        tasks=(),
        device="cpu",
        mean_tokens=0.0,
        max_tokens=base.max_tokens,
    )


def trainer_payload(spec: RunSpec, folders: Sequence[Path], fresh: str = "") -> dict[str, Any]:
    """Return what ``build_trainer`` needs, as plain values.

    Args:
        fresh: as in ``checkpoints_at``.
    """
    return {
        "base_model": spec.base_model,
        "tasks": [[task.registered, task.arguments] for task in spec.tasks],
        "plugin_folders": [str(folder) for folder in folders],
        "cache_root": cache_location(spec.cache).root,
        "checkpoints": checkpoints_at(spec, fresh),
        "trust_remote_code": spec.execution.trust_remote_code,
        "precision": spec.execution.precision,
        "gradient_checkpointing": spec.execution.gradient_checkpointing,
        "load_in_4bit": spec.execution.load_in_4bit,
        "share_prefixes": spec.execution.share_prefixes,
        "prefix_precision": spec.execution.prefix_precision,
        "prefix_bytes": spec.prefix_bytes,
        "slots": spec.execution.slots,
        "task_timeout_seconds": spec.execution.task_timeout_seconds,
        "strategies": [
            [kind, name]
            for kind, name in spec.strategies
            if kind in SIMULATED and name not in BUILT_IN[kind]
        ],
        "abstains": spec.space.abstains,
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


def _workers(
    spec: RunSpec,
    folders: Sequence[Path],
    observer: Observer,
    devices: Sequence[str],
    fresh: str,
) -> PoolExecutor:
    # Brings multiprocessing, which a simulation never needs.
    from coral.execution import PoolExecutor

    return PoolExecutor(
        "coral.backends:build_trainer",
        trainer_payload(spec, folders, fresh),
        workers=len(devices),
        devices=list(dict.fromkeys(devices)),
        threads_per_worker=spec.execution.threads_per_worker,
        trial_timeout_seconds=spec.execution.trial_timeout_seconds,
        retries=spec.execution.retries,
        slots=spec.execution.slots,
        on_progress=observer.on_progress,
        preload=["coral.training.trainer"],
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
        task = registry.build(settings.registered, settings.arguments)
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
        shares_prefixes=spec.execution.share_prefixes,
        prefix_feature_bytes=spec.execution.prefix_feature_bytes,
        abstains=spec.space.abstains,
    )
    return World(
        profile=replace(profile, tasks=tasks),
        survey=survey,
        settings=spec.simulation,
        seed=spec.seed,
        abstains=spec.space.abstains,
    )
