"""What a task's head predicts, and how far off it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coral.ports import Problem, TaskData
from coral.training.batches import Indices

STRATA = 10
"""Parts of equal size into which numbers are cut, where a part of them shall be like the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a head predicts.

    Numbers are learned in standard deviations from the mean, so that a learning rate fits
    whatever their unit is.

    Attributes:
        outputs: of the head.
        center, spread: mean and standard deviation of each number in the train split; else empty.
    """

    problem: Problem
    outputs: int
    center: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Return what a task's data ask for."""
        outputs = len(data.label_names)
        if data.problem != "regression":
            return cls(problem=data.problem, outputs=outputs)
        numbers = data.train.labels
        spread = numbers.std(axis=0)
        return cls(
            problem=data.problem,
            outputs=outputs,
            center=tuple(numbers.mean(axis=0).tolist()),
            spread=tuple(np.where(spread > 0, spread, 1.0).tolist()),
        )

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Return what a card says of a task; cards from before there were others say nothing."""
        return cls(
            problem=facts.get("problem", "single_label"),
            outputs=len(facts["labels"]),
            center=tuple(facts.get("center", ())),
            spread=tuple(facts.get("spread", ())),
        )

    def encode(self, labels: NDArray[Any]) -> Tensor:
        """Return labels as ``losses`` takes them."""
        if self.problem == "regression":
            standard = (labels - np.array(self.center)) / np.array(self.spread)
            return torch.from_numpy(standard.astype(np.float32))
        if self.problem == "multi_label":
            return torch.from_numpy(labels.astype(np.float32))
        return torch.from_numpy(labels)

    def losses(self, logits: Tensor, encoded: Tensor) -> Tensor:
        """Return the loss of each row, ``(rows,)``, of ``(rows, outputs)`` logits.

        Cross-entropy; the mean over labels of binary cross-entropy; the mean over numbers of the
        squared error. They are what transformers trains sequence classifiers on.
        """
        match self.problem:
            case "single_label":
                return nn.functional.cross_entropy(logits, encoded, reduction="none")
            case "multi_label":
                return nn.functional.binary_cross_entropy_with_logits(
                    logits, encoded, reduction="none"
                ).mean(dim=-1)
            case "regression":
                return (logits - encoded).square().mean(dim=-1)

    def predictions(self, logits: Tensor) -> NDArray[np.float64]:
        """Return what ``Task.score`` takes, of ``(..., outputs)`` logits."""
        exact = logits.double()
        match self.problem:
            case "single_label":
                exact = exact.softmax(dim=-1)
            case "multi_label":
                exact = exact.sigmoid()
            case "regression":
                exact = exact * exact.new_tensor(self.spread) + exact.new_tensor(self.center)
        found: NDArray[np.float64] = exact.cpu().numpy()
        return found


def strata(problem: Problem, labels: NDArray[Any]) -> Indices:
    """Return a number for each example; parts of the data hold equal shares of all of them."""
    if problem == "multi_label":
        _, found = np.unique(labels, axis=0, return_inverse=True)
        return found.reshape(-1).astype(np.int64)
    if problem == "regression":
        order = np.argsort(labels[:, 0], kind="stable")
        rank = np.empty(len(labels), dtype=np.int64)
        rank[order] = np.arange(len(labels))
        return rank * STRATA // len(labels)
    return labels
