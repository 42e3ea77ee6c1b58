"""What is known of a task's training examples before they are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskRows:
    """Examples of one task, a row each.

    Attributes:
        labels: as in ``ports.Examples``, by the task's problem.
        lengths: ``(n,)`` tokens.
        difficulty: ``(n,)`` rank of the length within the task, in (0, 1].
        problem: as in ``ports.TaskData``.
    """

    task: str
    labels: NDArray[Any]
    lengths: NDArray[np.int64]
    difficulty: NDArray[np.float64]
    problem: str = "single_label"

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: NDArray[np.int64]) -> TaskRows:
        """Return some of the examples, in the order of ``rows``."""
        return TaskRows(
            task=self.task,
            labels=self.labels[rows],
            lengths=self.lengths[rows],
            difficulty=self.difficulty[rows],
            problem=self.problem,
        )

    @property
    def class_sizes(self) -> NDArray[np.float64]:
        """``(n,)`` examples of the same class, for each example.

        Of an example with several labels, the harmonic mean of their sizes; those without any are
        a class of their own. Where there are no classes, all examples are one.
        """
        match self.problem:
            case "single_label":
                sizes: NDArray[np.float64] = np.bincount(self.labels)[self.labels].astype(float)
                return sizes
            case "multi_label":
                bare = self.labels.sum(axis=1, keepdims=True) == 0
                held = np.concatenate([self.labels, bare], axis=1).astype(float)
                rarity = held / np.maximum(held.sum(axis=0), 1)
                harmonic: NDArray[np.float64] = held.sum(axis=1) / rarity.sum(axis=1)
                return harmonic
            case _:
                return np.full(len(self), float(len(self)))
