"""The strategies that a plugin defines, checked as it is imported."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from coral.ports import BUILT_IN

KINDS = tuple(BUILT_IN)
"""``curricula`` stands in ``CURRICULA`` of a package, or in entry points of ``coral.curricula``."""

GROUPS: Mapping[str, str] = {f"coral.{kind}": kind for kind in KINDS}
"""Entry point group to the kind of strategy."""

_NAME = re.compile(r"[A-Za-z][\w-]*")

ByKind = Mapping[str, Mapping[str, Any]]
"""Kind of strategy to name to strategy."""


def strategies_in(module: ModuleType) -> ByKind:
    """Return the strategies that a package defines.

    Raises:
        TypeError: one of its mappings isn't one of names to strategies.
        ValueError: a name is misspelt or taken.
    """
    found = {kind: getattr(module, kind.upper(), None) for kind in KINDS}
    return {
        kind: checked_strategies(kind, mapping)
        for kind, mapping in found.items()
        if mapping is not None
    }


def checked_strategies(kind: str, mapping: object) -> Mapping[str, Any]:
    """Return a copy of a plugin's mapping of one kind. Raises as ``strategies_in`` does."""
    title = kind.upper()
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{title} must be a mapping of names to strategies, got {mapping!r}")
    for name, strategy in mapping.items():
        if not isinstance(name, str) or not callable(strategy):
            raise TypeError(f"{title} must map names to callables, got {name!r}: {strategy!r}")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{title}: a name is a letter, then letters, digits, _ or -, got {name!r}"
            )
        if name in BUILT_IN[kind]:
            raise ValueError(f"{title} must not redefine {name!r}, which Coral brings")
        direction = getattr(strategy, "direction", None)
        if kind == "objectives" and direction not in ("max", "min"):
            raise TypeError(
                f"{title}: {name!r} must have a direction, 'max' or 'min', got {direction!r}"
            )
    return dict(mapping)


def folder_digest(folder: Path, version: str) -> str:
    """Return the identity of a package: its version, and every Python file in it."""
    files = sorted(folder.rglob("*.py"))
    return _digest(version, ((str(file.relative_to(folder)), file) for file in files))


def installed_digest(point: EntryPoint, version: str) -> str:
    """Return the identity of an installed plugin: its version, and the module named for it."""
    found = importlib.util.find_spec(point.module)
    origin = Path(found.origin) if found and found.origin else None
    named = [(point.value, origin)] if origin and origin.is_file() else []
    return _digest(f"{point.value} {version}", named)


def _digest(version: str, files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256(version.encode())
    for name, file in files:
        content = file.read_bytes()
        digest.update(f"\x1e{name}\x1f{len(content)}\x1f".encode() + content)
    return digest.hexdigest()
