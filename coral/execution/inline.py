"""Jobs in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coral.execution.attempt import attempt
from coral.execution.retry import DEFAULT_RETRIES, next_attempt, retries_left
from coral.ports import Progress, Survey, Trainer, TrainingJob
from coral.records import Outcome, TestScore


class InlineExecutor:
    """Runs jobs in this process, in order.

    It retries as the pool does, but a job that kills its process kills the run, and nothing limits
    a job's time.
    """

    def __init__(
        self,
        trainer: Trainer,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        retries: int = DEFAULT_RETRIES,
    ) -> None:
        """Take a trainer that is already built.

        Args:
            on_progress: called when a job ends without a failure. Steps within a job are the
                trainer's to report.
            retries: how often a crashed job runs again.
        """
        self._trainer = trainer
        self._on_progress = on_progress
        self._retries = retries

    def survey(self) -> Survey:
        return self._trainer.survey()

    def run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        """Yield each job's outcome; a failure is an outcome too."""
        for job in jobs:
            outcome = self._finish(job)
            if self._on_progress is not None and outcome.failure is None:
                self._on_progress(_last_progress(job, outcome))
            yield outcome

    def _finish(self, job: TrainingJob) -> Outcome:
        """Return the last attempt's outcome, its time that of all attempts."""
        retries, wasted = self._retries, 0.0
        while True:
            (outcome,) = attempt(self._trainer, (job,))
            failure = outcome.failure
            again = None if failure is None else next_attempt(job, failure, retries)
            if failure is None or again is None:
                seconds = outcome.cost.train_seconds + wasted
                return replace(outcome, cost=replace(outcome.cost, train_seconds=seconds))
            retries = retries_left(retries, failure)
            wasted += outcome.cost.seconds
            job = again

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        return self._trainer.score(finalists, seed)

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        self._trainer.export(finalist, folder, card)

    def close(self) -> None:
        """Do nothing: there is no process to stop."""

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _last_progress(job: TrainingJob, outcome: Outcome) -> Progress:
    steps = outcome.curve.step[-1] if outcome.curve.step else outcome.cost.optimizer_steps
    loss = outcome.curve.loss[-1] if outcome.curve.loss else float("nan")
    return Progress.of(job, step=steps, end_step=steps, loss=loss)
