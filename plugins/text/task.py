"""Classification of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import DataContext, Examples, TaskData
from coral.records import Direction
from coral.tasks import CLASSIFICATION_METRICS, PERTURBED, ClassificationScoring, perturbed
from coral.tasks.columns import labels_in, text_and_label, texts_in
from coral.tasks.reading import Rows, read
from coral.tasks.splitting import Shares, split


@dataclass(frozen=True, slots=True)
class TextClassification:
    """Tell the class of a text.

    Attributes:
        path: a CSV, TSV, JSON, JSONL, Parquet, Arrow or text file, a folder or glob of such files,
            a URL that fsspec opens, a folder of ``datasets.save_to_disk``, or a hub id.
        text, label: columns; None for the only one that is named like one.
        name: of the task.
        subset, revision: of a hub id.
        group: column whose rows stay in one split.
        validation_share, test_share: of the rows, where the data has no such split.
        split_seed: of the splits that are made.
        metrics: names of those that it is scored by, the primary one first; then each metric's
            better direction.
    """

    path: str
    _: KW_ONLY
    text: str | None = None
    label: str | None = None
    name: str = "text-classification"
    subset: str | None = None
    revision: str | None = None
    group: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    metrics: Sequence[str] | Mapping[str, Direction] = tuple(CLASSIFICATION_METRICS)
    _scoring: ClassificationScoring = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Shares(validation=self.validation_share, test=self.test_share).check(self.name)
        scoring = ClassificationScoring.of(self.name, self.metrics, views=(PERTURBED,))
        object.__setattr__(self, "_scoring", scoring)
        object.__setattr__(self, "metrics", scoring.metrics)

    @property
    def primary_metric(self) -> str:
        return self._scoring.primary_metric

    @property
    def views(self) -> tuple[str, ...]:
        return self._scoring.views

    def load(self, context: DataContext) -> TaskData:
        """Return the data's own splits, and those that are missing made of the train split.

        Raises:
            TaskError: the data can't be read, or is not texts with at least two classes.
        """
        found = read(self.name, self.path, self.subset, self.revision, context.cache_dir)
        text, label = text_and_label(self.name, list(found["train"]), self.text, self.label)
        texts = {part: texts_in(self.name, rows, text) for part, rows in found.items()}
        labels, names = labels_in(self.name, found, label)
        parts = {part: (texts[part], labels[part]) for part in found}
        if len(parts) < 3:
            train = parts["train"]
            groups = self._groups(found["train"])
            shares = Shares(
                validation=0.0 if "validation" in parts else self.validation_share,
                test=0.0 if "test" in parts else self.test_share,
            )
            made = split(self.name, *train, groups, shares, self.split_seed)
            parts |= {
                part: ([train[0][i] for i in rows], train[1][rows]) for part, rows in made.items()
            }
        return TaskData(
            train=_examples(*parts["train"]),
            validation=_examples(*parts["validation"]),
            test=_examples(*parts["test"]),
            label_names=names,
        )

    @classmethod
    def suggest(cls, data: str, context: DataContext) -> dict[str, str]:
        """Return options for some data, the guessed columns among them.

        Raises:
            TaskError: it can't be read, or the columns can't be guessed.
        """
        train = read(data, data, None, None, context.cache_dir)["train"]
        text, label = text_and_label(data, list(train))
        return {"path": data, "text": text, "label": label}

    def score(
        self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        return self._scoring.score(labels, probabilities)

    def view(self, examples: Examples, name: str) -> Examples:
        """Return examples with slips in their texts, the one view there is."""
        return perturbed(examples)

    def score_views(
        self, labels: NDArray[np.int64], predictions: Mapping[str, NDArray[np.float64]]
    ) -> Mapping[str, float]:
        return self._scoring.score_views(labels, predictions)

    def _groups(self, rows: Rows) -> list[str] | None:
        if self.group is None:
            return None
        if self.group not in rows:
            raise TaskError(
                f"task {self.name!r}: the group column {self.group!r} isn't in the data.\n"
                f"Its columns are {', '.join(rows)}."
            )
        return [str(value) for value in rows[self.group]]


def _examples(texts: Sequence[str], labels: NDArray[np.int64]) -> Examples:
    return Examples(texts=tuple(texts), labels=np.asarray(labels, dtype=np.int64))
