"""For authors of task plugins: a first plugin that works, and checks of one."""

from __future__ import annotations

import csv
import importlib.util
import io
import keyword
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

from coral.errors import TaskError
from coral.reporting import Facts
from coral.starter import default_model
from coral.storage import write_text_durably
from coral.tasks import Plugin, Registry, discover
from coral.testing.subject import Source, Subject
from coral.testing.task_checks import CheckResult, run_checks

TEMPLATES = Path(__file__).parent / "templates" / "plugin"
CHECK_SECONDS = 600.0
"""Longest that a task under check may take to load."""

THINGS = ("parcel", "lamp", "phone", "chair", "jacket", "kettle")
SAID = {
    "complaint": (
        "The {} arrived broken and nobody answers my mails",
        "I have waited three weeks for the {} and want my money back",
        "This is the second {} that does not work",
        "Very disappointed with the {}, it fell apart within a day",
        "Your driver left the {} in the rain",
        "You charged me twice for one {}",
        "The {} looks nothing like the picture",
        "I was promised a new {} and got excuses",
        "The {} smells of glue and gave me a headache",
        "Worst {} I ever bought",
    ),
    "praise": (
        "The {} is even nicer than I hoped",
        "Thank you for the quick delivery of the {}",
        "My daughter loves her new {}",
        "Best {} I have had in years, well done",
        "The {} came a day early and in perfect shape",
        "I am delighted with the {} and will order again",
        "Your team fixed my {} in no time, wonderful",
        "What a beautiful {}, worth every penny",
        "The {} works like a charm",
        "Great service, and the {} is lovely",
    ),
    "question": (
        "When will the {} be sent?",
        "Can I still change the colour of the {}?",
        "Does the {} come with a warranty?",
        "How do I return the {} if it does not fit?",
        "Is the {} in stock at the shop in town?",
        "Which size of the {} should I choose?",
        "Could you tell me how heavy the {} is?",
        "Do you ship the {} to Norway?",
        "Where do I find the serial number of the {}?",
        "May I pay for the {} in two parts?",
    ),
}
"""By label, what customers might write about a thing."""


def write_plugin(name: str, output: Path) -> Facts:
    """Write a plugin with data, config, test and README, all of which work as they are.

    Args:
        name: of the plugin and of its task.
        output: the project's folder; the plugin goes into ``plugins/<name>``, its config beside
            ``plugins``.

    Raises:
        TaskError: the name can't be used, something is there already, or can't be written.
    """
    folder, config = output / "plugins" / name, output / f"{name}.yaml"
    _check_name(name, discover(config_folder=output))
    for taken in (folder, config):
        if taken.exists():
            raise TaskError(f"{taken} must not be there yet; it is.\nChoose another name.")
    examples = [
        (label, text.format(thing))
        for label, texts in SAID.items()
        for text, thing in product(texts, THINGS)
    ]
    words = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "count": str(len(examples)),
        "classes": str(len(SAID)),
        "labels": ", ".join(SAID),
        "folder": str(folder),
        "config": str(config),
        "base_model": default_model(),
    }
    files = {
        folder / "__init__.py": _filled("init", words),
        folder / "task.py": _filled("task", words),
        folder / "examples.csv": _as_csv(examples),
        folder / f"test_{name}.py": _filled("test", words),
        folder / "README.md": _filled("readme", words),
        config: _filled("config", words),
    }
    try:
        folder.mkdir(parents=True)
        for path, text in files.items():
            write_text_durably(path, text)
    except OSError as error:
        raise TaskError(
            f"the plugin can't be written to {folder}: {error.strerror}.\nName another folder with"
            " --output."
        ) from error
    return {
        "plugin": name,
        "folder": str(folder),
        "config": str(config),
        "files": [str(path) for path in files],
    }


