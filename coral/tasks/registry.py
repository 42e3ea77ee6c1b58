"""Finding plugins, building their tasks, and handing out their strategies.

A folder plugin is a Python package ``<folder>/<name>/__init__.py`` that defines
``TASKS: Mapping[str, TaskFactory]``, or such mappings of strategies (``CURRICULA``, ``SAMPLERS``,
``LOSS_WEIGHTINGS``, ``SELECTIONS``, ``OBJECTIVES``). An installed plugin has an entry point of the
group ``coral.tasks``, or ``coral.curricula`` and so on, that loads such a mapping.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from coral.bundled import bundled_folder
from coral.capabilities import check_capabilities
from coral.errors import CoralError, StrategyError, TaskError
from coral.ports import BUILT_IN, DataContext, Strategies, Task
from coral.records import Direction
from coral.tasks.strategies import (
    GROUPS,
    KINDS,
    ByKind,
    checked_strategies,
    folder_digest,
    installed_digest,
    strategies_in,
)
from coral.tasks.waiting import OverdueError, Result, within

TaskFactory = Callable[..., Task]
"""Makes a task from options given by keyword."""

Suggest = Callable[[str, DataContext, Mapping[str, Any]], tuple[str, Mapping[str, Any]]]
"""Returns the task that some data are for, and its options, given some; else raises TaskError."""

ENTRY_POINT_GROUP = "coral.tasks"

PATIENCE_SECONDS = 60.0
"""Longest that a plugin may take to be imported, or to make a task. It has `load` for long work."""

_GIVEN_UP: dict[str, str] = {}
"""Plugins whose import took too long, by origin, with where it stands: no import is tried twice."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A source of tasks and strategies.

    Attributes:
        origin: its folder, or the distribution that it came with.
        tasks: task name to factory; empty if the plugin is broken.
        strategies: kind of strategy to name to strategy.
        digest: identity of its source, if it has strategies.
        version: of the distribution, or the package's ``__version__``; empty if it has none.
        error: why it can't be imported, in one line.
        suggest: looks at data, if it can do so: the module's ``suggest``.
    """

    name: str
    origin: str
    tasks: Mapping[str, TaskFactory] = field(default_factory=dict)
    strategies: ByKind = field(default_factory=dict)
    digest: str = ""
    version: str = ""
    error: str | None = None
    suggest: Suggest | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.origin})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The plugins that were found, broken ones included."""

    plugins: tuple[Plugin, ...]

    def task_names(self) -> tuple[str, ...]:
        """Return the names of all tasks, sorted."""
        return tuple(sorted({name for plugin in self.plugins for name in plugin.tasks}))

    def strategy_names(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of all strategies by kind, Coral's own first."""
        return {
            kind: (
                *BUILT_IN[kind],
                *sorted({name for p in self.plugins for name in p.strategies.get(kind, ())}),
            )
            for kind in KINDS
        }

    def objective_directions(self) -> Mapping[str, Direction]:
        """Return the names of all objectives, with the direction that is better."""
        return {
            name: objective.direction
            for plugin in self.plugins
            for name, objective in plugin.strategies.get("objectives", {}).items()
        }

    def strategies(self, used: Iterable[tuple[str, str]]) -> Strategies:
        """Return Coral's own strategies and some of plugins, each given by kind and name.

        Raises:
            StrategyError: no plugin or more than one provides it.
        """
        found = {kind: dict(getattr(Strategies(), kind)) for kind in KINDS}
        for kind, name in used:
            found[kind][name] = self._provider(kind, name).strategies[kind][name]
        return Strategies(**found)

    def strategy_digests(self, used: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return ``kind.name`` to identity, of strategies of plugins. Raises as ``strategies``."""
        return {f"{kind}.{name}": self._provider(kind, name).digest for kind, name in used}

    def _provider(self, kind: str, name: str) -> Plugin:
        providers = [plugin for plugin in self.plugins if name in plugin.strategies.get(kind, ())]
        if len(providers) == 1:
            return providers[0]
        if providers:
            raise StrategyError(
                f"{kind}.{name}: exactly one plugin must provide it, got "
                f"{' and '.join(str(plugin) for plugin in providers)}.\n"
                "Rename the strategy in one of them, or remove one."
            )
        known = self.strategy_names()[kind]
        lines = [
            f"{kind}.{name}: no plugin provides it{_did_you_mean(name, known)}.",
            f"Those that exist: {', '.join(known) or 'none'}. Name a folder of plugins with"
            " --plugins.",
        ]
        raise StrategyError("\n".join([*lines, *_broken(self)]))

    def build(self, name: str, options: Mapping[str, Any]) -> Task:
        """Build the task ``name`` with ``options``.

        Raises:
            TaskError: no plugin or more than one has the task.
            TaskError: an option is unknown, missing or refused by the factory, or that takes too
                long.
            TaskError: what the factory returns isn't a task.
        """
        provider = self.provider(name)
        factory = provider.tasks[name]
        parameters = _parameters_of(factory)
        _check_options(name, options, parameters)
        try:
            task = within(PATIENCE_SECONDS, lambda: factory(**options), name)
        except CoralError:
            raise
        except OverdueError as place:
            raise TaskError(
                f"task {name!r}: its factory took longer than {PATIENCE_SECONDS:g} s; it stands in"
                f" {place}.\nCorrect the plugin {provider}: what takes long belongs into load()."
            ) from None
        except (Exception, SystemExit) as error:
            raise TaskError(
                f"task {name!r}: its factory refused the options {dict(options)!r}: "
                f"{type(error).__name__}: {error}.\n"
                f"It takes {_listing(parameters)}; see plugin {provider}."
            ) from error
        _check_task(name, task, provider)
        return task

    def provider(self, name: str) -> Plugin:
        """Return the plugin that has the task ``name``.

        Raises:
            TaskError: none has it, or more than one.
        """
        providers = [plugin for plugin in self.plugins if name in plugin.tasks]
        if not providers:
            raise TaskError(_describe_unknown(name, self))
        if len(providers) > 1:
            raise TaskError(
                f"task {name!r}: exactly one plugin must provide it, got "
                f"{' and '.join(str(plugin) for plugin in providers)}.\n"
                "Rename the task in one of them, or remove one."
            )
        return providers[0]

    def suggest(
        self, data: str, context: DataContext, options: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[str, dict[str, Any]]:
        """Return a task that can be built on somebody's data, and its options.

        Args:
            data: a file, folder, glob, URL or hub id.
            options: that are given.

        Raises:
            TaskError: none can, or it can't be told what is in the data.
        """
        refusals = []
        for plugin in self.plugins:
            try:
                if plugin.suggest is not None:
                    name, options = plugin.suggest(data, context, options)
                    return name, dict(options)
            except TaskError as error:
                refusals.append(error)
            except Exception as error:
                told = described(error, Path(plugin.origin))
                refusals.append(
                    TaskError(f"{data!r}: suggest() raised {told}.\nCorrect the plugin {plugin}.")
                )
        if refusals:
            raise refusals[0]
        raise TaskError(
            f"no plugin can look at {data!r}.\nInstall one that has `suggest`, or write the config"
            " by hand."
        )


def discover(folders: Sequence[Path] = (), *, config_folder: Path | None = None) -> Registry:
    """Find and import plugins.

    A plugin that can't be imported is kept with its error, and the others are unharmed. A folder
    reached twice is one plugin.

    Args:
        folders: folders of plugins, or single plugins, that the user named.
        config_folder: the config's folder, whose ``plugins/`` is searched if it exists.

    Returns:
        The plugins of ``folders``, those beside the config, the bundled ones and the installed
        ones, in this order.

    Raises:
        TaskError: one of ``folders`` isn't a folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise TaskError(
                f"plugin folder {folder}: it must be an existing folder.\n"
                "Correct the path after --plugins, or create the folder."
            )
    beside = [] if config_folder is None else [config_folder / "plugins"]
    roots = [*folders, *beside, bundled_folder("plugins")]
    packages = dict.fromkeys(package for root in roots for package in _packages_in(root.resolve()))
    groups = (ENTRY_POINT_GROUP, *GROUPS)
    points = dict.fromkeys(point for group in groups for point in entry_points(group=group))
    installed = sorted(points, key=lambda point: point.name)
    return Registry(
        plugins=(
            *(_load_folder(package) for package in packages),
            *(_load_entry_point(point) for point in installed),
        )
    )


def entry_points(group: str) -> EntryPoints:
    """Return the entry points of a group."""
    found: EntryPoints = _installed().select(group=group)
    return found


@cache
def _installed() -> Any:  # its type changed with Python 3.12
    """Return all entry points; that reads a file of every installed package, so only once."""
    return metadata.entry_points()


def _packages_in(root: Path) -> Iterator[Path]:
    """Yield ``root`` if it is a package itself, else the packages in it."""
    if (root / "__init__.py").is_file():
        yield root
    elif root.is_dir():
        for child in sorted(root.iterdir()):
            if child.name[0] not in "._" and (child / "__init__.py").is_file():
                yield child.resolve()


def _load_folder(folder: Path) -> Plugin:
    try:
        module = _in_time(str(folder), lambda: _import_package(folder))
        strategies = strategies_in(module)
        tasks = _checked_tasks(getattr(module, "TASKS", {} if strategies else None))
    except (Exception, SystemExit) as error:
        _LOGGER.debug("The plugin %s can't be imported.", folder, exc_info=True)
        return Plugin(name=folder.name, origin=str(folder), error=described(error, folder))
    version = str(getattr(module, "__version__", ""))
    return Plugin(
        name=folder.name,
        origin=str(folder),
        tasks=tasks,
        strategies=strategies,
        digest=folder_digest(folder, version) if strategies else "",
        version=version,
        suggest=getattr(module, "suggest", None),
    )


def _load_entry_point(point: EntryPoint) -> Plugin:
    version = point.dist.version if point.dist else ""
    origin = f"{point.dist.name} {version}" if point.dist else point.value
    kind = GROUPS.get(point.group)
    try:
        if kind is not None:
            return Plugin(
                name=point.name,
                origin=origin,
                strategies={kind: checked_strategies(kind, _in_time(origin, point.load))},
                digest=installed_digest(point, version),
                version=version,
            )
        tasks = _checked_tasks(_in_time(origin, point.load))
        suggest = getattr(sys.modules.get(point.module), "suggest", None)
    except (Exception, SystemExit) as error:
        _LOGGER.debug("The plugin %s can't be imported.", origin, exc_info=True)
        return Plugin(name=point.name, origin=origin, version=version, error=described(error))
    return Plugin(name=point.name, origin=origin, tasks=tasks, version=version, suggest=suggest)


def _in_time(origin: str, load: Callable[[], Result]) -> Result:
    """Import a plugin, unless it takes too long; then it is given up for good.

    Raises:
        TimeoutError: it takes too long, or did so before.
    """
    if origin not in _GIVEN_UP:
        try:
            return within(PATIENCE_SECONDS, load, origin)
        except OverdueError as place:
            _GIVEN_UP[origin] = str(place)
    raise TimeoutError(
        f"its import took longer than {PATIENCE_SECONDS:g} s; it stands in {_GIVEN_UP[origin]}"
    )


def _import_package(folder: Path) -> ModuleType:
    """Import the package in ``folder`` under a name of its own, leaving ``sys.path`` alone.

    The name holds a hash of the path, so that two plugins of the same name can live side by side.
    """
    name = f"coral_plugin_{folder.name}_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} can't be imported as a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for half_imported in [key for key in sys.modules if f"{key}.".startswith(f"{name}.")]:
            del sys.modules[half_imported]
        raise
    return module


def _checked_tasks(tasks: object) -> Mapping[str, TaskFactory]:
    if not isinstance(tasks, Mapping):
        raise TypeError(f"TASKS must be a mapping of task names to factories, got {tasks!r}")
    for name, factory in tasks.items():
        if not isinstance(name, str) or not callable(factory):
            raise TypeError(f"TASKS must map names to factories, got {name!r}: {factory!r}")
    return dict(tasks)


def described(error: BaseException, folder: Path | None = None) -> str:
    """Return one line: the exception and the last line of the plugin's own that led to it."""
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    if folder is None:
        return summary
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    return f"{summary} ({frames[-1].filename}:{frames[-1].lineno})" if frames else summary


def _parameters_of(factory: TaskFactory) -> Mapping[str, inspect.Parameter] | None:
    """Return the options that ``factory`` takes, None if it doesn't tell."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def _check_options(
    task: str, options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter] | None
) -> None:
    if parameters is None:
        return
    for option in options:
        if option not in parameters:
            raise TaskError(
                f"task {task!r}: {option!r} isn't one of its options"
                f"{_did_you_mean(option, parameters)}.\n"
                f"Remove it; the options are {_listing(parameters)}."
            )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise TaskError(
                f"task {task!r}: the option {name!r} is required.\n"
                f"Add it; the options are {_listing(parameters)}."
            )


def _check_task(name: str, task: object, plugin: Plugin) -> None:
    remedy = f"Correct the plugin {plugin}; `coral plugins check {name}` checks a task."
    expected = ("name", "metrics", "primary_metric", "load", "score")
    found = {}
    for attribute in expected:
        try:
            found[attribute] = getattr(task, attribute)
        except AttributeError:
            continue
        except Exception as error:
            raise TaskError(
                f"task {name!r}: its {attribute} raised {described(error, Path(plugin.origin))}."
                f"\n{remedy}"
            ) from error
    missing = [attribute for attribute in expected if attribute not in found]
    if missing:
        raise TaskError(
            f"task {name!r}: its factory must return a coral.ports.Task, got "
            f"{type(task).__name__} without {', '.join(missing)}.\n{remedy}"
        )
    metrics, primary = found["metrics"], found["primary_metric"]
    if not isinstance(metrics, Mapping) or not all(
        isinstance(metric, str) and direction in ("max", "min")
        for metric, direction in metrics.items()
    ):
        raise TaskError(
            f"task {name!r}: metrics must map names to max or min, got {metrics!r}.\n{remedy}"
        )
    if primary not in metrics:
        raise TaskError(
            f"task {name!r}: primary_metric must be one of its metrics ({_listing(metrics)}), "
            f"got {primary!r}.\n{remedy}"
        )
    if not isinstance(found["name"], str) or not found["name"]:
        raise TaskError(f"task {name!r}: its name must be a text, got {found['name']!r}.\n{remedy}")
    try:
        check_capabilities(task)
    except TaskError as error:
        raise TaskError(f"{error}\n{remedy}") from error
    except Exception as error:
        raise TaskError(
            f"task {name!r}: asking what it brings raised {described(error, Path(plugin.origin))}."
            f"\n{remedy}"
        ) from error


def _describe_unknown(name: str, registry: Registry) -> str:
    known = registry.task_names()
    lines = [
        f"task {name!r}: no plugin provides it{_did_you_mean(name, known)}.",
        f"Tasks that exist: {_listing(known)}. Name a folder of plugins with --plugins.",
    ]
    return "\n".join([*lines, *_broken(registry)])


def _broken(registry: Registry) -> list[str]:
    return [
        f"Broken plugin {plugin}: {plugin.error}" for plugin in registry.plugins if plugin.error
    ]


def _did_you_mean(word: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _listing(names: Mapping[str, Any] | Sequence[str] | None) -> str:
    return "any" if names is None else ", ".join(sorted(names)) or "none"
