"""Tasks of every problem on the words of the tiny models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.ports import Examples, Problem, TaskData
from coral.records import Direction
from coral.rng import stream
from coral.tasks import (
    CLASSIFICATION_METRICS,
    MULTILABEL_METRICS,
    REGRESSION_METRICS,
    score_classification,
    score_multilabel,
    score_regression,
)
from coral.training.base import BaseModel
from coral.training.prefix import Prefixes
from coral.training.trainer import LoraTrainer
from tests.training.conftest import MemoryCheckpoints
from tests.training.models import ANIMALS, COLOURS, FILLERS, load

UNIT = 1000.0
METRICS: dict[Problem, Mapping[str, Direction]] = {
    "single_label": CLASSIFICATION_METRICS,
    "multi_label": MULTILABEL_METRICS,
    "regression": REGRESSION_METRICS,
}
SCORE: dict[Problem, Any] = {
    "single_label": score_classification,
    "multi_label": score_multilabel,
    "regression": score_regression,
}


class WordTask:
    """Asks for the animal of the second text, for all animals, or for a price by colour."""

    def __init__(self, problem: Problem) -> None:
        self.name = {"single_label": "pair", "multi_label": "animals", "regression": "price"}[
            problem
        ]
        self.problem = problem
        self.metrics = METRICS[problem]
        self.primary_metric = next(iter(self.metrics))

    def load(self, context: object = None) -> TaskData:
        names = {"single_label": ANIMALS, "multi_label": ANIMALS, "regression": ("price",)}
        return TaskData(
            train=self._examples("train", 160),
            validation=self._examples("validation", 60),
            test=self._examples("test", 60),
            label_names=names[self.problem],
            problem=self.problem,
        )

    def score(self, labels: NDArray[Any], predictions: NDArray[np.float64]) -> Mapping[str, float]:
        scores: dict[str, float] = SCORE[self.problem](labels, predictions)
        return scores

    def _examples(self, split: str, count: int) -> Examples:
        rng = stream(0, self.problem, split)
        flags = rng.integers(2, size=(count, 2))
        colours = rng.integers(3, size=count)
        texts, pairs = [], []
        for own, colour in zip(flags, colours, strict=True):
            words = [*rng.choice(FILLERS, size=int(rng.integers(1, 6))), COLOURS[colour]]
            if self.problem == "multi_label":
                words += [animal for animal, on in zip(ANIMALS, own, strict=True) if on]
            texts.append(" ".join(rng.permutation(words)))
            pairs.append(" ".join([*rng.choice(FILLERS, size=2), ANIMALS[own[0]]]))
        match self.problem:
            case "single_label":
                return Examples(
                    texts=tuple(texts), labels=flags[:, 0].astype(np.int64), pairs=tuple(pairs)
                )
            case "multi_label":
                return Examples(texts=tuple(texts), labels=flags.astype(np.int64))
            case "regression":
                prices = UNIT * (5.0 + colours[:, None])
                return Examples(texts=tuple(texts), labels=prices)


PROBLEMS: tuple[Problem, ...] = ("single_label", "multi_label", "regression")


def trainer_on(
    base: BaseModel,
    store: MemoryCheckpoints,
    problems: tuple[Problem, ...] = PROBLEMS,
    slots: int = 1,
    prefixes: Path | None = None,
) -> LoraTrainer:
    tasks = load(*(WordTask(problem) for problem in problems))  # type: ignore[arg-type]
    shared = Prefixes(base, prefixes) if prefixes else None
    return LoraTrainer(base, tasks, store, lambda progress: None, shared, slots)
