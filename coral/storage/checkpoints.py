"""Checkpoints by content: the address is the SHA-256 of the bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from coral.errors import CheckpointError
from coral.storage.paths import write_bytes_durably

_ADDRESS = re.compile(r"[0-9a-f]{64}")


class DirectoryCheckpointStore:
    """A ``CheckpointStore`` in a folder, one file a checkpoint: ``<folder>/<first two>/<address>``.

    Any number of processes may share the folder: equal content has one name, and a name only ever
    appears with its whole content.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, content: bytes) -> str:
        """Store bytes, unless they are there already, and return their address.

        Raises:
            CheckpointError: they can't be written, as on a full disk.
        """
        address = hashlib.sha256(content).hexdigest()
        path = self._path(address)
        try:
            if not _holds(path, len(content)):
                write_bytes_durably(path, content)
        except OSError as error:
            raise CheckpointError(
                f"{path}: a checkpoint of {len(content)} bytes can't be written:"
                f" {error.strerror}.\n"
                "Free space or fix the permissions there, or point CORAL_CACHE at another disk."
            ) from error
        return address

    def get(self, address: str) -> bytes:
        """Return the bytes at an address. A damaged file is removed, so that it can be put again.

        Raises:
            CheckpointError: they are missing, unreadable, truncated or damaged.
        """
        path = self._path(address)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path}: the checkpoint is missing.\n"
                "Train the stages again; a cache that was cleared costs time only."
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{path}: the checkpoint can't be read: {error.strerror}.\n"
                "Fix the permissions or the disk there, or train the stages again."
            ) from error
        actual = hashlib.sha256(content).hexdigest()
        if actual == address:
            return content
        with suppress(OSError):  # in a cache that can't be written, the error below must do
            path.unlink()
        raise CheckpointError(
            f"{path}: content must have the SHA-256 of its name, got {len(content)} bytes "
            f"with {actual}.\n"
            "The file is damaged and was dropped; train the stages again."
        )

    def discard(self, addresses: Iterable[str]) -> None:
        """Remove checkpoints; those that are missing already are passed over.

        Raises:
            CheckpointError: one can't be removed.
        """
        for address in addresses:
            path = self._path(address)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise CheckpointError(
                    f"{path}: the checkpoint can't be removed: {error.strerror}.\n"
                    "Fix the permissions there."
                ) from error

    def _path(self, address: str) -> Path:
        if not _ADDRESS.fullmatch(address):
            raise CheckpointError(
                f"an address must be 64 hexadecimal digits, got {address!r}.\n"
                "Use an address that put() returned."
            )
        return self._folder / address[:2] / address


def _holds(path: Path, size: int) -> bool:
    """Return whether a file of this size is there; another size is a truncated one."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False
