"""The tasks on the corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import DataContext, Examples, TaskData
from coral.rng import stream
from coral.tasks import CLASSIFICATION_METRICS, score_classification

from .corpus import Split, load_corpus, split_of
from .reading import KINDS, LIBRARIES, Docstring


@dataclass(frozen=True, slots=True)
class DocstringTask:
    """Tell a docstring's library or kind from its text.

    Attributes:
        target: what to tell.
        train_examples, validation_examples, test_examples: size of a sample of the split,
            stratified by library and kind, so that both tasks share their texts. A larger one
            holds the smaller ones; None, or more than there are, means all.
        libraries: import names of the libraries to read; None means all.
        sample_seed: seed of the samples.
    """

    target: Literal["library", "kind"]
    _: KW_ONLY
    train_examples: int | None = None
    validation_examples: int | None = None
    test_examples: int | None = None
    libraries: Sequence[str] | None = None
    sample_seed: int = 0

    def __post_init__(self) -> None:
        _check_libraries(self.name, self.libraries, least=2 if self.target == "library" else 1)
        for split in ("train", "validation", "test"):
            size = self._sample_size(split)
            classes = len(self._library_names()) + len(KINDS)
            least = classes if split == "train" else 1
            if size is not None and size < least:
                raise TaskError(
                    f"task {self.name!r}: {split}_examples must be at least {least}, got {size}.\n"
                    "Raise it, or leave it out to use the whole split."
                )

    @property
    def name(self) -> str:
        return f"docstring_{self.target}"

    @property
    def metrics(self) -> Mapping[str, Literal["max", "min"]]:
        return CLASSIFICATION_METRICS

    @property
    def primary_metric(self) -> str:
        return "auroc"

    @property
    def genes(self) -> Mapping[str, Any]:
        """What is worth searching: below 5e-4 the head hardly learns, and few layers do as well."""
        return {
            "schedule.learning_rate": {"low": 5.0e-4, "high": 8.0e-3, "log": True},
            "adapter.layers": ["all", "top-3", "top-2", "top-1"],
        }

    @property
    def profile(self) -> str:
        """The simulation that was fitted to these tasks."""
        return "minilm-docstrings"

    @property
    def label_names(self) -> tuple[str, ...]:
        return KINDS if self.target == "kind" else self._library_names()

    def load(self, context: DataContext) -> TaskData:
        """Return the splits. The first call in a ``cache_dir`` collects the corpus.

        Raises:
            TaskError: a library isn't installed.
        """
        corpus = load_corpus(context.cache_dir, self._library_names())
        return TaskData(
            train=self._examples(corpus, "train"),
            validation=self._examples(corpus, "validation"),
            test=self._examples(corpus, "test"),
            label_names=self.label_names,
        )

    def score(
        self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        return score_classification(labels, probabilities)

    def _library_names(self) -> tuple[str, ...]:
        return tuple(LIBRARIES if self.libraries is None else self.libraries)

    def _sample_size(self, split: Split) -> int | None:
        sizes = {
            "train": self.train_examples,
            "validation": self.validation_examples,
            "test": self.test_examples,
        }
        return sizes[split]

    def _examples(self, corpus: Sequence[Docstring], split: Split) -> Examples:
        """Return a sample of a split; tasks with the same sizes share the same texts."""
        index = {label: number for number, label in enumerate(self.label_names)}
        members = [docstring for docstring in corpus if split_of(docstring.module) == split]
        strata = [(member.library, member.kind) for member in members]
        rng = stream(self.sample_seed, "docstrings", split)
        chosen = _stratified_order(strata, rng)[: self._sample_size(split)]
        labels = [index[getattr(members[i], self.target)] for i in chosen]
        return Examples(
            texts=tuple(members[i].text for i in chosen), labels=np.array(labels, np.int64)
        )


def _stratified_order(strata: Sequence[tuple[str, str]], rng: np.random.Generator) -> list[int]:
    """Return a random order whose every beginning has the strata in about their true shares.

    The ``i``-th of a stratum's ``s`` examples, shuffled, goes to position ``(i + 1/2) / s``; the
    first one of each library and of each kind goes to the front, so that a small sample misses no
    class.
    """
    shuffled = [int(i) for i in rng.permutation(len(strata))]
    sizes = Counter(strata)
    seen: Counter[tuple[str, str]] = Counter()
    position: dict[int, float] = {}
    names: set[str] = set()
    for i in shuffled:
        first = not names.issuperset(strata[i])
        names.update(strata[i])
        position[i] = 0.0 if first else (seen[strata[i]] + 0.5) / sizes[strata[i]]
        seen[strata[i]] += 1
    return sorted(shuffled, key=position.__getitem__)


def _check_libraries(task: str, libraries: Sequence[str] | None, least: int) -> None:
    if libraries is None:
        return
    known = ", ".join(LIBRARIES)
    if isinstance(libraries, str) or not all(isinstance(name, str) for name in libraries):
        raise TaskError(
            f"task {task!r}: libraries must be a list of names, got {libraries!r}.\n"
            f"Choose from {known}."
        )
    unknown = [name for name in libraries if name not in LIBRARIES]
    if unknown:
        raise TaskError(
            f"task {task!r}: libraries must be known ones, got {list(libraries)}.\n"
            f"Choose from {known}."
        )
    if len(set(libraries)) != len(libraries) or len(libraries) < least:
        raise TaskError(
            f"task {task!r}: libraries must hold at least {least} names without"
            f" repeats, got {list(libraries)}.\nChoose from {known}."
        )
