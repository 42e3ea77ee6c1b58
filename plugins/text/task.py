"""Tasks on texts whose labels stand beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import DataContext, Examples, Problem, TaskData
from coral.records import Direction
from coral.tasks import (
    CLASSIFICATION_METRICS,
    MULTILABEL_METRICS,
    PERTURBED,
    REGRESSION_METRICS,
    ClassificationScoring,
    perturbed,
    score_classification,
    score_multilabel,
    score_regression,
)
from coral.tasks.columns import (
    LABEL_NAMES,
    NUMBER_NAMES,
    Named,
    label_columns,
    text_columns,
    texts_in,
)
from coral.tasks.labels import Labels, classes_in, label_sets_in, numbers_in, strata_of
from coral.tasks.reading import Rows, read
from coral.tasks.splitting import Shares, split

from .row_labels import class_of_rows, labels_of_rows, numbers_of_rows
from .rows import row_sources
from .streaming import (
    SAMPLE,
    RowLabels,
    RowReader,
    Streaming,
    columns_of,
    first_of,
    hold_out,
    stream_of,
)

HELD_OUT = 1000
"""Examples of the validation and test splits of data that stream."""
SHUFFLE_BUFFER = 5000

Kind = Literal["classification", "pair-classification", "multilabel", "regression"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """What sets one kind of task apart.

    Attributes:
        texts: an example.
        usual: names of a column of labels.
        labels: reads them: ``(task, parts, columns) -> (labels by split, their names)``.
        row_labels: reads them row by row.
    """

    problem: Problem
    metrics: Mapping[str, Literal["max", "min"]]
    score: Callable[[NDArray[Any], NDArray[np.float64]], dict[str, float]]
    labels: Callable[[str, Mapping[str, Rows], Sequence[str]], tuple[Labels, tuple[str, ...]]]
    row_labels: RowLabels
    texts: int = 1
    usual: Sequence[str] = LABEL_NAMES


CLASSES = Sort(
    problem="single_label",
    metrics=CLASSIFICATION_METRICS,
    score=score_classification,
    labels=classes_in,
    row_labels=class_of_rows,
)
PAIRS = replace(CLASSES, texts=2)
LABEL_SETS = Sort(
    problem="multi_label",
    metrics=MULTILABEL_METRICS,
    score=score_multilabel,
    labels=label_sets_in,
    row_labels=labels_of_rows,
)
NUMBERS = Sort(
    problem="regression",
    metrics=REGRESSION_METRICS,
    score=score_regression,
    labels=numbers_in,
    row_labels=numbers_of_rows,
    usual=NUMBER_NAMES,
)
SORTS: Mapping[Kind, Sort] = {
    "classification": CLASSES,
    "pair-classification": PAIRS,
    "multilabel": LABEL_SETS,
    "regression": NUMBERS,
}


@dataclass(frozen=True, slots=True)
class TextTask:
    """Tell the class of a text or of two, its labels, or numbers.

    Attributes:
        kind: which of these.
        path: a CSV, TSV, JSON, JSONL, Parquet, Arrow or text file, a folder or glob of such files,
            a URL that fsspec opens, a folder of ``datasets.save_to_disk``, or a hub id.
        text: column of texts, or the two columns of a pair; None for the only ones that are named
            like that.
        label: column of labels; for several labels or numbers also a list of columns.
        name: of the task.
        subset, revision: of a hub id.
        group: column whose rows stay in one split.
        validation_share, test_share: of the rows, where the data has no such split.
        split_seed: of the splits that are made.
        metrics: names of those that it is scored by, the primary one first, where it tells
            classes; then each metric's better direction.
        streaming: the data are read while training asks for them, and never held whole. What
            follows is for that alone.
        train_examples: that make an epoch; required.
        validation_examples, test_examples: most that these splits hold.
        shuffle_buffer: examples among which the next one is drawn.
        labels: all classes or labels, where the first rows may lack some.
    """

    kind: Kind
    path: str
    _: KW_ONLY
    text: Named = None
    label: Named = None
    name: str = "text"
    subset: str | None = None
    revision: str | None = None
    group: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    streaming: bool = False
    train_examples: int | None = None
    validation_examples: int | None = None
    test_examples: int | None = None
    shuffle_buffer: int | None = None
    labels: Sequence[str] | None = None

    metrics: Sequence[str] | Mapping[str, Direction] | None = None
    _scoring: ClassificationScoring | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        Shares(validation=self.validation_share, test=self.test_share).check(self.name)
        self._check_streaming()
        sort = SORTS[self.kind]
        if sort.problem == "single_label":
            names = tuple(sort.metrics) if self.metrics is None else self.metrics
            scoring = ClassificationScoring.of(self.name, names, views=(PERTURBED,))
            object.__setattr__(self, "_scoring", scoring)
            object.__setattr__(self, "metrics", scoring.metrics)
            return
        if self.metrics is not None:
            raise TaskError(
                f"task {self.name!r}: metrics can be chosen only where classes are told, got"
                f" {self.metrics!r}.\nRemove it; {self.kind} has {', '.join(sort.metrics)}."
            )
        object.__setattr__(self, "metrics", sort.metrics)

    def _check_streaming(self) -> None:
        if self.streaming:
            self._streaming.check(self.name)
            return
        for option in (
            "train_examples",
            "validation_examples",
            "test_examples",
            "shuffle_buffer",
            "labels",
        ):
            if getattr(self, option) is not None:
                raise TaskError(
                    f"task {self.name!r}: {option} is for data that stream.\nAdd `streaming:"
                    f" true`, or remove {option}."
                )

    @property
    def primary_metric(self) -> str:
        return next(iter(self.metrics))

    @property
    def views(self) -> tuple[str, ...]:
        return () if self._scoring is None else self._scoring.views

    def load(self, context: DataContext) -> TaskData:
        """Return the data's own splits, and those that are missing made of the train split.

        Raises:
            TaskError: the data can't be read, or is not texts with labels of this kind.
        """
        if self.streaming:
            return self._streamed()
        sort = SORTS[self.kind]
        found = read(self.name, self.path, self.subset, self.revision, context.cache_dir)
        columns = list(found["train"])
        texts = text_columns(self.name, columns, self.text, sort.texts)
        columns = label_columns(self.name, columns, self.label, sort.usual, texts)
        labels, names = sort.labels(self.name, found, columns)
        parts = {part: self._examples(rows, texts, labels[part]) for part, rows in found.items()}
        if len(parts) < 3:
            train = parts["train"]
            shares = Shares(
                validation=0.0 if "validation" in parts else self.validation_share,
                test=0.0 if "test" in parts else self.test_share,
            )
            made = split(
                self.name,
                ["\n".join(content) for content in train.contents],
                strata_of(train.labels),
                self._groups(found["train"]),
                shares,
                self.split_seed,
            )
            parts |= {part: train.take(rows) for part, rows in made.items()}
        return TaskData(
            train=parts["train"],
            validation=parts["validation"],
            test=parts["test"],
            label_names=names,
            problem=sort.problem,
            notes=self._notes(texts, columns),
        )

    @property
    def _streaming(self) -> Streaming:
        if self.train_examples is None:
            raise TaskError(
                f"task {self.name!r}: data that stream need train_examples: how many make an"
                " epoch.\nAdd it; budgets and data fractions of stages are shares of it."
            )
        return Streaming(
            train_examples=self.train_examples,
            validation_examples=_given(self.validation_examples, HELD_OUT),
            test_examples=_given(self.test_examples, HELD_OUT),
            buffer=_given(self.shuffle_buffer, SHUFFLE_BUFFER),
        )

    def _streamed(self) -> TaskData:
        """Return the splits of data that stream; only their first rows are read."""
        sort, streaming = SORTS[self.kind], self._streaming
        sources = row_sources(self.name, self.path, self.subset, self.revision)
        shares = Shares(
            validation=0.0 if "validation" in sources else self.validation_share,
            test=0.0 if "test" in sources else self.test_share,
        )
        looked_at = streaming.looked_at(shares)
        first = first_of(self.name, self.path, sources["train"], looked_at)
        columns = columns_of(first)
        texts = text_columns(self.name, columns, self.text, sort.texts)
        label = label_columns(self.name, columns, self.label, sort.usual, texts)
        self._check_group(columns)
        names, encode = sort.row_labels(
            self.name, label, first, sources["train"].names, self.labels or ()
        )
        reader = RowReader(
            task=self.name,
            texts=texts,
            group=self.group,
            encode=encode,
            whole=sort.problem != "regression",
        )
        held_out = hold_out(reader, first, shares, streaming, self.split_seed)
        most = {
            "validation": streaming.validation_examples,
            "test": streaming.test_examples,
        }
        parts = {
            part: reader.examples(
                held_out.rows.get(part) or first_of(self.name, self.path, sources[part], count)
            )
            for part, count in most.items()
        }
        rest = [row for row in first if not held_out.holds(row, reader)]
        notes = [*self._notes(texts, label)]
        if len(first) < looked_at and len(rest) < streaming.train_examples:
            notes.append(
                f"train_examples is {streaming.train_examples:,}, but the data hold"
                f" {len(rest):,}: these make an epoch"
            )
            streaming = replace(streaming, train_examples=len(rest))
        sample = rest[: min(SAMPLE, streaming.train_examples)]
        notes.append(
            f"streams: {streaming.train_examples:,} examples make an epoch; the first"
            f" {len(sample):,} stand for them here"
        )
        return TaskData(
            train=reader.examples(sample),
            validation=parts["validation"],
            test=parts["test"],
            label_names=names,
            problem=sort.problem,
            notes=tuple(notes),
            stream=stream_of(sources["train"], reader, held_out, streaming),
        )

    def score(self, labels: NDArray[Any], predictions: NDArray[np.float64]) -> Mapping[str, float]:
        if self._scoring is not None:
            return self._scoring.score(labels, predictions)
        return SORTS[self.kind].score(labels, predictions)

    def view(self, examples: Examples, name: str) -> Examples:
        """Return examples with slips in their texts, the one view there is."""
        return perturbed(examples)

    def score_views(
        self, labels: NDArray[Any], predictions: Mapping[str, NDArray[np.float64]]
    ) -> Mapping[str, float]:
        return {} if self._scoring is None else self._scoring.score_views(labels, predictions)

    def _examples(self, rows: Rows, columns: Sequence[str], labels: NDArray[Any]) -> Examples:
        texts, *pairs = (tuple(texts_in(self.name, rows, column)) for column in columns)
        return Examples(texts=texts, labels=labels, pairs=pairs[0] if pairs else ())

    def _notes(self, texts: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
        """Return which columns were guessed."""
        guessed = [
            f"{role}: {', '.join(columns)}"
            for role, named, columns in (("text", self.text, texts), ("label", self.label, labels))
            if named is None
        ]
        return (f"guessed the columns {'; '.join(guessed)}",) if guessed else ()

    def _groups(self, rows: Rows) -> list[str] | None:
        if self.group is None:
            return None
        self._check_group(rows)
        return [str(value) for value in rows[self.group]]

    def _check_group(self, columns: Collection[str]) -> None:
        if self.group is not None and self.group not in columns:
            raise TaskError(
                f"task {self.name!r}: the group column {self.group!r} isn't in the data.\n"
                f"Its columns are {', '.join(columns)}."
            )


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
