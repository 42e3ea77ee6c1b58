"""Tokenized data, ready to be padded into batches."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from coral.errors import TaskError
from coral.fidelity.stages import Stage
from coral.plan import TrainingPlan
from coral.ports import CausalSettings, Examples, Strategies, Task, TaskData
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
from coral.training.conversations import Rendered, Renderer, encode
from coral.training.targets import Target

Content = str | tuple[str, ...]
"""What an example says: a text, or one or two of them."""
WRITTEN = ("messages", "prompt", "answer")
"""Inputs of tasks whose answers are written."""


class ModelInputs(Protocol):
    """Examples that a model can be called with."""

    @property
    def lengths(self) -> Indices:
        """``(n,)`` tokens of each example."""
        ...

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return what the model is called with for some examples, padded on the right."""
        ...


class Padded(NamedTuple):
    """Texts as long as the longest of them, each ``(rows, longest)``.

    Attributes:
        segments: 0 for tokens of first texts and 1 for those of second ones; None if there are
            none, or if the model does not tell them apart.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor | None = None

    def on(self, device: torch.device) -> Padded:
        """Return them on a device."""
        return self.each(lambda tensor: on_device(tensor, device))

    def each(self, change: Callable[[Tensor], Tensor]) -> Padded:
        """Return them all changed in the same way."""
        segments = None if self.segments is None else change(self.segments)
        return Padded(change(self.ids), change(self.mask), segments)

    def inputs(self) -> dict[str, Tensor]:
        """Return them by the names that models give them."""
        named = {"input_ids": self.ids, "attention_mask": self.mask}
        return named if self.segments is None else {**named, "token_type_ids": self.segments}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedTexts:
    """Texts as token ids, one after another.

    Attributes:
        ids: ``(total tokens,)`` int64.
        starts: ``(n + 1,)``; text i is ``ids[starts[i]:starts[i + 1]]``.
        segments: ``(total tokens,)`` int8, as in ``Padded``.
        trained: ``(total tokens,)``, those that a language model learns to write; None for none.
        passing: they come by and go; what is computed of them is not kept for others.
        digest: identity of the texts.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    pad_id: int
    segments: NDArray[np.int8] | None = None
    trained: NDArray[np.bool_] | None = None
    passing: bool = False
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(np.ascontiguousarray(self.ids).data)
        digest.update(np.ascontiguousarray(self.starts).data)
        if self.segments is not None:
            digest.update(np.ascontiguousarray(self.segments).data)
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def lengths(self) -> Indices:
        lengths: Indices = np.diff(self.starts)
        return lengths

    @property
    def trained_tokens(self) -> Indices:
        """Tokens of each text that are trained, ``(n,)``."""
        if self.trained is None:
            return np.zeros(len(self.starts) - 1, dtype=np.int64)
        sums = np.concatenate([[0], np.cumsum(self.trained)])
        counts: Indices = sums[self.starts[1:]] - sums[self.starts[:-1]]
        return counts

    def inputs(self, rows: Indices) -> dict[str, Tensor]:
        """Return ids and attention mask of some texts by the names that models give them."""
        return self.pad(rows).inputs()

    def pad(self, rows: Indices) -> Padded:
        """Return ids and attention mask of some texts."""
        lengths = self.lengths[rows]
        ids = np.full((len(rows), int(lengths.max())), self.pad_id, dtype=np.int64)
        segments = None if self.segments is None else np.zeros_like(ids)
        for i, row in enumerate(rows):
            own = slice(self.starts[row], self.starts[row + 1])
            ids[i, : lengths[i]] = self.ids[own]
            if segments is not None and self.segments is not None:
                segments[i, : lengths[i]] = self.segments[own]
        mask = np.arange(ids.shape[1])[None, :] < lengths[:, None]
        return Padded(
            torch.from_numpy(ids),
            torch.from_numpy(mask.astype(np.int64)),
            None if segments is None else torch.from_numpy(segments),
        )


def as_tokenized(texts: ModelInputs) -> TokenizedTexts:
    """Return inputs where only texts can be: who makes other inputs has a head and trains alone."""
    assert isinstance(texts, TokenizedTexts)
    return texts


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU is not waited for."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def tokens_at_once(device: torch.device) -> int:
    """Return how many tokens a pass without gradients takes, padding included.

    On a CPU what lies between two products should stay in its caches: 480 texts took 3.8 s with
    512 tokens, 4.3 s with 1 024 and 4.8 s with 4 096. A GPU wants large products.
    """
    return 16384 if device.type == "cuda" else 512