def _check_name(name: str, registry: Registry) -> None:
    if not (name.isidentifier() and name.isascii() and name == name.lower()) or name[0] == "_":
        raise TaskError(
            f"a plugin's name must be a lower-case Python identifier, got {name!r}.\n"
            "Use letters, digits and underscores, such as product_reviews."
        )
    taken = {plugin.name for plugin in registry.plugins} | set(registry.task_names())
    if name in taken:
        raise TaskError(
            f"a plugin or task named {name!r} exists; names must differ.\nChoose another name;"
            " `coral plugins` lists those that exist."
        )
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or _is_importable(name):
        raise TaskError(
            f"a plugin's name must not be that of a Python module, got {name!r}.\nChoose another"
            " name; the plugin's test imports its folder by it."
        )


def _is_importable(name: str) -> bool:
    """Return whether a module has the name; folders without an ``__init__.py`` do not count."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _as_csv(rows: Sequence[tuple[str, str]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("label", "text"))
    writer.writerows(rows)
    return file.getvalue()


def check_plugin(
    wanted: str,
    folders: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
    timeout_seconds: float | None = CHECK_SECONDS,
) -> Facts:
    """Run the checks of ``coral.testing`` on a task, or on all tasks of a plugin.

    Args:
        wanted: a task's name, a plugin's name, or a plugin's folder.
        folders: of plugins; those in ``./plugins`` are found without.
        options: of the task.
        timeout_seconds: longest that a task may take to load.

    Returns:
        ``passed``, and the results by task; a task that can't be built or loaded has an ``error``.

    Raises:
        TaskError: there is no such task or plugin, or the plugin can't be imported.
    """
    own = _folder_in(wanted)
    folders = (*([own] if own else []), *folders)
    if (beside := Path("plugins")).is_dir():  # those that it will live with
        folders = (*folders, beside)
    registry = discover(folders)
    plugin, names = _wanted(wanted, own, registry)
    tasks = [
        _checked(Source(name=name, options=dict(options or {}), folders=folders), timeout_seconds)
        for name in names
    ]
    return {
        "name": plugin.name,
        "origin": plugin.origin,
        "version": plugin.version,
        "tasks": tasks,
        "passed": all(task["passed"] for task in tasks),
    }


def _folder_in(wanted: str) -> Path | None:
    """Return the plugin's folder if that is what is wanted."""
    path = Path(wanted)
    if (path / "__init__.py").is_file():
        return path.resolve()
    if path.is_dir() and path.name != wanted:
        raise TaskError(
            f"{wanted} must be a plugin's folder, it has no __init__.py.\nName the folder of one"
            " plugin, such as plugins/reviews."
        )
    return None


def _wanted(wanted: str, own: Path | None, registry: Registry) -> tuple[Plugin, tuple[str, ...]]:
    """Return a plugin, and those of its tasks that are to be checked."""
    for plugin in registry.plugins:
        if plugin.name == wanted if own is None else plugin.origin == str(own):
            if plugin.error:
                raise TaskError(
                    f"plugin {plugin} can't be imported: {plugin.error}.\nCorrect the plugin."
                )
            if own is not None or wanted not in plugin.tasks:
                return plugin, tuple(sorted(plugin.tasks))
    return registry.provider(wanted), (wanted,)


def _checked(source: Source, timeout_seconds: float | None) -> Facts:
    results: list[CheckResult] = []
    error = ""
    try:
        with tempfile.TemporaryDirectory(prefix="coral-check-") as cache:
            calls = source.calls(timeout_seconds)
            subject = Subject(calls=calls, cache_dir=Path(cache), source=source)
            results.extend(run_checks(subject))
    except TaskError as fault:
        error = str(fault)
    return {
        "task": source.name,
        "error": error,
        "passed": not error and all(result.passed for result in results),
        "checks": [
            {
                "check": result.check,
                "passed": result.passed,
                "rule": result.rule,
                "remedy": result.remedy,
            }
            for result in results
        ],
    }
