"""Calling a plugin's methods on data: whatever goes wrong is one message that names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from coral.capabilities import difficulty_of, domains_of
from coral.errors import CoralError, TaskError
from coral.ports import DataContext, Examples, Problem, Task, TaskData
from coral.tasks.registry import Plugin, Registry, described
from coral.tasks.waiting import OverdueError, Result, within

TIMEOUT_SECONDS = 3600.0
"""Longest that a call may take where no config says it."""


def task_calls(
    registry: Registry,
    name: str,
    options: Mapping[str, Any],
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> TaskCalls:
    """Build a task as ``Registry.build`` does, to be called with care."""
    return TaskCalls(
        task=registry.build(name, options),
        plugin=registry.provider(name),
        timeout_seconds=timeout_seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCalls:
    """A built task, called with care.

    Attributes:
        plugin: whose task it is.
        timeout_seconds: longest that one call may take; None for no limit.
    """

    task: Task
    plugin: Plugin
    timeout_seconds: float | None = TIMEOUT_SECONDS

    def load(self, context: DataContext) -> TaskData:
        """Return the task's splits.

        Raises:
            TaskError: ``load`` raised, took too long, or returned something else.
        """
        data = self._call("load", lambda: self.task.load(context))
        if not isinstance(data, TaskData):
            raise self.error("load", f"must return a coral.ports.TaskData, got {_kind(data)}")
        for name, split in (
            ("train", data.train),
            ("validation", data.validation),
            ("test", data.test),
        ):
            if not isinstance(split, Examples):
                raise self.error(
                    "load", f"must give coral.ports.Examples as {name}, got {_kind(split)}"
                )
            if len(split) == 0:
                raise self.error("load", f"must give at least one example to {name}, got none")
        if data.problem not in get_args(Problem):
            known = ", ".join(get_args(Problem))
            raise self.error("load", f"must name a problem ({known}), got {data.problem!r}")
        return data

    def difficulty(self, examples: Examples) -> NDArray[np.float64] | None:
        """Return what ``capabilities.difficulty_of`` does, and raise as ``load`` does."""
        return self._call("difficulty", lambda: difficulty_of(self.task, examples))

    def domains(self, examples: Examples) -> tuple[str, ...] | None:
        """Return what ``capabilities.domains_of`` does, and raise as ``load`` does."""
        return self._call("domains", lambda: domains_of(self.task, examples))

    def error(self, method: str, rule: str) -> TaskError:
        """Return an error that names task, method and plugin."""
        return TaskError(f"task {self.task.name!r}: {method}() {rule}.\n{self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"Correct the plugin {self.plugin}; `coral plugins check` checks a task."

    def _call(self, method: str, function: Callable[[], Result]) -> Result:
        try:
            return within(self.timeout_seconds, function, f"{self.task.name}.{method}")
        except OverdueError as place:
            raise TaskError(
                f"task {self.task.name!r}: {method}() took longer than task_timeout_seconds ="
                f" {self.timeout_seconds:g}; it stands in {place}.\nCorrect the plugin"
                f" {self.plugin}, or raise the limit under `execution`."
            ) from None
        except TaskError as error:
            if "\n" in str(error):
                raise
            raise TaskError(f"{error}\n{self._remedy}") from error
        except CoralError:
            raise
        except (Exception, SystemExit) as error:
            told = described(error, Path(self.plugin.origin))
            raise self.error(method, f"raised {told}") from error


def _kind(value: object) -> str:
    return type(value).__name__
