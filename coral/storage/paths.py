"""Every path that Coral uses, and durable writing to one."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from coral.errors import ConfigError, Fault

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "memory": "fsspec"}
"""The package that reaches each URL scheme. ``memory://`` is one process's own, for tests."""

_SCHEME_ENDS = "://"


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
        root: a folder, or a URL in an object store; usually from ``cache_location``.
    """

    root: str

    @property
    def checkpoints(self) -> str:
        """Location of the content-addressed checkpoints, as ``FsspecCheckpointStore`` takes it."""
        return f"{self.root}/checkpoints"

    def fresh(self, name: str) -> str:
        """Location of the checkpoints of a run that looks at nobody else's."""
        return f"{self.checkpoints}/fresh/{name}"

    @property
    def tasks(self) -> Path:
        """Folder of what task plugins collect: on this machine, wherever the root is."""
        return self._here / "tasks"

    @property
    def prefixes(self) -> Path:
        """Folder of activations that genomes share: on this machine, wherever the root is."""
        return self._here / "prefixes"

    @property
    def tokens(self) -> Path:
        """Folder of tokenized texts: on this machine, wherever the root is."""
        return self._here / "tokens"

    @property
    def slots(self) -> Path:
        """Folder of how many genomes train best side by side: on this machine."""
        return self._here / "slots"

    @property
    def _here(self) -> Path:
        return Path("cache" if _SCHEME_ENDS in self.root else self.root).absolute()


def cache_location(configured: str = "") -> CachePaths:
    """Return the cache: where ``CORAL_CACHE`` says, else the config, else ``./cache``.

    Args:
        configured: the config's ``cache``; empty where it has none.

    Raises:
        ConfigError: one of them breaks a rule of ``check_location``. The config's own is checked
            even where ``CORAL_CACHE`` takes its place, because a run stores its config.
    """
    named = os.environ.get("CORAL_CACHE", "")
    check_location(configured, where="config", key="cache")
    check_location(named, where="environment", key="CORAL_CACHE")
    root = named or configured or "cache"
    if _SCHEME_ENDS in root:
        return CachePaths(root.rstrip("/"))
    return CachePaths(str(Path(root).expanduser().resolve()))


def check_location(location: str, *, where: str, key: str = "") -> None:
    """Refuse a URL that holds more than a bucket and a folder, or that has no driver.

    Anything without ``://`` is a folder. Credentials come from the environment, so that they are in
    no file that Coral writes; for the same reason the message masks them.

    Args:
        where: what the location was read from, for the message.
        key: its key there.

    Raises:
        ConfigError: it breaks a rule.
    """
    scheme, is_url, rest = location.partition(_SCHEME_ENDS)
    if not is_url:
        return
    if set(location) & set("@?#"):
        rule = "a cache's URL must hold no user name, password, query or fragment"
        remedy = "Leave them out; credentials come from the environment (docs/checkpoints.md)."
    elif scheme not in DRIVERS:
        rule = "a cache must be a folder, or a URL that starts with s3://, gs:// or az://"
        remedy = "Name one of these; the path of a folder takes no scheme."
    elif not rest.strip("/") or rest.startswith("/"):
        rule = "a cache's URL must name a bucket"
        remedy = f"Write, for example, {scheme}://bucket/folder."
    else:
        return
    rule += f", got {_masked(location)}."
    raise ConfigError([Fault(where=where, key=key, rule=rule, remedy=remedy)])


def _masked(location: str) -> str:
    """Return a URL without what may be a secret: all before the last ``@``, and any query."""
    schemes = (f"{scheme}{_SCHEME_ENDS}" for scheme in DRIVERS)
    scheme = next((scheme for scheme in schemes if location.startswith(scheme)), "")
    shown = re.sub(r".*@", "***@", location.removeprefix(scheme), flags=re.DOTALL)
    return scheme + re.sub(r"[?#].*", "?***", shown, flags=re.DOTALL)


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
    """Replace a file's content as ``write_bytes_whole`` does, and make it outlast a power cut.

    Raises:
        OSError: the file can't be written; ``path`` is as it was.
    """
    with _draft_of(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Replace a file's content at once: a reader, or a crash, finds the old or the new, never half.

    The content is written beside ``path`` and renamed over it. Missing folders are made. After a
    power cut the file may hold anything.

    Raises:
        OSError: the file can't be written; ``path`` is as it was.
    """
    with _draft_of(path) as file:
        file.write(content)


@contextmanager
def _draft_of(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside ``path``, and put it in its place if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            yield file
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def is_draft(name: str) -> bool:
    """Return whether a file's name is one that a writer takes until the file is whole."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", name) is not None


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
