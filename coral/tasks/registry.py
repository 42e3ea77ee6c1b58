"""Finding task plugins and building their tasks.

A folder plugin is a Python package ``<folder>/<name>/__init__.py`` that defines
``TASKS: Mapping[str, TaskFactory]``. An installed plugin has an entry point of the group
``coral.tasks`` that loads such a mapping.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from coral.bundled import bundled_folder
from coral.errors import CoralError, TaskError
from coral.ports import DataContext, Task

TaskFactory = Callable[..., Task]
"""Makes a task from options given by keyword."""

Suggest = Callable[[str, DataContext], tuple[str, Mapping[str, Any]]]
"""Returns the task that some data are for, and its options; raises TaskError if there is none."""

ENTRY_POINT_GROUP = "coral.tasks"

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A source of tasks.

    Attributes:
        origin: its folder, or the distribution that it came with.
        tasks: task name to factory; empty if the plugin is broken.
        version: of the distribution, or the package's ``__version__``; empty if it has none.
        error: why it can't be imported, in one line.
        suggest: looks at data, if it can do so: the module's ``suggest``.
    """

    name: str
    origin: str
    tasks: Mapping[str, TaskFactory] = field(default_factory=dict)
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

    def build(self, name: str, options: Mapping[str, Any]) -> Task:
        """Build the task ``name`` with ``options``.

        Raises:
            TaskError: no plugin or more than one has the task.
            TaskError: an option is unknown, missing or refused by the factory.
            TaskError: what the factory returns isn't a task.
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
        factory = providers[0].tasks[name]
        parameters = _parameters_of(factory)
        _check_options(name, options, parameters)
        try:
            task = factory(**options)
        except CoralError:
            raise
        except Exception as error:
            raise TaskError(
                f"task {name!r}: its factory refused the options {dict(options)!r}: "
                f"{type(error).__name__}: {error}.\n"
                f"It takes {_listing(parameters)}; see plugin {providers[0]}."
            ) from error
        _check_task(name, task, providers[0])
        return task

    def suggest(self, data: str, context: DataContext) -> tuple[str, dict[str, Any]]:
        """Return a task that can be built on somebody's data, and its options.

        Args:
            data: a file, folder, glob, URL or hub id.

        Raises:
            TaskError: none can, or it can't be told what is in the data.
        """
        refusals = []
        for plugin in self.plugins:
            try:
                if plugin.suggest is not None:
                    name, options = plugin.suggest(data, context)
                    return name, dict(options)
            except TaskError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]
        raise TaskError(
            f"no plugin can look at {data!r}.\nInstall one that has `suggest`, or write the config"
            " by hand."
        )


def discover(folders: Sequence[Path] = (), *, config_folder: Path | None = None) -> Registry:
    """Find and import task plugins.

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
    installed = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return Registry(
        plugins=(
            *(_load_folder(package) for package in packages),
            *(_load_entry_point(point) for point in installed),
        )
    )


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
        module = _import_package(folder)
        tasks = _checked_tasks(getattr(module, "TASKS", None))
    except (Exception, SystemExit) as error:
        _LOGGER.debug("The plugin %s can't be imported.", folder, exc_info=True)
        return Plugin(name=folder.name, origin=str(folder), error=_describe(error, folder))
    version = str(getattr(module, "__version__", ""))
    return Plugin(
        name=folder.name,
        origin=str(folder),
        tasks=tasks,
        version=version,
        suggest=getattr(module, "suggest", None),
    )


def _load_entry_point(point: EntryPoint) -> Plugin:
    version = point.dist.version if point.dist else ""
    origin = f"{point.dist.name} {version}" if point.dist else point.value
    try:
        tasks = _checked_tasks(point.load())
        suggest = getattr(sys.modules.get(point.module), "suggest", None)
    except (Exception, SystemExit) as error:
        _LOGGER.debug("The plugin %s can't be imported.", origin, exc_info=True)
        return Plugin(name=point.name, origin=origin, version=version, error=_describe(error))
    return Plugin(name=point.name, origin=origin, tasks=tasks, version=version, suggest=suggest)


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


def _describe(error: BaseException, folder: Path | None = None) -> str:
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
    expected = ("name", "metrics", "primary_metric", "load", "score")
    missing = [attribute for attribute in expected if not hasattr(task, attribute)]
    if missing:
        raise TaskError(
            f"task {name!r}: its factory must return a coral.ports.Task, got "
            f"{type(task).__name__} without {', '.join(missing)}.\n"
            f"Correct the plugin {plugin}; coral.testing.TaskConformance checks a task."
        )
    metrics, primary = task.metrics, task.primary_metric  # type: ignore[attr-defined]
    if primary not in metrics:
        raise TaskError(
            f"task {name!r}: primary_metric must be one of its metrics ({_listing(metrics)}), "
            f"got {primary!r}.\nCorrect the plugin {plugin}."
        )


def _describe_unknown(name: str, registry: Registry) -> str:
    known = registry.task_names()
    lines = [
        f"task {name!r}: no plugin provides it{_did_you_mean(name, known)}.",
        f"Tasks that exist: {_listing(known)}. Name a folder of plugins with --plugins.",
    ]
    lines += [
        f"Broken plugin {plugin}: {plugin.error}" for plugin in registry.plugins if plugin.error
    ]
    return "\n".join(lines)


def _did_you_mean(word: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _listing(names: Mapping[str, Any] | Sequence[str] | None) -> str:
    return "any" if names is None else ", ".join(sorted(names)) or "none"
