"""Examples of a task that makes the model's inputs itself, through the base's processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from coral.capabilities import collating
from coral.errors import TaskError
from coral.ports import Examples, HasCollate
from coral.training.batches import Indices
from coral.training.data import LoadedTask, TrainSet, train_set_of
from coral.training.evaluation import named
from coral.training.evaluation_sets import EvaluationSet

REQUIRED = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollatedExamples:
    """Examples that become model inputs batch by batch, with the interface of tokenized texts.

    Attributes:
        loaded: the task.
        task: the same, for what it makes.
        lengths: ``(n,)`` tokens of each, those that stand for an image included.
    """

    loaded: LoadedTask
    task: HasCollate
    examples: Examples
    processor: Any
    sequence_len: int
    lengths: Indices = field(init=False)

    def __post_init__(self) -> None:
        with named(self.loaded, "lengths()"):
            found = self.task.lengths(self.examples, self.processor, self.sequence_len)
            lengths = np.asarray(found, dtype=np.int64)
            if lengths.shape != (len(self.examples),):
                raise TaskError(
                    f"task {self.loaded.name}: lengths() must return one number an example, got"
                    f" shape {lengths.shape} for {len(self.examples)} examples"
                )
        object.__setattr__(self, "lengths", lengths)

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return what the model is called with for some examples.

        Raises:
            TaskError: the plugin fails, or leaves out what every model needs.
        """
        with named(self.loaded, "collate()"):
            made: Mapping[str, Tensor] = self.task.collate(
                self.examples, rows.tolist(), self.processor, self.sequence_len
            )
            if not set(REQUIRED) <= set(made):
                raise TaskError(
                    f"task {self.loaded.name}: collate() must return {' and '.join(REQUIRED)} among"
                    f" the model's inputs, got {', '.join(made)}"
                )
        return dict(made)


def collated_train_set(
    loaded: LoadedTask, processor: Any, sequence_len: int, seed: int
) -> TrainSet:
    """Return a task's train split as an indexed set."""
    texts = collated(loaded, loaded.data.train, processor, sequence_len)
    return train_set_of({loaded.name: loaded}, texts, {loaded.name: texts.lengths}, seed)


def collated_evaluation_set(
    loaded: LoadedTask, split: Examples, processor: Any, sequence_len: int
) -> EvaluationSet:
    """Return some of a task's examples as a set."""
    return EvaluationSet(
        texts=collated(loaded, split, processor, sequence_len),
        rows={loaded.name: np.arange(len(split))},
        labels={loaded.name: split.labels},
    )


def collated(
    loaded: LoadedTask, split: Examples, processor: Any, sequence_len: int
) -> CollatedExamples:
    """Return some of a task's examples as what a model reads."""
    task = collating(loaded.task)
    assert task is not None
    return CollatedExamples(
        loaded=loaded,
        task=task,
        examples=split,
        processor=processor,
        sequence_len=sequence_len,
    )
