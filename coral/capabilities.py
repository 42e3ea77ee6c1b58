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
    PLAIN,
    Examples,
    HasCollate,
    HasDifficulty,
    HasDomains,
    HasGenes,
    HasProfile,
    HasProxies,
    HasViews,
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
        TaskError: they are not ``ports.Proxy`` by name, one has the name of a metric, or a view or
            a metric that it speaks of does not exist.
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
        if proxy.stands_for and proxy.stands_for not in getattr(task, "metrics", ()):
            raise _broken(
                task, f"proxies.{name}.stands_for must be a metric, got {proxy.stands_for!r}"
            )
        if proxy.view != PLAIN and not isinstance(task, HasViews):
            raise _broken(
                task, f"proxies.{name}.view must be a view of the task, got {proxy.view!r}"
            )
    return dict(found)


def proxies_at(task: object, stage: int) -> Mapping[str, Proxy]:
    """Return a task's proxies for the stage of an index. Raises as ``proxies_of`` does."""
    return {name: proxy for name, proxy in proxies_of(task).items() if proxy.stage == stage}


def views_of(task: object, stage: int | None = None) -> tuple[str, ...]:
    """Return the views that are predicted besides the plain one; none if a task has none.

    Args:
        stage: index of the one whose proxies are computed, too; None for none.

    Raises:
        TaskError: they are not names.
    """
    if not isinstance(task, HasViews):
        return ()
    found = task.views
    rule = "views must be names of views"
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise _broken(task, f"{rule}, got {type(found).__name__}")
    if not all(isinstance(name, str) and name and name != PLAIN for name in found):
        raise _broken(task, f"{rule} other than {PLAIN!r}, got {list(found)}")
    asked = () if stage is None else (proxy.view for proxy in proxies_at(task, stage).values())
    return tuple(dict.fromkeys((*found, *(name for name in asked if name != PLAIN))))


def viewed(task: object, examples: Examples, view: str) -> Examples:
    """Return examples as one of their task's views shows them.

    Raises:
        TaskError: the view changed more than what the examples look like.
    """
    if view == PLAIN or not isinstance(task, HasViews):
        return examples
    seen = task.view(examples, view)
    rule = f"view({view!r}) must return the examples in their order with their labels"
    if not isinstance(seen, Examples):
        raise _broken(task, f"{rule}, got {type(seen).__name__}")
    if len(seen) != len(examples):
        raise _broken(task, f"{rule}, got {len(seen)} of {len(examples)} examples")
    if not np.array_equal(seen.labels, examples.labels):
        raise _broken(task, f"{rule}, got other labels")
    return seen


def view_scores_of(
    task: object, labels: NDArray[Any], predictions: Mapping[str, NDArray[np.float64]]
) -> Mapping[str, float]:
    """Return a task's metrics that need views; none if it has no views.

    Args:
        predictions: by view, ``PLAIN`` included.
    """
    if not views_of(task) or not isinstance(task, HasViews):
        return {}
    needed = (PLAIN, *views_of(task))
    return task.score_views(labels, {view: predictions[view] for view in needed})


def collating(task: object) -> HasCollate | None:
    """Return a task that makes the model's inputs itself; None if Coral does."""
    return task if isinstance(task, HasCollate) else None


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
    views_of(task)
    for method in ("difficulty", "domains"):
        found = getattr(task, method, None)
        if found is not None and not callable(found):
            raise _broken(task, f"{method} must be a method that takes examples")
    for brought, methods in (("views", ("view", "score_views")), ("collate", ("lengths",))):
        for method in methods if hasattr(task, brought) else ():
            if not callable(getattr(task, method, None)):
                raise _broken(task, f"a task with {brought} must have the method {method}")


def _broken(task: object, rule: str) -> TaskError:
    """Return an error without a remedy: that is up to callers, who know the plugin."""
    return TaskError(f"task {getattr(task, 'name', '?')!r}: {rule}.")
