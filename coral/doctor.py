"""Is this machine ready for a config? ``coral doctor``: as little as possible is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from coral import compose
from coral.backends import pick_devices
from coral.errors import CoralError, ModelError
from coral.genome import IntGene
from coral.hub import HubNeed, Standing, hub_data, hub_needs, model_folder, standing
from coral.model_files import adapter_parameters, parameters_of, weight_shapes
from coral.reporting import BYTES_PER_PARAMETER, Facts
from coral.settings import RunSpec
from coral.spec import locate
from coral.storage import cache_location
from coral.tasks import discover

DISTRIBUTION = "coral-lora"
SHOWN = ("torch", "transformers", "peft", "datasets")
WORKER_BYTES = 420_000_000
"""Of a process that has imported torch, transformers and PEFT, before it loads a model."""
URL = "://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        topic: what was looked at.
        ok: it is as a run needs it.
        told: what was found.
        remedy: what to do where it isn't.
    """

    topic: str
    ok: bool
    told: str
    remedy: str = ""


def examine(
    config: str, overrides: Mapping[str, str], plugin_folders: Sequence[Path] = ()
) -> Facts:
    """Return what a config needs and whether this machine has it, a check each; nothing raises.

    Args:
        config: a YAML file, or the name of a bundled config.
    """
    checks = [*_guarded("python", _python), *_guarded("packages", _packages)]
    spec, folders = None, list(plugin_folders)
    try:
        source = compose.Source(
            path=compose.find_config(config), plugin_folders=tuple(plugin_folders)
        )
        folders = source.folders
        loaded = compose.load(source, overrides)
        spec = loaded.spec
        told = [f"{source.path} is valid", *loaded.notes]
        checks.append(Check(topic="config", ok=True, told="\n".join(told)))
    except CoralError as error:
        checks.append(Check(topic="config", ok=False, told=str(error)))
    checks += _guarded("plugins", lambda: _plugins(folders))
    if spec is not None and spec.simulated:
        told_mode = "simulated: neither model nor data nor workers are needed"
        checks.append(Check(topic="mode", ok=True, told=told_mode))
    elif spec is not None:
        checks += _of_a_real_run(spec)
    ok = all(check.ok for check in checks)
    return {"config": config, "ok": ok, "checks": [asdict(check) for check in checks]}


def _of_a_real_run(spec: RunSpec) -> list[Check]:
    standings = {need: standing(need, spec.cache) for need in hub_needs(spec)}
    shapes: dict[str, tuple[int, ...]] = {}
    checks = _guarded("devices", lambda: _devices(spec))
    checks += _guarded("network", lambda: _network(standings))
    checks += _guarded("model", lambda: _model(spec, standings, shapes))
    checks += _guarded("data", lambda: _data(spec, standings))
    told = [standings[need].parameters for need in standings if need.kind == "model"]
    parameters = parameters_of(shapes) or next(filter(None, told), None)
    checks += _guarded("memory", lambda: _memory(spec, parameters))
    checks += _guarded("disk", lambda: _disk(spec, shapes))
    return checks


