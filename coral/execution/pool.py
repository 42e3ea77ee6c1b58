"""Jobs in worker processes: a dead worker costs one attempt of one job."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pebble import ProcessExpired

from coral.errors import WorkersError
from coral.execution.attempt import describe, failed
from coral.execution.packs import packs
from coral.execution.retry import DEFAULT_RETRIES, next_attempt, retries_left
from coral.execution.worker import Raised, call, train
from coral.execution.workers import Task, Workers
from coral.ports import Progress, Survey, TrainingJob
from coral.records import Outcome, TestScore

_JOBS_AHEAD_PER_WORKER = 2


class PoolExecutor:
    """Runs jobs in worker processes that each keep a trainer, and its base model, loaded.

    Which worker runs a job, and when, changes nothing in its outcome. A killed worker is replaced
    and its job runs again; a job that takes too long is stopped. POSIX only.
    """

    def __init__(
        self,
        factory: str,
        payload: Mapping[str, Any],
        *,
        workers: int,
        devices: Sequence[str] = ("cpu",),
        threads_per_worker: int = 1,
        trial_timeout_seconds: float | None = None,
        retries: int = DEFAULT_RETRIES,
        slots: int | None = 1,
        on_progress: Callable[[Progress], None] | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        """Describe the workers; they start with the first task.

        Args:
            factory: ``"module:function"``, called in each worker as
                ``function(payload, device=..., report=...)``; it returns a ``Trainer``.
            payload: plain values for the factory.
            devices: handed out in turn, so that each worker has its own when there are enough.
            threads_per_worker: limit on the threads of one worker's arithmetic.
            trial_timeout_seconds: limit on one attempt at one job. Loading the base model does
                not count.
            retries: how often a job runs again after its worker died.
            slots: jobs that a worker trains side by side; None for what its trainer's survey says.
            on_progress: called in a thread of its own.
            preload: modules that workers will need, imported once for all where workers can be
                forked. Only the first pool of this process has a say.

        Raises:
            WorkersError: there are no workers or no devices.
        """
        if workers < 1 or not devices:
            raise WorkersError(
                f"a pool must have at least one worker and one device, got workers={workers},"
                f" devices={list(devices)}. Set workers to 1 or more, and devices to cpu or cuda:0."
            )
        self._timeout_seconds = trial_timeout_seconds
        self._retries = retries
        self._slots = slots
        self._count = workers
        self._workers = Workers(
            factory,
            payload,
            tuple(itertools.islice(itertools.cycle(devices), workers)),
            threads_per_worker,
            on_progress,
            preload,
        )

    def survey(self) -> Survey:
        """Return what the model and the data turned out to be.

        Raises:
            CoralError: the trainer can't be built or used. Coral's own errors arrive as they were;
                any other comes as a WorkersError with the worker's traceback.
        """
        survey: Survey = self._call("survey")
        self._slots = self._slots or survey.slots
        return survey

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        """Score finalists side by side; each worker scores the last one beside its share."""
        *others, last = finalists
        count = max(1, min(self._count, len(others)))
        shares = [others[i::count] for i in range(count)]
        parts = self._calls("score", [((*share, last), seed) for share in shares])
        scores: list[TestScore | None] = [None] * len(others)
        for i, part in enumerate(parts):
            scores[i::count] = part[:-1]
        return (*(score for score in scores if score), parts[0][-1])

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        self._call("export", finalist, folder, card)

    def run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        """Yield outcomes in order of completion; a failure is an outcome too.

        ``jobs`` is read a little ahead of the workers, or as a whole if they train side by side.
        A pack that is lost as a whole runs again job by job. Closing the iterator cancels what is
        left.

        Raises:
            CoralError: a worker can't build its trainer, or the workers can't be kept alive. No
                trial is at fault.
        """
        slots = self._slots or self.survey().slots
        source = iter(packs(list(jobs), slots)) if slots > 1 else ((job,) for job in jobs)
        ended: SimpleQueue[Task] = SimpleQueue()
        flights: dict[Task, tuple[tuple[TrainingJob, ...], int]] = {}

        def launch(pack: tuple[TrainingJob, ...], retries: int) -> None:
            limit = self._timeout_seconds and self._timeout_seconds * len(pack)
            task = self._workers.schedule(train, pack, limit, ended=ended, timeout_seconds=limit)
            flights[task] = pack, retries

        try:
            while True:
                room = _JOBS_AHEAD_PER_WORKER * self._count - len(flights)
                for pack in itertools.islice(source, max(0, room)):  # a lost pack's jobs overfill
                    launch(pack, self._retries)
                if not flights:
                    return
                task = self._workers.wait(ended)
                pack, retries = flights.pop(task)
                if task.error is not None and len(pack) > 1:
                    for job in pack:  # one of them is at fault; alone, the others come through
                        launch((job,), retries)
                    continue
                for job, outcome in zip(pack, self._outcomes_of(task, pack), strict=True):
                    failure = outcome.failure
                    again = next_attempt(job, failure, retries) if failure else None
                    if failure and again:
                        launch((again,), retries_left(retries, failure))
                    else:
                        yield outcome
        finally:
            for task in flights:
                self._workers.cancel(task)

    def close(self) -> None:
        """Stop all workers at once; closing twice is fine."""
        self._workers.close()

    def __enter__(self) -> PoolExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcomes_of(self, task: Task, pack: tuple[TrainingJob, ...]) -> tuple[Outcome, ...]:
        if task.error is None and isinstance(task.value, Raised):
            raise task.value.as_error()
        if task.error is None:
            outcomes: tuple[Outcome, ...] = task.value
            return outcomes
        (job,) = pack
        return (self._lost(task.error, job, task.stack),)

    def _lost(self, error: BaseException, job: TrainingJob, stack: str) -> Outcome:
        match error:
            case ProcessExpired() as death:
                return failed(job, "crashed", f"trial {job.trial}: {_cause_of_death(death)}")
            case TimeoutError():
                return failed(
                    job,
                    "timeout",
                    f"trial {job.trial} took longer than trial_timeout_seconds ="
                    f" {self._timeout_seconds:g} in one stage{_place_in(stack)}. Raise the limit,"
                    " or search smaller adapters.",
                    stack,
                )
            case _:
                return failed(job, "plugin", describe(error))

    def _call(self, method: str, *arguments: Any) -> Any:
        """Have any worker call the trainer's ``method``; see ``_calls``."""
        (result,) = self._calls(method, [arguments])
        return result

    def _calls(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Have workers call the trainer's ``method`` side by side; return what they return.

        A call whose worker dies of it is made again.

        Args:
            calls: arguments.
        """
        ended: SimpleQueue[Task] = SimpleQueue()
        flights: dict[Task, tuple[int, int]] = {}
        results: list[Any] = [None] * len(calls)

        def launch(number: int, retries: int) -> None:
            task = self._workers.schedule(call, method, calls[number], ended=ended)
            flights[task] = number, retries

        try:
            for number in range(len(calls)):
                launch(number, self._retries)
            while flights:
                task = self._workers.wait(ended)
                number, retries = flights.pop(task)
                match task.error:
                    case None if isinstance(task.value, Raised):
                        raise task.value.as_error()
                    case None:
                        results[number] = task.value
                    case ProcessExpired() if retries:
                        launch(number, retries - 1)
                    case ProcessExpired() as death:
                        raise WorkersError(
                            f"{method} must be done by a worker, but killed {self._retries + 1} of"
                            f" them: {_cause_of_death(death)}"
                        )
                    case error:
                        raise WorkersError(f"{method} can't be sent to a worker: {describe(error)}")
        finally:
            for task in flights:
                self._workers.cancel(task)
        return results


def _place_in(stack: str) -> str:
    """Return in words where the main thread stood, which faulthandler writes last."""
    main = stack.rpartition("(most recent call first):")[2]
    found = re.search(r'File "(.+)", line (\d+) in (\S+)', main)
    return f"; it stood in {found[3]} ({found[1]}:{found[2]})" if found else ""


def _cause_of_death(death: ProcessExpired) -> str:
    if death.exitcode >= 0:
        return f"the worker exited with status {death.exitcode} in the middle of its work."
    names = {-member: member.name for member in signal.Signals}
    name = names.get(death.exitcode, f"signal {-death.exitcode}")
    remedy = "If memory ran out, set fewer workers or a smaller micro_batch_size."
    return f"the worker was killed by {name}. {remedy if name == 'SIGKILL' else ''}".rstrip()
