"""A task: its data, and the protocol that every plugin keeps to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.records import Direction

Problem = Literal["single_label", "multi_label", "regression", "causal_lm"]
"""What a task asks for: one class of several, any number of labels, numbers, or written answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """One split of a task.

    Attributes:
        texts: one string an example.
        labels: by the task's problem ``(n,)`` int64 class indices, ``(n, labels)`` int64 of 0 and
            1, or ``(n, numbers)`` float64; of written answers ``(n,)`` zeros.
        pairs: the second text of each example, where there are two; else empty.
        inputs: what else examples hold, such as images: name to one value an example.
    """

    texts: tuple[str, ...]
    labels: NDArray[Any]
    pairs: tuple[str, ...] = ()
    inputs: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int]) -> Examples:
        """Return some of the examples, in the order of ``rows``."""
        chosen = list(rows)
        return Examples(
            texts=tuple(self.texts[i] for i in chosen),
            labels=self.labels[chosen],
            pairs=tuple(self.pairs[i] for i in chosen) if self.pairs else (),
            inputs={name: [values[i] for i in chosen] for name, values in self.inputs.items()},
        )

    @property
    def contents(self) -> tuple[tuple[str, ...], ...]:
        """What each example says: its text, or its two texts."""
        return tuple(zip(self.texts, self.pairs, strict=True) if self.pairs else zip(self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleStream:
    """A train split that is read from its beginning, pass by pass, and never held whole.

    Attributes:
        examples: that make an epoch. A pass that comes to the end of the data before begins again.
        buffer: examples among which the next one is drawn.
        digest: identity of the data, without reading them whole.
        read: yields the examples in their order, the same each time, in parts of any size. May
            raise TaskError where one is not what it must be; that fails the trial that reads it.
    """

    examples: int
    buffer: int
    digest: str
    read: Callable[[], Iterator[Examples]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalSettings:
    """How a language model learns to write a task's answers.

    Attributes:
        train_on_inputs: learn to write the prompts, too.
        sample_packing: let several examples share a row; they don't see each other.
        chat_template: ``plain``, or a Jinja template; None for the tokenizer's own.
        generate_examples: most examples of a split for which answers are generated and compared.
        max_new_tokens: of an answer that is generated.
        prompt_format: how somebody's question becomes a prompt: ``{prompt}`` stands for it. None if
            it is said by the user of a conversation.
    """

    train_on_inputs: bool = False
    sample_packing: bool = False
    chat_template: str | None = None
    generate_examples: int = 0
    max_new_tokens: int = 64
    prompt_format: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """A task's three splits.

    Attributes:
        train: of a task that streams its first examples, which stand for all of them.
        label_names: of its classes, labels or numbers.
        notes: what the user should know of how the data were read, in words.
        causal: of a task whose answers are written (``causal_lm``), which has no label names. Its
            examples have the inputs ``messages`` (conversations of ``role`` and ``content``), or
            ``prompt`` and ``answer``.
        stream: of a task that streams, all that it trains on.
    """

    train: Examples
    validation: Examples
    test: Examples
    label_names: tuple[str, ...]
    problem: Problem = "single_label"
    notes: tuple[str, ...] = ()
    causal: CausalSettings | None = None
    stream: ExampleStream | None = None

    def __post_init__(self) -> None:
        if (self.problem == "causal_lm") != (self.causal is not None):
            raise TaskError(
                f"a task's data must have `causal` if their problem is causal_lm, and else not; got"
                f" {self.problem} and {self.causal}.\nCorrect the plugin."
            )
        if self.stream is not None and self.causal is not None:
            raise TaskError("tasks whose answers are written can't stream.\nCorrect the plugin.")

    @property
    def train_examples(self) -> int:
        """How many make an epoch."""
        return len(self.train) if self.stream is None else self.stream.examples


@dataclass(frozen=True, slots=True, kw_only=True)
class DataContext:
    """What a task may use while it loads its data.

    Attributes:
        cache_dir: a folder, shared by tasks and processes, for what can be made again.
    """

    cache_dir: Path


class Task(Protocol):
    """A task. Plugins register a factory: ``factory(**options) -> Task``."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> Mapping[str, Direction]:
        """Names of the metrics that ``score`` returns, with the direction that is better."""
        ...

    @property
    def primary_metric(self) -> str: ...

    def load(self, context: DataContext) -> TaskData:
        """Return the splits, the same in every process."""
        ...

    def score(self, labels: NDArray[Any], predictions: NDArray[np.float64]) -> Mapping[str, float]:
        """Score predictions.

        Args:
            labels: as in ``Examples``.
            predictions: ``(n, label_names)``: probabilities, of which a row sums to 1 if just one
                label is right; or numbers, in the unit of the labels. Of written answers
                statistics, ``(n, 3)`` or ``(n, 5)``, see ``coral.tasks.score_language``.
        """
        ...