def batched_by_length(lengths: Indices, most_tokens: int) -> list[Indices]:
    """Cut texts, the shortest first, into batches of few padded tokens, one text at least.

    Args:
        lengths: ``(n,)`` tokens of each text.
        most_tokens: of a batch, padding included.

    Returns:
        Positions of texts, batch by batch.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        window = lengths[order[start : start + most_tokens]]
        fits = int((np.arange(1, len(window) + 1) * window <= most_tokens).sum())
        batches.append(order[start : start + max(1, fits)])
        start += len(batches[-1])
    return batches


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Content],
    sequence_len: int,
) -> TokenizedTexts:
    """Tokenize texts, or tuples of one or two, with special tokens, cut to ``sequence_len``.

    Of two texts the longer one is cut.
    """
    contents = [(text,) if isinstance(text, str) else text for text in texts]
    ids: list[list[int]] = [[] for _ in contents]
    segments: list[list[int]] = [[] for _ in contents]
    for width in {len(content) for content in contents}:
        members = [i for i, content in enumerate(contents) if len(content) == width]
        columns = zip(*(contents[i] for i in members), strict=True)
        encoded = tokenizer(*map(list, columns), truncation=True, max_length=sequence_len)
        types = encoded.get("token_type_ids") or [[0] * len(own) for own in encoded["input_ids"]]
        for i, own_ids, own_types in zip(members, encoded["input_ids"], types, strict=True):
            ids[i], segments[i] = own_ids, own_types
    by_token = np.array([*itertools.chain.from_iterable(segments)], dtype=np.int8)
    return TokenizedTexts(
        ids=np.array([*itertools.chain.from_iterable(ids)], dtype=np.int64),
        starts=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        pad_id=_pad_id(tokenizer),
        segments=by_token if by_token.any() else None,
    )


def tokenize_answers(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Rendered], sequence_len: int
) -> TokenizedTexts:
    """Tokenize what a language model learns to write, cut to ``sequence_len``."""
    ids, trained = encode(tokenizer, examples, sequence_len)
    return TokenizedTexts(
        ids=np.concatenate(ids),
        starts=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        pad_id=_pad_id(tokenizer),
        trained=np.concatenate(trained),
    )


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else 0


Tokenize = Callable[[Sequence[Content], int], TokenizedTexts]
"""Tokenizes texts, cut to a length; see ``tokenize``."""


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
    texts = _one_after_another(list(parts.values()))
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


def _one_after_another(parts: Sequence[TokenizedTexts]) -> TokenizedTexts:
    """Return texts of several tasks as one; those of a single task stay where they are."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
    starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    segments = [
        np.zeros(len(part.ids), np.int8) if part.segments is None else part.segments
        for part in parts
    ]
    trained = [
        np.zeros(len(part.ids), dtype=np.bool_) if part.trained is None else part.trained
        for part in parts
    ]
    return TokenizedTexts(
        ids=np.concatenate([part.ids for part in parts]),
        starts=np.concatenate([*starts, offsets[-1:]]),
        pad_id=parts[0].pad_id,
        segments=None if all(part.segments is None for part in parts) else np.concatenate(segments),
        trained=None if all(part.trained is None for part in parts) else np.concatenate(trained),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One split of a task whose answers are written.

    Attributes:
        rendered: its examples, in their order.
        texts: the same as tokens.
    """

    rendered: tuple[Rendered, ...]
    texts: TokenizedTexts
    settings: CausalSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One split of all tasks; a text that several tasks share is held, and encoded, once.

    Attributes:
        texts: the different texts of tasks with heads.
        rows: name of a task with a head to ``(n,)`` positions in ``texts``.
        labels: task name to labels as in ``ports.Examples``.
        answers: by task whose answers are written.
    """

    texts: ModelInputs
    rows: Mapping[str, Indices]
    labels: Mapping[str, NDArray[Any]]
    answers: Mapping[str, Answers] = field(default_factory=dict)

    @property
    def lengths(self) -> Indices:
        """Tokens of every text."""
        parts = [self.texts.lengths, *(own.texts.lengths for own in self.answers.values())]
        return np.concatenate(parts)


def build_evaluation_set(
    splits: Mapping[str, Examples],
    tokenizer: PreTrainedTokenizerBase,
    sequence_len: int,
    tasks: Mapping[str, LoadedTask] | None = None,
    plain: Tokenize | None = None,
) -> EvaluationSet:
    """Return tasks' examples as one set, texts in order of first appearance.

    Args:
        tasks: those of ``splits``; None if all of them have heads.
        plain: tokenizes texts without answers; None for ``tokenize``.
    """
    positions: dict[tuple[str, ...], int] = {}
    rows, answers = {}, {}
    for name, split in splits.items():
        loaded = (tasks or {}).get(name)
        if loaded is not None and loaded.data.causal is not None:
            rendered = loaded.rendered(split, tokenizer)
            texts = tokenize_answers(tokenizer, rendered, sequence_len)
            settings = loaded.data.causal
            answers[name] = Answers(rendered=tuple(rendered), texts=texts, settings=settings)
        else:
            places = [positions.setdefault(own, len(positions)) for own in split.contents]
            rows[name] = np.array(places, dtype=np.int64)
    return EvaluationSet(
        texts=(plain or partial(tokenize, tokenizer))(tuple(positions), sequence_len),
        rows=rows,
        labels={task: split.labels for task, split in splits.items()},
        answers=answers,
    )


def evaluation_part(split: Examples, percentage: float) -> Examples:
    """Return a share of a split, nested between shares.

    The choice depends on the texts alone, so that tasks that share texts share the part as well.
    """
    count = max(1, int(np.ceil(len(split) * percentage / 100 - 1e-9)))
    contents = ["\x1f".join(content).encode() for content in split.contents]
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(contents[i]).digest())
    return split.take(sorted(order[:count]))


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
