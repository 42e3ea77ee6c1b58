"""Real or fake, told by a text and its image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import DataContext, Examples, Proxy, TaskData
from coral.records import Direction
from coral.tasks import PERTURBED, TEXT_ONLY, ClassificationScoring, macro_auroc, perturbed
from coral.tasks.columns import LABEL_NAMES, label_columns, one_column, text_columns, texts_in
from coral.tasks.labels import classes_in
from coral.tasks.reading import Rows, read
from coral.tasks.splitting import Shares, split

from .pictures import Picture, PictureFault, pictures_in, require_pillow
from .prompts import image_tokens, model_inputs, shortened

OnBadImage = Literal["drop", "text_only"]
IMAGE = "image"
"""Name of the pictures among the examples' inputs."""
IMAGE_NAMES = ("image", "image_path", "image_file", "img", "img_path", "picture", "photo")
POSITIVE_NAMES = ("fake", "false", "1", "misinformation", "rumor", "rumour")
METRICS = (
    "auroc",
    "fpr_at_90_recall",
    "ece",
    "accuracy",
    "macro_f1",
    "log_loss",
    "robust_auroc",
    "cross_modal_gain",
)
CHEAP = "text_only_auroc"
"""Name of the proxy."""


@dataclass(frozen=True, slots=True)
class FakeNews:
    """Tell real news from fake by text and image.

    Attributes:
        path: what ``text-classification`` reads: a CSV, JSONL or Parquet file, a folder or glob of
            such files, a URL, a folder of ``datasets.save_to_disk``, or a hub id.
        image_root: folder in which relative paths of images begin; None for the data file's.
        on_bad_image: what becomes of a row whose image is missing or broken: it is dropped, or its
            text is kept without.
        text, label, image: columns; None for the only one that is named like one. A row without
            anything in ``image`` is a text without an image.
        positive: the label that is fake; None for the one that is called so.
        name: of the task.
        subset, revision: of a hub id.
        group: column whose rows stay in one split; None keeps those of one image together.
        validation_share, test_share: of the rows, where the data has no such split.
        split_seed: of the splits that are made.
        proxy_stage: index of the stage at which ``text_only_auroc`` is computed, if it is none of
            the metrics.
        metrics: names of those that it is scored by, the primary one first; then each metric's
            better direction.
    """

    path: str
    _: KW_ONLY
    image_root: str | None = None
    on_bad_image: OnBadImage = "text_only"
    text: str | None = None
    label: str | None = None
    image: str | None = None
    positive: str | int | None = None
    name: str = "fakenews-gemma3n"
    subset: str | None = None
    revision: str | None = None
    group: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    proxy_stage: int = 0
    metrics: Sequence[str] | Mapping[str, Direction] = METRICS
    _scoring: ClassificationScoring = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Shares(validation=self.validation_share, test=self.test_share).check(self.name)
        if self.on_bad_image not in get_args(OnBadImage):
            raise TaskError(
                f"task {self.name!r}: on_bad_image must be drop or text_only, got"
                f" {self.on_bad_image!r}.\nThe default is text_only."
            )
        scoring = ClassificationScoring.of(self.name, self.metrics, views=(PERTURBED, TEXT_ONLY))
        object.__setattr__(self, "_scoring", scoring)
        object.__setattr__(self, "metrics", scoring.metrics)

    @property
    def primary_metric(self) -> str:
        return self._scoring.primary_metric

    @property
    def views(self) -> tuple[str, ...]:
        return self._scoring.views

    @property
    def proxies(self) -> Mapping[str, Proxy]:
        """What is cheap to know without images; none where it is a metric of every stage."""
        if CHEAP in self.metrics or "auroc" not in self.metrics:
            return {}
        proxy = Proxy(score=macro_auroc, stage=self.proxy_stage, view=TEXT_ONLY, stands_for="auroc")
        return {CHEAP: proxy}

    def load(self, context: DataContext) -> TaskData:
        """Return the data's own splits, and those that are missing made of the train split.

        Raises:
            TaskError: the data can't be read, or is not texts with images and two classes.
        """
        require_pillow(self.name)
        found = read(self.name, self.path, self.subset, self.revision, context.cache_dir)
        columns = list(found["train"])
        (text,) = text_columns(self.name, columns, self.text, 1)
        (label,) = label_columns(self.name, columns, self.label, LABEL_NAMES, (text,))
        image = one_column(self.name, IMAGE, columns, self.image, IMAGE_NAMES)
        labels, names = self._labels(found, label)
        parts, notes = {}, []
        for part, rows in found.items():
            pictures, faults = pictures_in(
                rows[image], self._root(), context.cache_dir / "pictures"
            )
            examples = Examples(
                texts=tuple(texts_in(self.name, rows, text)),
                labels=labels[part],
                inputs={IMAGE: tuple(pictures)},
            )
            parts[part] = (examples, self._groups(rows, pictures))
            if faults:
                notes.append(self._note(part, faults, len(examples)))
            if self.on_bad_image == "drop":
                parts[part] = _without(*parts[part], [fault.row for fault in faults])
        for part, (examples, _) in parts.items():
            if not len(examples) or (part == "train" and len(np.unique(examples.labels)) < 2):
                raise TaskError(
                    f"task {self.name!r}: too little is left of {part}: {len(examples)} examples"
                    f" of {len(np.unique(examples.labels))} classes.\nCorrect image_root, or keep"
                    " texts whose images are bad with `on_bad_image: text_only`."
                )
        splits = self._splits(parts)
        return TaskData(
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            label_names=names,
            notes=tuple(notes),
        )

    def score(
        self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        return self._scoring.score(labels, probabilities)

    def view(self, examples: Examples, name: str) -> Examples:
        """Return examples with slips in their texts, or without their images."""
        if name == PERTURBED:
            return perturbed(examples)
        return replace(examples, inputs={**examples.inputs, IMAGE: (None,) * len(examples)})

    def score_views(
        self, labels: NDArray[np.int64], predictions: Mapping[str, NDArray[np.float64]]
    ) -> Mapping[str, float]:
        return self._scoring.score_views(labels, predictions)

    def domains(self, examples: Examples) -> tuple[str, ...]:
        """Return which examples have an image."""
        return tuple(
            "text" if picture is None else "text and image" for picture in examples.inputs[IMAGE]
        )

    def lengths(self, examples: Examples, processor: Any, sequence_len: int) -> NDArray[np.int64]:
        """Return the tokens of each example, those of its image included."""
        short = shortened(examples.texts, processor.tokenizer, sequence_len)
        pictures = examples.inputs[IMAGE]
        shown = next((picture for picture in pictures if picture is not None), None)
        added = 0 if shown is None else image_tokens(shown, processor, sequence_len)
        return np.array(
            [
                tokens + (added if picture is not None else 0)
                for (_, tokens), picture in zip(short, pictures, strict=True)
            ],
            dtype=np.int64,
        )

    def collate(
        self, examples: Examples, rows: Sequence[int], processor: Any, sequence_len: int
    ) -> Mapping[str, Any]:
        """Return the model's inputs, each image before its text."""
        texts = [examples.texts[row] for row in rows]
        pictures = [examples.inputs[IMAGE][row] for row in rows]
        return model_inputs(texts, pictures, processor, sequence_len)

    def _root(self) -> Path:
        """Return where relative paths of images begin."""
        if self.image_root is not None:
            return Path(self.image_root).expanduser()
        place = Path(self.path).expanduser()
        return place.parent if place.is_file() else place if place.is_dir() else Path()

    def _labels(
        self, found: Mapping[str, Rows], column: str
    ) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
        """Return class indices by split, fake being 1, and the names of the classes."""
        labels, names = classes_in(self.name, found, (column,))
        if len(names) != 2:
            raise TaskError(
                f"task {self.name!r}: label must tell real from fake, but {column!r} holds"
                f" {len(names)} classes: {', '.join(names[:5])}.\nJoin them into two."
            )
        wanted = POSITIVE_NAMES if self.positive is None else (str(self.positive).casefold(),)
        fake = [number for number, name in enumerate(names) if name.casefold() in wanted]
        if len(fake) != 1:
            raise TaskError(
                f"task {self.name!r}: positive must name the label that is fake, got"
                f" {self.positive!r}.\nIt is one of {', '.join(names)}."
            )
        if fake[0] == 1:
            return labels, names
        return {part: 1 - own for part, own in labels.items()}, (names[1], names[0])

    def _groups(self, rows: Rows, pictures: Sequence[Picture | None]) -> list[str]:
        if self.group is None:
            return [
                picture.sha256 if picture else f"row {row}" for row, picture in enumerate(pictures)
            ]
        if self.group not in rows:
            raise TaskError(
                f"task {self.name!r}: the group column {self.group!r} isn't in the data.\n"
                f"Its columns are {', '.join(rows)}."
            )
        return [str(value) for value in rows[self.group]]

    def _note(self, part: str, faults: Sequence[PictureFault], count: int) -> str:
        kinds = Counter(fault.kind for fault in faults)
        told = " and ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        done = "their rows are dropped"
        if self.on_bad_image == "text_only":
            done = "their texts are kept without"
        first = faults[0]
        return (
            f"{self.name}: {len(faults)} of {count} images of {part} can't be used ({told}), and"
            f" {done}; the first is that of row {first.row}: {first.reason}"
        )

    def _splits(self, parts: Mapping[str, tuple[Examples, list[str]]]) -> dict[str, Examples]:
        """Return the splits that are there, and those that are missing made of train."""
        splits = {part: examples for part, (examples, _) in parts.items()}
        if len(splits) < 3:
            train, groups = parts["train"]
            shares = Shares(
                validation=0.0 if "validation" in splits else self.validation_share,
                test=0.0 if "test" in splits else self.test_share,
            )
            made = split(self.name, train.texts, train.labels, groups, shares, self.split_seed)
            splits |= {part: train.take(rows) for part, rows in made.items()}
        return splits


def _without(
    examples: Examples, groups: Sequence[str], rows: Sequence[int]
) -> tuple[Examples, list[str]]:
    kept = np.delete(np.arange(len(examples)), rows)
    return examples.take(kept), [groups[row] for row in kept]
