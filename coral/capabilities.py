"""What a task may bring beyond ``ports.Task``: asked for here, and checked as it is handed over.

A task brings a capability by having the attribute; nothing is declared or inherited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import (
    Examples,
    HasDifficulty,
    HasDomains,
    HasGenes,
    HasProfile,
    HasProxies,
    Proxy,
)


def difficulty_of(task: object, examples: Examples) -> NDArray[np.float64] | None:
    """Return ``(n,)`` how hard a task finds its examples; None if it doesn't say.

    Raises:
        TaskError: it returned something else than one finite number an example.
    """
    if not isinstance(task, HasDifficulty):
        return None
    rule = "difficulty() must return one finite number an example"
    try:
        found = np.asarray(task.difficulty(examples), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _broken(task, f"{rule}: {error}") from error
    if found.shape != (len(examples),):
        raise _broken(task, f"{rule}, got shape {found.shape} for {len(examples)} examples")
    if not np.isfinite(found).all():
        first = int(np.argmin(np.isfinite(found)))
        raise _broken(task, f"{rule}, got {found[first]} for example {first}")
    return found


def domains_of(task: object, examples: Examples) -> tuple[str, ...] | None:
    """Return the domain of each example; None if the task has no domains.

    Raises:
        TaskError: it returned something else than one name an example.
    """
    if not isinstance(task, HasDomains):
        return None
    found = task.domains(examples)
    rule = "domains() must return one name an example"
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise _broken(task, f"{rule}, got {type(found).__name__}")
    if len(found) != len(examples):
        raise _broken(task, f"{rule}, got {len(found)} for {len(examples)} examples")
    other = next((name for name in found if not isinstance(name, str) or not name), None)
    if other is not None:
        raise _broken(task, f"{rule}, got {other!r}")
    return tuple(found)


def proxies_of(task: object) -> Mapping[str, Proxy]:
    """Return a task's proxies by name; none if it has none.

    Raises:
        TaskError: they are not ``ports.Proxy`` by name, or one has the name of a metric.
    """
    if not isinstance(task, HasProxies):
        return {}
    found = task.proxies
    rule = "proxies must map names to coral.ports.Proxy"
    if not isinstance(found, Mapping):
        raise _broken(task, f"{rule}, got {type(found).__name__}")
    for name, proxy in found.items():
        if not isinstance(name, str) or not isinstance(proxy, Proxy) or not callable(proxy.score):
            raise _broken(task, f"{rule}, got {name!r}: {type(proxy).__name__}")
        if type(proxy.stage) is not int or proxy.stage < 0:
            raise _broken(
                task, f"proxies.{name}.stage must be a stage's index >= 0, got {proxy.stage!r}"
            )
        if name in getattr(task, "metrics", ()):
            raise _broken(task, f"proxies.{name} must not have the name of a metric")
    return dict(found)


def genes_of(task: object) -> Mapping[str, Any]:
    """Return the search-space entries that a task brings; none if it brings none.

    Raises:
        TaskError: they are not a mapping of fields to genes.
    """
    if not isinstance(task, HasGenes):
        return {}
    found = task.genes
    rule = "genes must map fields of the plan to genes, as search_space does"
    if not isinstance(found, Mapping):
        raise _broken(task, f"{rule}, got {type(found).__name__}")
    if not all(isinstance(name, str) for name in found):
        raise _broken(task, f"{rule}, got {list(found)}")
    return dict(found)


def profile_of(task: object) -> str | None:
    """Return the simulation profile that a task asks for; None if it asks for none.

    Raises:
        TaskError: it is neither a name nor a file that exists.
    """
    if not isinstance(task, HasProfile):
        return None
    found = task.profile
    if not isinstance(found, str | Path) or not str(found):
        raise _broken(task, f"profile must be a profile's name or its path, got {found!r}")
    is_path = isinstance(found, Path) or Path(found).suffix != "" or Path(found).name != found
    if is_path and not Path(found).is_file():
        raise _broken(task, f"profile must be a file that exists, got {found}")
    return str(found)


def check_capabilities(task: object) -> None:
    """Check what can be checked before a task is loaded.

    Raises:
        TaskError: something that the task brings is malformed.
    """
    proxies_of(task)
    genes_of(task)
    profile_of(task)
    for method in ("difficulty", "domains"):
        found = getattr(task, method, None)
        if found is not None and not callable(found):
            raise _broken(task, f"{method} must be a method that takes examples")


def _broken(task: object, rule: str) -> TaskError:
    """Return an error without a remedy: that is up to callers, who know the plugin."""
    return TaskError(f"task {getattr(task, 'name', '?')!r}: {rule}.")
