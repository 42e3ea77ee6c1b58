"""Examples of a task that makes the model's inputs itself, through the base's processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from coral.errors import TaskError
from coral.ports import CollatingTask, Examples
from coral.training.batches import Indices
from coral.training.data import EvaluationSet, LoadedTask, TrainSet, train_set_of

REQUIRED = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollatedExamples:
    """Examples that become model inputs batch by batch, with the interface of tokenized texts.

    Attributes:
        name: the task's.
        lengths: ``(n,)`` tokens of each, those that stand for an image included.
    """

    name: str
    task: CollatingTask
    examples: Examples
    processor: Any
    sequence_len: int
    lengths: Indices = field(init=False)

    def __post_init__(self) -> None:
        lengths = self.task.lengths(self.examples, self.processor, self.sequence_len)
        object.__setattr__(self, "lengths", np.asarray(lengths, dtype=np.int64))

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return what the model is called with for some examples.

        Raises:
            TaskError: the plugin fails, or leaves out what every model needs.
        """
        try:
            made: Mapping[str, Tensor] = self.task.collate(
                self.examples, rows.tolist(), self.processor, self.sequence_len
            )
        except TaskError:
            raise
        except Exception as error:
            raise TaskError(f"task {self.name} raised in collate(): {error!r}") from error
        missing = [name for name in REQUIRED if name not in made]
        if missing:
            raise TaskError(
                f"task {self.name}: collate() must return {' and '.join(REQUIRED)} among the"
                f" model's inputs, got {', '.join(made)}"
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
    task = loaded.task
    assert isinstance(task, CollatingTask)
    return CollatedExamples(
        name=loaded.name,
        task=task,
        examples=split,
        processor=processor,
        sequence_len=sequence_len,
    )
