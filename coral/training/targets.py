"""What a task's head predicts, and how far off it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coral.plan import InferencePlan, confidence, decided
from coral.ports import Problem, TaskData


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a head predicts.

    Numbers are learned in standard deviations from the mean, so that a learning rate fits
    whatever their unit is.

    Attributes:
        outputs: of the head; 0 for a task whose answers are written, which has none.
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
            case "causal_lm":
                raise TypeError("answers have no head; their losses are those of their tokens")
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
            case "causal_lm":
                raise TypeError("answers have no head; see evaluation.answer_statistics")
            case "single_label":
                exact = exact.softmax(dim=-1)
            case "multi_label":
                exact = exact.sigmoid()
            case "regression":
                exact = exact * exact.new_tensor(self.spread) + exact.new_tensor(self.center)
        found: NDArray[np.float64] = exact.cpu().numpy()
        return found

    @property
    def has_probabilities(self) -> bool:
        """Whether predictions are probabilities, so that they can be more sure or less."""
        return self.problem in ("single_label", "multi_label")

    def answers(self, plan: InferencePlan, predictions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return predictions as a plan answers."""
        if not self.has_probabilities:
            return predictions
        return decided(plan, predictions, exclusive=self.problem == "single_label")

    def confidence(self, answers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how sure each answer is, ``(n,)``."""
        return confidence(answers, exclusive=self.problem == "single_label")

    def hits(self, labels: NDArray[Any], answers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which answers are right, ``(n,)``: of several labels, with all of them."""
        found: NDArray[np.bool_]
        if self.problem == "single_label":
            found = answers.argmax(axis=1) == labels
        else:
            found = ((answers >= 0.5) == (labels == 1)).all(axis=1)
        return found
