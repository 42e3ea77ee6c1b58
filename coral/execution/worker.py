"""What runs inside a worker process.

The trainer is named by a string and imported here, so that the parent never loads what it needs.
Nothing in this module raises to the parent: an answer is a value, a failure is ``Raised``.
Heavy imports wait until ``start`` has set the thread limits.
"""

from __future__ import annotations

import faulthandler
import fcntl
import importlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from coral import errors
from coral.errors import CoralError, WorkersError
from coral.execution.progress import ProgressSender

if TYPE_CHECKING:
    from coral.ports import Progress, Trainer, TrainingJob
    from coral.records import Outcome

_CLAIM_SECONDS = 0.05
_LAST_WORDS = 0.9  # of a job's time limit, after which its stack is written down
_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker needs to know to start.

    Attributes:
        factory: ``"module:function"``; called as ``function(payload, device=..., report=...)``,
            it returns the trainer.
        payload: plain values for the factory.
        devices: one for each worker, such as ``cuda:1``.
        threads: limit on the threads of one worker's arithmetic.
        environment: the parent's, which a forked worker doesn't have by itself.
        folder: where workers claim devices and say what they run.
        progress_address: socket for progress; None keeps quiet.
    """

    factory: str
    payload: Mapping[str, Any]
    devices: tuple[str, ...]
    threads: int
    environment: Mapping[str, str]
    folder: Path
    progress_address: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An exception on its way to the parent.

    Exceptions with an ``__init__`` of their own (``ConfigError``) come out of pickle damaged, and
    those of foreign libraries may not come out at all, so that none of them is pickled as it is.

    Attributes:
        error_type: the exception's class where Coral raised it on purpose, else None.
        arguments, attributes: its ``args`` and ``__dict__``.
        message: type and message.
        traceback: in the worker.
    """

    error_type: type[CoralError] | None
    arguments: tuple[Any, ...]
    attributes: Mapping[str, Any]
    message: str
    traceback: str

    def as_error(self) -> CoralError:
        """Return the original error, or a WorkersError that tells of a foreign one."""
        if self.error_type is None:
            return WorkersError(
                f"the trainer failed with {self.message}\nIn the worker:\n{self.traceback}"
            )
        error = self.error_type.__new__(self.error_type, *self.arguments)
        error.args = self.arguments
        error.__dict__.update(self.attributes)
        error.add_note(f"In the worker:\n{self.traceback}")
        return error


def raised(error: BaseException) -> Raised:
    """Return the exception being handled as a value that can travel."""
    error_type = _own_type(error)
    return Raised(
        error_type=error_type,
        arguments=error.args if error_type else (),
        attributes=dict(error.__dict__) if error_type else {},
        message=f"{type(error).__name__}: {error}",
        traceback=traceback.format_exc(),
    )


def _own_type(error: BaseException) -> type[CoralError] | None:
    """Return the error's class if ``coral.errors`` defines it, which the parent surely has."""
    if isinstance(error, CoralError) and type(error).__module__ == errors.__name__:
        return type(error)
    return None


@dataclass(slots=True)
class _Worker:
    """This process's only state, set once by ``start``."""

    folder: Path = field(default_factory=Path)
    trainer: Trainer | None = None
    fault: Raised | None = None
    claim: IO[bytes] | None = None


_WORKER = _Worker()


def start(settings: WorkerSettings) -> None:
    """Make this process a worker, and build its trainer before the first task's clock starts.

    A trainer that can't be built is kept as a fault, which every task then answers with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The default action, since a handler in Python waits for the end of a long matrix product.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(settings.folder,), daemon=True).start()
    os.environ.clear()
    os.environ.update(settings.environment)
    os.environ.update(thread_limits(settings.threads))
    slot, _WORKER.claim = claim_slot(settings.folder, len(settings.devices))
    _WORKER.folder = settings.folder
    try:
        _WORKER.trainer = _build(settings, settings.devices[slot])
    except (Exception, SystemExit) as error:
        _WORKER.fault = raised(error)


def train(
    jobs: tuple[TrainingJob, ...], seconds: float | None, ticket: int
) -> tuple[Outcome, ...] | Raised:
    """Train jobs.

    Args:
        seconds: after which the parent stops this process; shortly before, it writes down where
            it stands. None if the parent waits for ever.
        ticket: the parent's name for this attempt. This process's id is filed under it, which
            tells the parent whom to look for.
    """
    from coral.execution.attempt import attempt

    file_pid(_WORKER.folder, ticket)
    if _WORKER.trainer is None:
        return _fault()
    if seconds is None:
        return attempt(_WORKER.trainer, jobs)
    with stack_file(_WORKER.folder, ticket).open("w") as file:
        faulthandler.dump_traceback_later(seconds * _LAST_WORDS, file=file)
        try:
            return attempt(_WORKER.trainer, jobs)
        finally:
            faulthandler.cancel_dump_traceback_later()


def call(method: str, arguments: tuple[Any, ...], ticket: int) -> Any:
    """Call one of the trainer's methods; an exception is returned as ``Raised``."""
    file_pid(_WORKER.folder, ticket)
    if _WORKER.trainer is None:
        return _fault()
    try:
        return getattr(_WORKER.trainer, method)(*arguments)
    except (Exception, SystemExit) as error:
        return raised(error)


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment in which libraries that are imported keep to so many threads."""
    return {**dict.fromkeys(_THREAD_LIMITS, str(threads)), "TOKENIZERS_PARALLELISM": "false"}


def file_pid(folder: Path, ticket: int) -> None:
    """Write down that this process works on ``ticket``."""
    ticket_file(folder, ticket).write_text(str(os.getpid()))


def ticket_file(folder: Path, ticket: int) -> Path:
    """Return where the worker of ``ticket`` leaves its process id."""
    return folder / f"ticket-{ticket}"


def stack_file(folder: Path, ticket: int) -> Path:
    """Return where the worker of ``ticket`` leaves its stack before its time is up."""
    return folder / f"stack-{ticket}"


def claim_slot(folder: Path, slots: int) -> tuple[int, IO[bytes]]:
    """Claim the first free slot of ``slots`` for the life of this process.

    The claim is a POSIX record lock: the kernel drops it when the process ends, however it ends,
    and a forked child does not inherit it. Waits while all slots are taken.

    Returns:
        The slot's index, and the open file that holds the claim.
    """
    files = [(folder / f"slot-{index}").open("ab") for index in range(slots)]
    while True:
        for index, file in enumerate(files):
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            for other in files[:index] + files[index + 1 :]:
                other.close()
            return index, file
        time.sleep(_CLAIM_SECONDS)


def _fault() -> Raised:
    if _WORKER.fault is None:
        raise RuntimeError("a task reached a worker before start(); pass start as the initializer")
    return _WORKER.fault


def _build(settings: WorkerSettings, device: str) -> Trainer:
    module, _, function = settings.factory.partition(":")
    factory: Callable[..., Trainer] = getattr(importlib.import_module(module), function)
    return factory(settings.payload, device=device, report=_reporter(settings.progress_address))


def _reporter(address: Path | None) -> Callable[[Progress], None]:
    if address is None:
        return lambda progress: None
    return ProgressSender(address).send


def _end_with_parent(folder: Path) -> None:
    """End this process when the one that asked for it is gone, and clean up in its place."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
