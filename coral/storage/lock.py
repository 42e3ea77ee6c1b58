"""One process at a time works on a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from coral.errors import RunError, RunLockedError
from coral.storage.paths import RunPaths, write_text_durably


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run for the length of a ``with`` block.

    The kernel frees the lock when its holder ends, whatever ended it. The process id stands in a
    file of its own, ``run.pid``, because a locked file can't be read on every system. A child that
    is forked from the holder shares the lock, so worker processes come from elsewhere.

    Args:
        folder: the run's folder, which exists.

    Raises:
        RunLockedError: another process holds it; there is no waiting.
        RunError: the folder is missing, or can't be written.
    """
    paths = RunPaths(folder)
    if not folder.is_dir():
        raise RunError(
            f"{folder}: a run is locked in its folder, and there is none.\n"
            "Check the path, or make the folder first."
        )
    lock = FileLock(paths.lock)
    with ExitStack() as stack:
        stack.callback(lock.release)
        _acquire(lock, paths)
        stack.callback(paths.pid.unlink, missing_ok=True)
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process holds a run. Nothing in the folder changes."""
    paths = RunPaths(folder)
    if not paths.pid.exists():  # it stands there while the lock is held
        return False
    lock = FileLock(paths.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that this process can't write in
        return False
    lock.release()
    return False


def _acquire(lock: BaseFileLock, paths: RunPaths) -> None:
    try:
        lock.acquire(timeout=0)
        write_text_durably(paths.pid, f"{os.getpid()}\n")
    except Timeout as error:
        raise RunLockedError(
            f"{paths.folder}: one process at a time may work on a run, and {_holder(paths)} does.\n"
            "Wait for it or stop it; the lock goes when the process ends."
        ) from error
    except OSError as error:
        raise RunError(
            f"{paths.folder}: the run can't be locked: {error.strerror}.\n"
            "Check that you may write there, and that the disk isn't full."
        ) from error


def _holder(paths: RunPaths) -> str:
    try:
        return f"process {int(paths.pid.read_text())}"
    except (OSError, ValueError):  # it has just begun, or just ended
        return "another one"
