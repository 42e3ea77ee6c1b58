"""The worker processes, kept alive, and the tasks they run."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from pebble import ProcessExpired, ProcessPool

from coral.errors import WorkersError
from coral.execution.progress import ProgressReceiver
from coral.execution.worker import WorkerSettings, stack_file, start, thread_limits, ticket_file
from coral.ports import Progress

_LONGEST_FOLDER = 80
_REPLACEMENTS = 3
_TEND_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class Task:
    """A function call that a worker makes.

    Attributes:
        ticket: unique among the tasks of one ``Workers``, and the function's last argument.
        ended: the queue that the task is put into when it ends.
        value: what the function returned.
        error: why there is no value: pebble's ``ProcessExpired``, a ``TimeoutError``, or what came
            of sending arguments or value between processes.
        future: pebble's view of the current try.
        stack: where the worker stood shortly before its time was up, as faulthandler writes it.
        missed: the last look at the processes did not find the task's worker.
    """

    ticket: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    timeout_seconds: float | None
    ended: SimpleQueue[Task]
    value: Any = None
    error: BaseException | None = None
    stack: str = ""
    future: Future[Any] | None = None
    missed: bool = False


class Workers:
    """A pebble pool whose tasks always end.

    pebble gives up as a whole when a worker dies between two tasks; and it never ends a task whose
    worker died before pebble knew that the task had begun, or exited with status 0. So a pool that
    gave up is replaced and its tasks begin again, and each worker files its process id under its
    task, to be looked for. Both happen in ``wait``, in the caller's thread.
    """

    def __init__(
        self,
        factory: str,
        payload: Mapping[str, Any],
        devices: Sequence[str],
        threads: int,
        on_progress: Callable[[Progress], None] | None,
        preload: Sequence[str] = (),
    ) -> None:
        """Describe the workers, one for each device; they start with the first task.

        Args:
            preload: modules that they will need.
        """
        self._resources = ExitStack()
        folder = _new_folder()
        self._resources.callback(shutil.rmtree, folder, ignore_errors=True)
        address = None
        if on_progress is not None:
            address = folder / "progress"
            self._resources.enter_context(ProgressReceiver(address, on_progress))
        self._settings = WorkerSettings(
            factory=factory,
            payload=payload,
            devices=tuple(devices),
            threads=threads,
            environment=dict(os.environ),
            folder=folder,
            progress_address=address,
        )
        self._context = _context(devices, preload)
        self._tickets = itertools.count()
        self._open: dict[int, Task] = {}
        self._breaks_in_a_row = 0
        self._pool: ProcessPool | None = self._new_pool()

    def schedule(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        ended: SimpleQueue[Task],
        timeout_seconds: float | None = None,
    ) -> Task:
        """Have a worker call ``function(*arguments, ticket)``.

        Args:
            ended: gets the task when it ends; hand it to ``wait``.
            timeout_seconds: counted from when a worker, its trainer built, takes the task.

        Raises:
            WorkersError: the workers were closed, or can't be kept alive.
        """
        task = Task(next(self._tickets), function, arguments, timeout_seconds, ended)
        self._open[task.ticket] = task
        self._submit(task)
        return task

    def wait(self, ended: SimpleQueue[Task]) -> Task:
        """Return the next task that ended.

        Raises:
            WorkersError: the workers can't be kept alive.
        """
        while True:
            try:
                return ended.get(timeout=_TEND_SECONDS)
            except Empty:
                self._tend()

    def cancel(self, task: Task) -> None:
        """Drop the task if it has not ended; a worker busy with it is stopped and replaced."""
        if self._open.pop(task.ticket, None) is not None and task.future is not None:
            task.future.cancel()

    def close(self) -> None:
        """Stop all workers at once and remove their folder; closing twice is fine."""
        pool, self._pool = self._pool, None
        self._open.clear()
        if pool is not None:
            _stop(pool)
        self._resources.close()

    def _submit(self, task: Task) -> None:
        task.missed = False
        pool = self._running_pool()
        try:
            task.future = pool.schedule(
                task.function, args=(*task.arguments, task.ticket), timeout=task.timeout_seconds
            )
        except RuntimeError:  # the pool just gave up; the task stays open for the next one
            return
        task.future.add_done_callback(lambda future: self._settle(task, future))

    def _settle(self, task: Task, future: Future[Any]) -> None:
        """Take over a future's end. Runs in pebble's threads."""
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            return  # the task stays open, and begins again in the next pool
        self._end(task, None if error else future.result(), error)

    def _end(self, task: Task, value: Any, error: BaseException | None) -> None:
        if self._open.pop(task.ticket, None) is None:
            return
        if error is None:
            self._breaks_in_a_row = 0
        ticket_file(self._settings.folder, task.ticket).unlink(missing_ok=True)
        task.value, task.error, task.stack = value, error, self._stack_of(task)
        task.ended.put(task)

    def _stack_of(self, task: Task) -> str:
        file = stack_file(self._settings.folder, task.ticket)
        try:
            stack = file.read_text()
        except FileNotFoundError:  # its worker has no limit, or never took it
            return ""
        file.unlink(missing_ok=True)
        return stack

    def _tend(self) -> None:
        """Replace a pool that gave up, and end the tasks whose worker is gone."""
        if not self._running_pool().active:
            self._replace_pool()
            return
        for task in list(self._open.values()):
            pid = self._gone_worker(task)
            if pid is None:
                continue
            if not task.missed:  # pebble may be about to notice, and knows the signal
                task.missed = True
                continue
            # pebble's class is untyped. A status of 0 is what pebble overlooks.
            gone = ProcessExpired("the worker is gone", code=0, pid=pid)  # type: ignore[no-untyped-call]
            self._end(task, None, gone)
            if task.future is not None:
                task.future.cancel()

    def _gone_worker(self, task: Task) -> int | None:
        """Return the id of the process that took the task, if it is gone."""
        try:
            pid = int(ticket_file(self._settings.folder, task.ticket).read_text())
        except (FileNotFoundError, ValueError):  # not taken yet, or being written
            return None
        alive = any(child.pid == pid for child in multiprocessing.active_children())
        return None if alive else pid

    def _replace_pool(self) -> None:
        self._breaks_in_a_row += 1
        if self._breaks_in_a_row > _REPLACEMENTS:
            raise WorkersError(
                f"workers must live until their first task, but the pool broke"
                f" {self._breaks_in_a_row} times in a row before any task was done. If memory is"
                " short, set fewer workers or a smaller base model; otherwise the output above"
                " names the cause (a script that starts workers needs"
                " `if __name__ == '__main__':`)."
            )
        _stop(self._running_pool())
        self._pool = self._new_pool()
        for task in list(self._open.values()):
            ticket_file(self._settings.folder, task.ticket).unlink(missing_ok=True)
            self._submit(task)

    def _running_pool(self) -> ProcessPool:
        if self._pool is None:
            raise WorkersError("the executor must be open, but was closed. Make a new one.")
        return self._pool

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=len(self._settings.devices),
            max_tasks=0,
            initializer=start,
            initargs=(self._settings,),
            context=self._context,
        )


def _context(devices: Sequence[str], preload: Sequence[str]) -> BaseContext:
    """Return how workers begin.

    Where that is safe they are forked from a process that has imported what they need, so that
    neither the second worker nor the one that replaces a dead one imports it again. That process
    keeps to one thread, and is the same for as long as this one lives. Drivers of GPUs and macOS's
    own libraries don't survive a fork: there, workers are spawned.
    """
    if sys.platform != "linux" or any(device != "cpu" for device in devices):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    resource_tracker.ensure_running()  # or the server would start it, which lets interrupts through
    with _environment(thread_limits(1)), _without_interrupts():
        forkserver.ensure_running()
    return context


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Give processes that start in the scope some environment variables."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that start in the scope never hear of Control-C; this one does, afterwards."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="coral-"))
    if len(str(folder)) <= _LONGEST_FOLDER:
        return folder
    folder.rmdir()  # a Unix socket's path must fit in about 100 bytes
    return Path(tempfile.mkdtemp(prefix="coral-", dir="/tmp"))
