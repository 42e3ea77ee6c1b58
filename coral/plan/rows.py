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
        labels: ``(n,)`` int64 class indices.
        lengths: ``(n,)`` tokens.
        difficulty: ``(n,)`` rank of the length within the task, in (0, 1].
    """

    task: str
    labels: NDArray[Any]
    lengths: NDArray[np.int64]
    difficulty: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def class_sizes(self) -> NDArray[np.float64]:
        """``(n,)`` rows of the same class, for each row."""
        sizes: NDArray[np.float64] = np.bincount(self.labels)[self.labels].astype(np.float64)
        return sizes
