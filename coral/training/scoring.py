"""What predictions are worth: the tasks' metrics, proxies, and what is left without an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from coral.capabilities import proxies_at
from coral.plan import SELECTIVE_METRICS, TrainingPlan
from coral.ports import (
    PLAIN,
    TrainingJob,
)
from coral.records import Direction
from coral.training.data import LoadedTask
from coral.training.evaluation import (
    Predictions,
    answered,
    means_of,
    named,
    needed_confidence,
    require_finite,
    score_given,
    score_proxies,
    score_task,
    with_means,
)
from coral.training.targets import Target

Viewed = Mapping[str, Mapping[str, Predictions]]
"""What was predicted by view, the plain one among them, and task."""


class Scorer:
    """Scores what genomes predict for the tasks of a run."""

    def __init__(
        self, tasks: Mapping[str, LoadedTask], targets: Mapping[str, Target], *, abstains: bool
    ) -> None:
        """Args:
        targets: task name to what its head predicts.
        abstains: plans may leave examples without an answer, so all are scored for it.
        """
        self._tasks = dict(tasks)
        self._targets = dict(targets)
        self._abstains = abstains

    def measured(
        self, job: TrainingJob, predictions: Viewed, labels: Mapping[str, NDArray[Any]]
    ) -> dict[str, float]:
        """Return the metrics of what a plan answers to validation examples, and the proxies.

        These examples also say how sure an answer must be to be given.

        Raises:
            TaskError: a plugin raised, or a value is not finite.
        """
        answers = self.answers(job.plan, predictions)
        needed = needed_confidence(job.plan.inference, answers[PLAIN], self._targets)
        metrics = self.metrics(answers, labels, needed)
        proxies: dict[str, float] = {}
        for name, loaded in self._tasks.items():
            own = {m: value for m, value in metrics.items() if m.startswith(f"{name}.")}
            foretold = score_proxies(loaded, labels[name], _of_task(answers, name), job.stage)
            if job.stages[job.stage].evaluation_percentage == 100:  # a part may hold one class
                require_finite(loaded, "score()", own)
                require_finite(loaded, "a proxy", foretold)
            proxies |= foretold
        names = {
            name: list(proxies_at(loaded.task, job.stage)) for name, loaded in self._tasks.items()
        }
        return {**metrics, **proxies, **means_of(proxies, names)}

    def answers(self, plan: TrainingPlan, predictions: Viewed) -> Viewed:
        """Return predictions of every view as a plan answers."""
        return {
            view: answered(plan.inference, by_task, self._targets)
            for view, by_task in predictions.items()
        }

    def needed(
        self, plan: TrainingPlan, predictions: Mapping[str, Predictions]
    ) -> dict[str, float]:
        """Return by task how sure an answer must be, set on validation examples."""
        answers = answered(plan.inference, predictions, self._targets)
        return needed_confidence(plan.inference, answers, self._targets)

    def selective(self, task: str) -> Mapping[str, Direction]:
        """Return what a task has besides its own metrics."""
        able = self._abstains and self._targets[task].has_probabilities
        return SELECTIVE_METRICS if able else {}

    def metrics(
        self, answers: Viewed, labels: Mapping[str, NDArray[Any]], needed: Mapping[str, float]
    ) -> dict[str, float]:
        """Score answers; what a plugin raises becomes a ``TaskError`` with its traceback."""
        metrics: dict[str, float] = {}
        for name, loaded in self._tasks.items():
            own = _of_task(answers, name)
            with named(loaded, "score()"):
                metrics |= score_task(loaded.task, labels[name], own)
            if self.selective(name):
                given = score_given(
                    self._targets[name], labels[name], own[PLAIN], needed.get(name, 0.0)
                )
                metrics |= {f"{name}.{metric}": value for metric, value in given.items()}
        more = set(SELECTIVE_METRICS) if all(map(self.selective, self._tasks)) else set()
        return with_means(metrics, [loaded.task for loaded in self._tasks.values()], more)


def _of_task(answers: Viewed, task: str) -> dict[str, Predictions]:
    """Return one task's answers by view, of the views that it has."""
    return {view: by_task[task] for view, by_task in answers.items() if task in by_task}
