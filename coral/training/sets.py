"""The sets that a trainer trains and evaluates on, made once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from coral.capabilities import collating, proxies_of, viewed, views_of
from coral.errors import TaskError
from coral.plan import TrainingPlan
from coral.ports import (
    PLAIN,
    Examples,
)
from coral.training.base import BaseModel
from coral.training.collated import collated_evaluation_set, collated_train_set
from coral.training.data import BatchSource, LoadedTask, build_train_set
from coral.training.evaluation import (
    named,
)
from coral.training.evaluation_sets import EvaluationSet, build_evaluation_set, evaluation_part
from coral.training.streaming import StreamedSet
from coral.training.texts import Tokenize, tokenize
from coral.training.token_cache import TokenCache


class DataSets:
    """All tasks' examples as a base model takes them, by split, length, share and view."""

    def __init__(
        self,
        base: BaseModel,
        tasks: Mapping[str, LoadedTask],
        tokens: Path | None = None,
        processor: Any = None,
    ) -> None:
        """Args:
        tokens: folder in which processes keep tokenized texts; None to keep none.
        processor: of the base, for a task that makes the model's inputs itself.

        Raises:
            TaskError: such a task is not alone, or one that streams is beside one whose answers are
                written.
        """
        self._tokenizer = base.tokenizer
        self._tasks = dict(tasks)
        self._processor = processor
        self._collating = _collating_task(tasks)
        self._train_sets: dict[tuple[int, int], BatchSource] = {}
        self._splits: dict[tuple[str, int, float, str], EvaluationSet] = {}
        self._tokenized: Tokenize | None = None
        if tokens is not None:
            self._tokenized = TokenCache(base.tokenizer, base.digest, tokens)
        if self.stream and any(loaded.data.causal is not None for loaded in tasks.values()):
            raise TaskError(
                "a task that streams can't be trained beside one whose answers are written.\n"
                "Leave streaming out, or train them in runs of their own."
            )

    @property
    def stream(self) -> bool:
        """Whether examples are read while training asks for them."""
        return any(loaded.data.stream is not None for loaded in self._tasks.values())

    @property
    def collates(self) -> bool:
        """Whether a task makes the model's inputs itself."""
        return self._collating is not None

    def train_set(self, plan: TrainingPlan, seed: int) -> BatchSource:
        key = (plan.encoding.sequence_len, seed)
        if self.stream:
            tokenized = partial(tokenize, self._tokenizer)
            return StreamedSet(tasks=self._tasks, tokenized=tokenized, sequence_len=key[0])
        if key not in self._train_sets:
            self._train_sets[key] = (
                build_train_set(self._tasks, self._tokenizer, *key, self._tokenized)
                if self._collating is None
                else collated_train_set(self._collating, self._processor, *key)
            )
        return self._train_sets[key]

    def views(
        self, split: str, sequence_len: int, percentage: float = 100, stage: int | None = None
    ) -> dict[str, EvaluationSet]:
        """Return a split by the views that are needed, the plain one among them.

        Args:
            stage: index of the one whose proxies are needed besides metrics.
        """
        needed = (view for loaded in self._tasks.values() for view in views_of(loaded.task, stage))
        return {
            view: self.split(split, sequence_len, percentage, view)
            for view in dict.fromkeys((PLAIN, *needed))
        }

    def split(
        self, split: str, sequence_len: int, percentage: float = 100, view: str = PLAIN
    ) -> EvaluationSet:
        """Return a share of a split of all tasks, or of those that have a view as it shows them."""
        key = (split, sequence_len, percentage, view)
        if key not in self._splits:
            parts = {
                name: evaluation_part(getattr(loaded.data, split), percentage)
                for name, loaded in self._tasks.items()
            }
            if view != PLAIN:
                parts = {
                    name: self._viewed(name, part, view)
                    for name, part in parts.items()
                    if view in self._views_of(name)
                }
            self._splits[key] = (
                build_evaluation_set(
                    parts, self._tokenizer, sequence_len, self._tasks, self._tokenized
                )
                if self._collating is None
                else collated_evaluation_set(
                    self._collating, parts[self._collating.name], self._processor, sequence_len
                )
            )
        return self._splits[key]

    def _viewed(self, task: str, part: Examples, view: str) -> Examples:
        """Return examples of a task as its view shows them."""
        with named(self._tasks[task], "view()"):
            return viewed(self._tasks[task].task, part, view)

    def _views_of(self, task: str) -> set[str]:
        """Return every view that a task is ever predicted on, but the plain one."""
        own = self._tasks[task].task
        return {*views_of(own), *(proxy.view for proxy in proxies_of(own).values())} - {PLAIN}


def _collating_task(tasks: Mapping[str, LoadedTask]) -> LoadedTask | None:
    """Return the task that makes the model's inputs itself; None if all have plain texts."""
    found = next((t for t in tasks.values() if collating(t.task) is not None), None)
    if found is not None and len(tasks) > 1:
        raise TaskError(
            f"task {found.name} makes the model's inputs itself, so it must be the only one of its"
            f" run, got {', '.join(tasks)}.\nGive the other tasks runs of their own."
        )
    return found
