"""Checkpoints by content: the address is the SHA-256 of the bytes."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coral.errors import CheckpointError, ConfigError, Fault
from coral.storage.paths import DRIVERS, check_location, is_draft, write_bytes_whole

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_ADDRESS = re.compile(r"[0-9a-f]{64}")

_STALE_SECONDS = 3600.0
"""Age of a draft whose writer is taken for dead."""


class FsspecCheckpointStore:
    """A ``CheckpointStore`` in a folder or an object store: ``<location>/<first two>/<address>``.

    Any number of processes and machines may share a location: equal content has one name, and a
    name only ever appears with its whole content. Whatever is read is checked against its address,
    so nothing is synced to disk: what a power cut damages is a miss, never a wrong weight.
    """

    def __init__(self, location: str | Path) -> None:
        """Open a location. Nothing is made there before the first ``put``.

        Args:
            location: a folder, or a URL such as ``s3://bucket/folder``; the driver finds its
                credentials in the environment.

        Raises:
            ConfigError: a rule of ``check_location`` is broken, or the driver is not installed.
            CheckpointError: the driver can't start, as for want of credentials.
        """
        check_location(str(location), where="checkpoints")
        scheme, is_url, folder = str(location).partition("://")
        self._local = not is_url
        self._scheme = "file" if self._local else scheme
        self._folder = str(Path(location).absolute()) if self._local else folder.rstrip("/")
        self._files = self._connect()

    def put(self, content: bytes) -> str:
        """Store bytes, unless they are there already, and return their address.

        Raises:
            CheckpointError: they can't be written, as on a full disk.
        """
        address = hashlib.sha256(content).hexdigest()
        path = self._path(address)
        if self.size(address) == len(content):  # another size is that of a truncated one
            return address
        try:
            if self._local:
                write_bytes_whole(Path(path), content)
            else:  # an object store shows whole objects only
                self._files.pipe_file(path, content)
        except Exception as error:
            raise self._refused(path, f"{len(content)} bytes can't be written", error) from error
        return address

    def get(self, address: str) -> bytes:
        """Return the bytes at an address. A damaged file is removed, so that it can be put again.

        Raises:
            CheckpointError: they are missing, unreadable, truncated or damaged.
        """
        path = self._path(address)
        try:
            content: bytes = self._files.cat_file(path)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{self._shown(path)}: the checkpoint is missing.\n"
                "Train the stages again; a cache that was cleared costs time only."
            ) from error
        except Exception as error:
            raise self._refused(path, "the checkpoint can't be read", error) from error
        actual = hashlib.sha256(content).hexdigest()
        if actual == address:
            return content
        with suppress(Exception):  # in a cache that can't be written, the error below must do
            self._files.rm_file(path)
        raise CheckpointError(
            f"{self._shown(path)}: content must have the SHA-256 of its name, got {len(content)} "
            f"bytes with {actual}.\n"
            "The file is damaged and was dropped; train the stages again."
        )

    def holds(self, address: str) -> bool:
        """Return whether there is something at an address; reading it may still fail.

        Raises:
            CheckpointError: the store can't be asked.
        """
        return bool(self.size(address))

    def size(self, address: str) -> int | None:
        """Return the bytes that a checkpoint takes, damaged or not; None where it is missing.

        Raises:
            CheckpointError: the store can't be asked.
        """
        path = self._path(address)
        try:
            return int(self._files.info(path)["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._refused(path, "the checkpoint can't be looked up", error) from error

    def addresses(self) -> Iterator[tuple[str, int]]:
        """Yield each checkpoint's address and its bytes, whatever their state.

        What is put or discarded meanwhile may be listed or not. Drafts that killed writers left
        behind are removed once they are an hour old.

        Raises:
            CheckpointError: the location can't be listed.
        """
        options: dict[str, Any] = {"on_error": _unless_missing} if self._local else {}
        try:
            found = self._files.find(self._folder, detail=True, **options)
        except Exception as error:
            raise self._refused(self._folder, "checkpoints can't be listed", error) from error
        for path, facts in found.items():
            name = path.rpartition("/")[2]
            if _ADDRESS.fullmatch(name) and path.endswith(self._path(name)):
                yield name, int(facts["size"])
            elif self._local and is_draft(name) and facts["mtime"] < time.time() - _STALE_SECONDS:
                with suppress(OSError):  # it takes room, and does no other harm
                    Path(path).unlink()

    def discard(self, addresses: Iterable[str]) -> None:
        """Remove checkpoints; those that are missing already are passed over.

        Raises:
            CheckpointError: one can't be removed.
        """
        for address in addresses:
            path = self._path(address)
            try:
                self._files.rm_file(path)
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._refused(path, "the checkpoint can't be removed", error) from error

    def _connect(self) -> AbstractFileSystem:
        # fsspec and its drivers take longer to load than --help takes to run.
        import fsspec

        try:
            # Others write here too: a listing that is kept would hide what they did.
            return fsspec.filesystem(self._scheme, use_listings_cache=False)
        except ImportError as error:
            fault = Fault(
                where=self._shown(self._folder),
                key="",
                rule=f"{self._scheme}:// needs the package {DRIVERS[self._scheme]}: {error}.",
                remedy="Install it with `pip install 'coral-lora[cloud]'`.",
            )
            raise ConfigError([fault]) from error
        except Exception as error:
            raise self._refused(self._folder, "the store can't be opened", error) from error

    def _refused(self, path: str, what: str, error: Exception) -> CheckpointError:
        """Return the error for whatever a driver raised: their own errors share no base class."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        remedy = (
            "Free space or fix the permissions there, or point CORAL_CACHE at another disk."
            if self._local
            else "Check that the bucket exists and this machine reaches it, and that the "
            "credentials in the environment may read and write there (docs/checkpoints.md)."
        )
        return CheckpointError(f"{self._shown(path)}: {what}: {reason.rstrip('.')}.\n{remedy}")

    def _path(self, address: str) -> str:
        """Return the path of a checkpoint as the driver knows it."""
        if not _ADDRESS.fullmatch(address):
            raise CheckpointError(
                f"an address must be 64 hexadecimal digits, got {address!r}.\n"
                "Use an address that put() returned."
            )
        return f"{self._folder}/{address[:2]}/{address}"

    def _shown(self, path: str) -> str:
        return path if self._local else f"{self._scheme}://{path}"


def _unless_missing(error: OSError) -> None:
    """Let a listing go on where a folder is not there, or not any more."""
    if not isinstance(error, FileNotFoundError):
        raise error
