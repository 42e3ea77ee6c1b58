"""Jobs in this process, on virtual workers with a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coral.execution.inline import InlineExecutor
from coral.execution.retry import DEFAULT_RETRIES
from coral.fidelity import completion_times
from coral.ports import Progress, Survey, Trainer, TrainingJob
from coral.records import Outcome, TestScore


class VirtualExecutor:
    """Runs a simulated trainer's jobs as a number of workers would.

    Each job occupies the worker that is free first for as long as its outcome says. Outcomes come
    in the order in which the virtual clock passes their ends, ties in the order of the jobs.
    """

    def __init__(
        self,
        trainer: Trainer,
        workers: int,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        """Take a trainer whose outcomes say how long they took.

        Args:
            workers: how many jobs run at the same virtual time.
            on_progress, retries: as in ``InlineExecutor``.
        """
        self._inline = InlineExecutor(trainer, on_progress, retries=retries)
        self._workers = workers

    def survey(self) -> Survey:
        return self._inline.survey()

    def run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        """Yield outcomes in virtual-time order; a failure is an outcome too."""
        outcomes = list(self._inline.run(jobs))
        ends = completion_times([outcome.cost.seconds for outcome in outcomes], self._workers)
        for i in sorted(range(len(outcomes)), key=lambda i: (ends[i], i)):
            yield outcomes[i]

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        return self._inline.score(finalists, seed)

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        self._inline.export(finalist, folder, card)

    def close(self) -> None:
        self._inline.close()
