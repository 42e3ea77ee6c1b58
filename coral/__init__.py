"""Coral finds the best LoRA for a model, a set of tasks and a compute budget.

>>> import coral
>>> report = coral.evolve("config.yaml")            # doctest: +SKIP
>>> report["champion"]["metrics"]["test"]["auroc"]  # doctest: +SKIP
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coral.api import calibrate, compare, evolve, gc, lineage, predict, record, resume, show
    from coral.errors import CoralError

    __version__: str

__all__ = [
    "CoralError",
    "__version__",
    "calibrate",
    "compare",
    "evolve",
    "gc",
    "lineage",
    "predict",
    "record",
    "resume",
    "show",
]

_HOMES = {
    "calibrate": "coral.api",
    "compare": "coral.api",
    "evolve": "coral.api",
    "gc": "coral.api",
    "lineage": "coral.api",
    "predict": "coral.api",
    "record": "coral.api",
    "resume": "coral.api",
    "show": "coral.api",
    "CoralError": "coral.errors",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that ``import coral`` is instant."""
    if name == "__version__":
        return _installed_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'coral' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


@cache
def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("coral-lora")
    except PackageNotFoundError:
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