def _guarded(topic: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """Make a check that itself fails a line like the others."""
    try:
        return list(look())
    except Exception as error:  # a doctor that dies of what it finds is of no use
        told = f"can't be looked at: {type(error).__name__}: {error}"
        return [Check(topic=topic, ok=False, told=told, remedy="Correct what the message names.")]


def _python() -> Iterator[Check]:
    wanted, _ = _requirements()
    found = ".".join(map(str, sys.version_info[:3]))
    told = f"{found}, {wanted} is needed"
    remedy = "Make the environment with another Python."
    yield Check(topic="python", ok=SpecifierSet(wanted).contains(found), told=told, remedy=remedy)


def _packages() -> Iterator[Check]:
    """Yield a check for each package that is missing or outside its range, one for the others."""
    fitting = {}
    _, requirements = _requirements()
    for requirement in requirements:
        name = requirement.name
        try:
            found = version(name)
        except PackageNotFoundError:
            found = ""
        if found and requirement.specifier.contains(found, prereleases=True):
            fitting[name] = found
            continue
        told = f"{name} {found or 'is not installed'}, {requirement.specifier} is needed"
        yield Check(
            topic="packages", ok=False, told=told, remedy=f"Run: pip install '{requirement}'"
        )
    shown = [f"{name} {fitting[name]}" for name in SHOWN if name in fitting]
    others = len(fitting) - len(shown)
    if fitting:
        told = f"{', '.join(shown)} and {others} more are within their ranges"
        yield Check(topic="packages", ok=True, told=told)


def _requirements() -> tuple[str, list[Requirement]]:
    """Return the range of Python, and the packages that Coral needs: its checkout's, or its own."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return str(table["requires-python"]), list(map(Requirement, table["dependencies"]))
    listed = map(Requirement, requires(DISTRIBUTION) or ())
    needed = [r for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return str(metadata(DISTRIBUTION)["Requires-Python"]), needed


def _plugins(folders: Sequence[Path]) -> Iterator[Check]:
    plugins = discover(folders).plugins
    for plugin in plugins:
        if plugin.error:
            told = f"{plugin} is broken: {plugin.error}"
            remedy = "Correct the plugin, or remove it; runs that need none of its tasks go on."
            yield Check(topic="plugins", ok=False, told=told, remedy=remedy)
    working = [plugin.name for plugin in plugins if not plugin.error]
    if working:
        yield Check(topic="plugins", ok=True, told=", ".join(working))


def _devices(spec: RunSpec) -> Iterator[Check]:
    devices = pick_devices(spec.execution)
    on_gpu = devices[0] != "cpu"
    counted = "worker" if len(devices) == 1 else "workers"
    told = f"{len(devices)} {counted} on {', '.join(dict.fromkeys(devices))}"
    threads = spec.execution.threads_per_worker
    told += f", {threads} thread{'' if threads == 1 else 's'} each"
    blind = on_gpu and "+cpu" in version("torch")
    if blind:
        told += f"; torch {version('torch')} can't use them"
    remedy = "Install torch for CUDA, or set execution.device: cpu."
    yield Check(topic="devices", ok=not blind, told=told, remedy=remedy)
    if spec.execution.load_in_4bit:
        yield _four_bits(on_gpu=on_gpu)


def _four_bits(*, on_gpu: bool) -> Check:
    try:
        told = f"bitsandbytes {version('bitsandbytes')} for load_in_4bit"
        ok = True
    except PackageNotFoundError:
        told, ok = "load_in_4bit needs bitsandbytes, which is not installed", False
    if not on_gpu:
        told += "; on a CPU it is slow"
    return Check(topic="devices", ok=ok, told=told, remedy="Run: pip install bitsandbytes")


def _network(standings: Mapping[HubNeed, Standing]) -> Iterator[Check]:
    """Tell what the network is needed for; what can't be had is a fault of model or data."""
    missing = [need.name for need, found in standings.items() if found.state != "here"]
    told = "not needed"
    if missing:
        told = f"needed for {', '.join(missing)}"
    yield Check(topic="network", ok=True, told=told)


def _model(
    spec: RunSpec, standings: Mapping[HubNeed, Standing], shapes: dict[str, tuple[int, ...]]
) -> Iterator[Check]:
    """Look at the base model; its weights' shapes are entered in ``shapes``."""
    name = spec.base_model
    away = next((found for need, found in standings.items() if need.kind == "model"), None)
    if away is not None and away.state != "here":
        yield _away("model", name, away)
        return
    try:
        folder = locate(name) or model_folder(name)
        assert folder is not None
        shapes.update(weight_shapes(folder))
    except ModelError as error:
        rule, _, remedy = str(error).partition("\n")
        yield Check(topic="model", ok=False, told=rule, remedy=remedy)
        return
    yield Check(
        topic="model", ok=True, told=f"{name}, {parameters_of(shapes):,} parameters, at {folder}"
    )


def _away(topic: str, name: str, found: Standing) -> Check:
    """Return the check of something that isn't on this machine."""
    if found.state == "reachable":
        size = f", {found.parameters:,} parameters" if found.parameters else ""
        return Check(topic=topic, ok=True, told=f"{name}{size}, on the hub; it will be downloaded")
    if found.state == "refused":
        remedy = "Correct the name, or log in with `hf auth login` if it asks for permission."
        return Check(topic=topic, ok=False, told=f"{name}: {found.told}", remedy=remedy)
    return Check(
        topic=topic,
        ok=False,
        told=f"{name} is not on this machine, and the hub can't be reached: {found.told}",
        remedy="Connect to the network once, or name a folder on this machine.",
    )


def _data(spec: RunSpec, standings: Mapping[HubNeed, Standing]) -> Iterator[Check]:
    asked = {need.name: found for need, found in standings.items() if need.kind == "data"}
    for task in spec.tasks:
        path = str(task.options.get("path", ""))
        topic, name = "data", hub_data(path)
        if not path:
            yield Check(topic=topic, ok=True, told=f"{task.name}: from its plugin")
        elif name is not None and asked[name].state != "here":
            yield _away(topic, f"{task.name}: {name}", asked[name])
        elif name is not None:
            yield Check(topic=topic, ok=True, told=f"{task.name}: {name}, read before")
        elif URL in path:
            yield Check(topic=topic, ok=True, told=f"{task.name}: {path}, not looked at")
        else:
            place = Path(path).expanduser()
            anchor = Path(place.anchor)
            there = place.exists() or any(anchor.glob(str(place.relative_to(anchor))))
            told = f"{task.name}: {path}" if there else f"{task.name}: {path} does not exist"
            yield Check(topic=topic, ok=there, told=told, remedy="Correct the path of the task.")


def _memory(spec: RunSpec, parameters: int | None) -> Iterator[Check]:
    """Compare what workers need before they train with what is free."""
    if parameters is None:
        yield Check(topic="memory", ok=True, told="can't be told before the model is here")
        return
    devices = pick_devices(spec.execution)
    weights = parameters * _bytes_per_parameter(spec)
    on_gpu = devices[0] != "cpu"
    own = WORKER_BYTES if on_gpu else WORKER_BYTES + weights
    yield _fits("memory", own, len(devices), _free_memory())
    for device, free in (_gpu_memory() if on_gpu else {}).items():
        workers = devices.count(device)
        if workers:
            yield _fits(f"memory of {device}", weights, workers, free)


def _bytes_per_parameter(spec: RunSpec) -> float:
    if spec.execution.load_in_4bit:
        return 0.5 + 4 / 64  # NF4, and a float32 scale for every 64 weights
    return 2 if spec.execution.precision == "bfloat16" else 4


def _fits(topic: str, each: float, workers: int, free: float) -> Check:
    needed = each * workers
    counted = "1 worker needs" if workers == 1 else f"{workers} workers need"
    told = f"{counted} at least {_size(needed)} before they train, {_size(free)} are free"
    fitting = int(free // each)
    remedy = "Set execution.precision: bfloat16, load_in_4bit: true, or take a smaller model."
    if 0 < fitting < workers:
        remedy = f"Set execution.workers: {fitting}."
    return Check(topic=topic, ok=needed <= free, told=told, remedy=remedy)


def _free_memory() -> float:
    """Return the bytes that this machine can give to new processes."""
    return float(psutil.virtual_memory().available)


def _gpu_memory() -> dict[str, float]:
    """Return the free bytes of each GPU; nothing where its driver doesn't tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(  # noqa: S603 - a fixed command
            query, capture_output=True, text=True, timeout=10, check=True
        ).stdout
        return {f"cuda:{i}": int(line) * 2.0**20 for i, line in enumerate(told.splitlines())}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def _disk(spec: RunSpec, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Check]:
    root = cache_location(spec.cache).root
    if URL in root:
        yield Check(topic="cache", ok=True, told=f"{root}, not looked at")
    else:
        yield _room("cache", Path(root), _checkpoint_bytes(spec, shapes))
    runs = Path(spec.output_dir) if spec.output_dir else compose.RUNS / spec.name
    yield _room("runs", runs.absolute(), 0)


def _checkpoint_bytes(spec: RunSpec, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the most that a run's checkpoints take; 0 where that can't be told."""
    ranks = [gene.high for gene in spec.space.genes if gene.path == "adapter.rank"
             and isinstance(gene, IntGene)]  # fmt: skip
    rank = max([spec.training.adapter.rank, *ranks])
    genomes = spec.evolution.population_size * spec.evolution.generations
    needed = genomes * adapter_parameters(shapes, rank) * BYTES_PER_PARAMETER
    return min(needed, spec.cache_bytes or needed)


def _room(topic: str, folder: Path, needed: int) -> Check:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        key = "cache" if topic == "cache" else "output_dir"
        told = f"{folder} can't be written"
        return Check(topic=topic, ok=False, told=told, remedy=f"Set {key} to another folder.")
    free = _free_bytes(existing)
    told = f"{_size(free)} free at {folder}"
    if needed:
        told = f"up to {_size(needed)} of checkpoints, {told}"
    remedy = "Set cache_bytes to less, or cache to a folder with more room."
    return Check(topic=topic, ok=needed <= free, told=told, remedy=remedy)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
