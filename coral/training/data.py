"""The tasks' data, ready to be trained on."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from coral.errors import TaskError
from coral.fidelity.stages import Stage
from coral.plan import TrainingPlan
from coral.ports import Examples, Strategies, Task, TaskData
from coral.strategies import OWN
from coral.training.batches import (
    Indices,
    TrainIndex,
    build_index,
    examples_by_task,
    loss_weights_of,
    stage_batches,
    strata,
)
from coral.training.conversations import Rendered, Renderer
from coral.training.targets import Target
from coral.training.texts import (
    WRITTEN,
    ModelInputs,
    Tokenize,
    TokenizedTexts,
    one_after_another,
    tokenize,
    tokenize_answers,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The examples of one optimizer step.

    Attributes:
        examples: a set that holds them, with or without others.
        rows: ``(batch_size,)`` of that set.
    """

    examples: TrainSet
    rows: Indices

    @property
    def lengths(self) -> Indices:
        return self.examples.index.length[self.rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The batches of one stage, in the order of steps.

    Attributes:
        drawn: examples of each task in them.
        draw: yields them, from the first on.
        notes: what turned out while they were drawn, in words.
    """

    count: int
    drawn: tuple[int, ...]
    draw: Callable[[], Iterator[Batch]]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return self.draw()


class BatchSource(Protocol):
    """What a run trains on, at one sequence length."""

    @property
    def passing(self) -> bool:
        """Whether its texts are never held whole."""
        ...

    @property
    def beyond(self) -> dict[str, int]:
        """Examples whose answers lie wholly beyond the cut, by task that has any."""
        ...

    def __len__(self) -> int:
        """Return how many examples make an epoch."""
        ...

    def loss_weights(
        self, plan: TrainingPlan, strategies: Strategies
    ) -> NDArray[np.float32] | None:
        """Return ``(examples,)`` how much the loss of each counts; None for all alike."""
        ...

    def batches(
        self,
        plan: TrainingPlan,
        stages: Sequence[Stage],
        stage: int,
        seed: int,
        seen: Sequence[int] = (),
        strategies: Strategies = OWN,
    ) -> Batches:
        """Return the batches of one stage: a function of the arguments and the data alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSet:
    """All tasks' train examples at one sequence length, one task after another.

    Attributes:
        labels: of each task's examples, as ``Target.losses`` takes them.
        starts: ``(tasks + 1,)`` rows where tasks begin.
        capacity: by task whose answers are written, the tokens that share a row; None for one text
            a row.
        written: ``(n,)`` tokens of each example that are trained; 0 where there is a label instead.
    """

    texts: ModelInputs
    labels: tuple[Tensor, ...]
    starts: Indices
    index: TrainIndex
    capacity: Mapping[str, int | None]
    written: Indices

    def __len__(self) -> int:
        return len(self.index)

    @property
    def passing(self) -> bool:
        """Whether its texts are never held whole."""
        return False

    def loss_weights(
        self, plan: TrainingPlan, strategies: Strategies
    ) -> NDArray[np.float32] | None:
        """Return ``(examples,)`` how much the loss of each counts; see ``loss_weights_of``."""
        return loss_weights_of(plan, self.index, strategies)

    def batches(
        self,
        plan: TrainingPlan,
        stages: Sequence[Stage],
        stage: int,
        seed: int,
        seen: Sequence[int] = (),
        strategies: Strategies = OWN,
    ) -> Batches:
        """Return the batches of one stage; see ``stage_batches``."""
        rows = stage_batches(plan, self.index, stages, stage, seed, seen, strategies)
        return Batches(
            count=len(rows),
            drawn=examples_by_task(self.index, rows),
            draw=lambda: (Batch(examples=self, rows=own) for own in rows),
        )

    def labels_of(self, task: int, rows: Indices) -> Tensor:
        """Return the labels of some rows, all of them of one task."""
        return self.labels[task][torch.from_numpy(rows - self.starts[task])]

    @property
    def beyond(self) -> dict[str, int]:
        """Examples whose answers lie wholly beyond the cut, by task that has any."""
        lost = {
            name: int(((self.index.task == number) & ~self.index.usable).sum())
            for number, name in enumerate(self.index.tasks)
        }
        return {name: count for name, count in lost.items() if count}

    def token_shares(self, rows: Indices) -> dict[str, float]:
        """Return what one trained token counts in a batch's loss, by task of which it has any."""
        shares = {}
        for number, name in enumerate(self.index.tasks):
            own = rows[self.index.task[rows] == number]
            if name in self.capacity and len(own):
                shares[name] = len(own) / len(rows) / int(self.written[own].sum())
        return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTask:
    """A task with its data, in memory as far as they don't stream.

    Attributes:
        plugin: what messages call the plugin that it comes from.
        difficulty: ``(n,)``, how hard the task finds its train examples; None if it doesn't say.
        domains: of the train examples; None if the task has none.
    """

    task: Task
    data: TaskData
    plugin: str = ""
    difficulty: NDArray[np.float64] | None = None
    domains: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def target(self) -> Target:
        """What its head predicts."""
        return Target.of(self.data)

    def rendered(self, split: Examples, tokenizer: PreTrainedTokenizerBase) -> list[Rendered]:
        """Return a split's examples as texts that are written, of a task that has answers.

        Raises:
            ModelError, TaskError: see ``Renderer``.
        """
        assert self.data.causal is not None
        return Renderer(self.name, tokenizer, self.data.causal).render(split)

    def tokenized(
        self,
        split: Examples,
        tokenizer: PreTrainedTokenizerBase,
        sequence_len: int,
        plain: Tokenize | None = None,
    ) -> TokenizedTexts:
        """Return a split's examples as tokens. Raises as ``rendered`` does.

        Args:
            plain: tokenizes texts without answers; None for ``tokenize``.
        """
        if self.data.causal is None:
            return (plain or partial(tokenize, tokenizer))(split.contents, sequence_len)
        return tokenize_answers(tokenizer, self.rendered(split, tokenizer), sequence_len)


def build_train_set(
    tasks: Mapping[str, LoadedTask],
    tokenizer: PreTrainedTokenizerBase,
    sequence_len: int,
    seed: int,
    plain: Tokenize | None = None,
) -> TrainSet:
    """Return all tasks' train splits as one indexed set.

    Args:
        plain: tokenizes texts without answers; None for ``tokenize``.

    Raises:
        TaskError: all of a task's answers lie beyond the cut, or its template refuses an example.
        ModelError: the tokenizer can't tell answers apart.
    """
    parts = {
        name: loaded.tokenized(loaded.data.train, tokenizer, sequence_len, plain)
        for name, loaded in tasks.items()
    }
    causal = {name: task.data.causal for name, task in tasks.items() if task.data.causal}
    texts = one_after_another(list(parts.values()))
    usable = {name: parts[name].trained_tokens > 0 for name in causal}
    for name, rows in usable.items():
        if not rows.any():
            raise TaskError(
                f"task {name!r}: answers must begin within sequence_len ({sequence_len}) tokens;"
                " none does.\nRaise sequence_len."
            )
    capacity = {
        name: sequence_len if settings.sample_packing else None for name, settings in causal.items()
    }
    lengths = {name: part.lengths for name, part in parts.items()}
    written = np.concatenate([part.trained_tokens for part in parts.values()])
    return train_set_of(
        tasks, texts, lengths, seed, usable=usable, capacity=capacity, written=written
    )


def train_set_of(
    tasks: Mapping[str, LoadedTask],
    texts: ModelInputs,
    lengths: Mapping[str, Indices],
    seed: int,
    *,
    usable: Mapping[str, NDArray[np.bool_]] | None = None,
    capacity: Mapping[str, int | None] | None = None,
    written: Indices | None = None,
) -> TrainSet:
    """Return all tasks' train splits, one after another in ``texts``, as an indexed set.

    Args:
        lengths: of each task's examples in tokens, ``(n,)``.
        usable: as ``build_index`` takes it.
        capacity, written: as in ``TrainSet``; None where all tasks have heads.
    """
    groups = {
        name: strata(loaded.data.problem, loaded.data.train.labels, loaded.domains)
        for name, loaded in tasks.items()
    }
    return TrainSet(
        texts=texts,
        labels=tuple(loaded.target.encode(loaded.data.train.labels) for loaded in tasks.values()),
        starts=np.cumsum([0, *(len(loaded.data.train) for loaded in tasks.values())]),
        index=build_index(
            groups,
            lengths,
            seed,
            {name: (own.data.problem, own.data.train.labels) for name, own in tasks.items()},
            difficulty={
                name: loaded.difficulty
                for name, loaded in tasks.items()
                if loaded.difficulty is not None
            },
            usable=usable,
            balanced={name for name, loaded in tasks.items() if loaded.domains is not None},
        ),
        capacity=capacity or {},
        written=np.zeros(len(texts.lengths), dtype=np.int64) if written is None else written,
    )


def assemble(
    splits: Mapping[str, Examples], targets: Mapping[str, Target], texts: TokenizedTexts
) -> TrainSet:
    """Return some examples of tasks with heads as one set, whose order is nobody's concern.

    Args:
        texts: of all tasks, one task after another.
    """
    starts = np.cumsum([0, *map(len, splits.values())])
    lengths = {
        name: texts.lengths[start:end]
        for name, start, end in zip(splits, starts[:-1], starts[1:], strict=True)
    }
    groups = {name: np.zeros(len(split), dtype=np.int64) for name, split in splits.items()}
    return TrainSet(
        texts=texts,
        labels=tuple(targets[name].encode(split.labels) for name, split in splits.items()),
        starts=starts,
        index=build_index(groups, lengths, seed=0),
        capacity={},
        written=np.zeros(len(texts.lengths), dtype=np.int64),
    )


def data_digest(tasks: Mapping[str, LoadedTask]) -> str:
    """Return the identity of every split of every task."""
    digest = hashlib.sha256()
    for name, loaded in tasks.items():
        digest.update(f"{name}\x1e{loaded.data.label_names}\x1e".encode())
        if loaded.data.causal is not None:
            digest.update(f"{loaded.data.causal}\x1e".encode())
        for split in (loaded.data.train, loaded.data.validation, loaded.data.test):
            _update(digest, split)
        if loaded.data.stream is not None:
            digest.update(loaded.data.stream.digest.encode())
        if loaded.difficulty is not None:
            digest.update(b"\x1edifficulty" + loaded.difficulty.tobytes())
        if loaded.domains is not None:
            digest.update("\x1f".join(("\x1edomains", *loaded.domains)).encode())
    return digest.hexdigest()


def _update(digest: hashlib._Hash, split: Examples) -> None:
    digest.update("\x1f".join(itertools.chain.from_iterable(split.contents)).encode())
    digest.update(np.ascontiguousarray(split.labels).tobytes())
    for name in WRITTEN:
        if name in split.inputs:
            digest.update(f"\x1d{name}\x1f{json.dumps(list(split.inputs[name]))}".encode())
    for name in sorted(set(split.inputs) - set(WRITTEN)):
        digest.update(f"\x1d{name}\x1f{list(split.inputs[name])!r}".encode())
