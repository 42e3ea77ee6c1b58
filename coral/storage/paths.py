"""Every path that Coral uses, and durable writing to one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RunPaths:
    """What lies in a run's folder, ``runs/<name>``.

    Attributes:
        folder: the run's folder; everything that the run makes lies in it, the cache aside.
    """

    folder: Path

    @property
    def database(self) -> Path:
        """The events, in SQLite."""
        return self.folder / "run.sqlite"

    @property
    def lock(self) -> Path:
        return self.folder / "run.lock"

    @property
    def pid(self) -> Path:
        """Process id of the lock's holder, as text."""
        return self.folder / "run.pid"

    @property
    def resolved_config(self) -> Path:
        """The config with every default filled in."""
        return self.folder / "config.resolved.yaml"

    @property
    def champion(self) -> Path:
        """Folder of the recommended adapter."""
        return self.folder / "champion"

    @property
    def pareto(self) -> Path:
        """Folder of the front's adapters, one folder each."""
        return self.folder / "pareto"


@dataclass(frozen=True, slots=True)
class CachePaths:
    """What lies in the cache. All of it can be made again.

    Attributes:
        root: usually ``cache_root()``.
    """

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the content-addressed checkpoints."""
        return self.root / "checkpoints"

    @property
    def tasks(self) -> Path:
        """Folder of what task plugins collect."""
        return self.root / "tasks"


def cache_root() -> Path:
    """Return the cache's folder: ``CORAL_CACHE`` if it is set, else ``./cache``."""
    return Path(os.environ.get("CORAL_CACHE") or "cache")


def next_free(folder: Path) -> Path:
    """Return ``folder`` if nothing is there, else its first free numbered sibling.

    ``runs/name`` gives ``runs/name``, then ``runs/name-2``, ``runs/name-3`` … Nothing is created:
    ``mkdir`` without ``exist_ok`` claims the folder.
    """
    if not os.path.lexists(folder):
        return folder
    siblings = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(sibling for sibling in siblings if not os.path.lexists(sibling))


def write_json_durably(
    path: Path, value: Mapping[str, Any] | Sequence[Any] | str | float | bool | None
) -> None:
    """Write indented JSON as ``write_text_durably`` does.

    Raises:
        OSError: the file can't be written; ``path`` is as it was.
        ValueError: the value holds a NaN or an infinity, which JSON lacks.
    """
    write_text_durably(
        path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_text_durably(path: Path, text: str) -> None:
    """Write UTF-8 text as ``write_bytes_durably`` does.

    Raises:
        OSError: the file can't be written; ``path`` is as it was.
    """
    write_bytes_durably(path, text.encode())


def write_bytes_durably(path: Path, content: bytes) -> None:
    """Replace a file's content at once: a reader, or a crash, finds the old or the new, never half.

    The content is written beside ``path``, synced and renamed over it, and the folder is synced.
    Missing folders are made.

    Raises:
        OSError: the file can't be written; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_folder(draft: Path, folder: Path) -> None:
    """Put a finished draft in the place of ``folder``, everything in it synced first.

    Raises:
        OSError: a file can't be synced, or the folder can't be replaced.
    """
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, as ``fsync`` does for a file's content."""
    if os.name != "posix":  # elsewhere a folder can't be opened for that
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
