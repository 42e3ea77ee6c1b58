"""The metrics that a classification task can be asked for by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import PLAIN
from coral.records import Direction
from coral.tasks.classification import CLASSIFICATION_METRICS, macro_auroc, score_classification
from coral.tasks.safety import expected_calibration_error, fpr_at_90_recall

PERTURBED = "perturbed"
"""View with slips in the texts, see ``perturbations.perturb``."""
TEXT_ONLY = "text_only"
"""View without what belongs to a text, such as its image."""

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric that is not among ``CLASSIFICATION_METRICS``.

    Attributes:
        score: of labels, the plain predictions, and those on ``view``.
        view: altered examples that it needs predictions on; empty for none.
    """

    direction: Direction
    score: Callable[[Labels, Probabilities, Probabilities], float]
    view: str = ""


EXTRA_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "fpr_at_90_recall": Metric(
            direction="min", score=lambda labels, plain, _: fpr_at_90_recall(labels, plain)
        ),
        "ece": Metric(
            direction="min",
            score=lambda labels, plain, _: expected_calibration_error(labels, plain),
        ),
        "robust_auroc": Metric(
            direction="max",
            score=lambda labels, _, seen: macro_auroc(labels, seen),
            view=PERTURBED,
        ),
        "text_only_auroc": Metric(
            direction="max",
            score=lambda labels, _, seen: macro_auroc(labels, seen),
            view=TEXT_ONLY,
        ),
        "cross_modal_gain": Metric(
            direction="max",
            score=lambda labels, plain, seen: (
                macro_auroc(labels, plain) - macro_auroc(labels, seen)
            ),
            view=TEXT_ONLY,
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationScoring:
    """What a classification task is scored by: the parts of ``ports.Task`` that are about metrics.

    Attributes:
        names: of the metrics, the primary one first.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, task: str, names: object, views: Collection[str]) -> Self:
        """Return the scoring by metrics that a user named.

        Args:
            task: its name, for errors.
            names: as they stand in the config.
            views: that the task can make of its examples.

        Raises:
            TaskError: they are no names of metrics that the task can have, or the first can't be
                the primary one.
        """
        known = [
            *CLASSIFICATION_METRICS,
            *(name for name, metric in EXTRA_METRICS.items() if metric.view in ("", *views)),
        ]
        if not isinstance(names, Sequence) or isinstance(names, str) or not names:
            raise TaskError(
                f"task {task!r}: metrics must be a list of names, got {names!r}.\n"
                f"Metrics that exist: {', '.join(known)}."
            )
        for name in names:
            if name not in known:
                raise TaskError(_unknown(task, name, known))
        if len(set(names)) < len(names):
            raise TaskError(f"task {task!r}: metrics must be named once, got {list(names)}.")
        if names[0] in EXTRA_METRICS and EXTRA_METRICS[names[0]].view:
            raise TaskError(
                f"task {task!r}: metrics must begin with the primary one, which can't be"
                f" {names[0]}: its confidence interval needs predictions on the examples as they"
                " are.\nPut another first, such as auroc."
            )
        return cls(names=tuple(names))

    @property
    def primary_metric(self) -> str:
        return self.names[0]

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """Each metric's better direction."""
        return {
            name: CLASSIFICATION_METRICS[name]
            if name in CLASSIFICATION_METRICS
            else EXTRA_METRICS[name].direction
            for name in self.names
        }

    @property
    def views(self) -> tuple[str, ...]:
        """Views that the metrics need."""
        needed = (EXTRA_METRICS[name].view for name in self.names if name in EXTRA_METRICS)
        return tuple(dict.fromkeys(view for view in needed if view))

    def score(self, labels: Labels, probabilities: Probabilities) -> dict[str, float]:
        """Return the metrics that need no view. Raises as ``score_classification`` does."""
        scores: dict[str, float] = score_classification(labels, probabilities)
        scores |= {
            name: EXTRA_METRICS[name].score(labels, probabilities, probabilities)
            for name in self.names
            if name in EXTRA_METRICS and not EXTRA_METRICS[name].view
        }
        return {name: scores[name] for name in self.names if name in scores}

    def score_views(
        self, labels: Labels, predictions: Mapping[str, Probabilities]
    ) -> dict[str, float]:
        """Return the metrics that need a view.

        Args:
            predictions: by view, ``PLAIN`` included, each ``(n, classes)``.
        """
        return {
            name: metric.score(labels, predictions[PLAIN], predictions[metric.view])
            for name in self.names
            if (metric := EXTRA_METRICS.get(name)) is not None and metric.view
        }


def _unknown(task: str, name: Any, known: Sequence[str]) -> str:
    listed = ", ".join(known)
    if name in EXTRA_METRICS:
        view = EXTRA_METRICS[name].view
        return (
            f"task {task!r}: metrics can't hold {name}, for this task has no {view} examples.\n"
            f"Metrics that it can have: {listed}."
        )
    close = difflib.get_close_matches(str(name), known, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"task {task!r}: metrics must exist, got {name!r}{meant}.\nMetrics that exist: {listed}."
