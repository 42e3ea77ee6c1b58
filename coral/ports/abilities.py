"""What a task may have besides: each a protocol of its own, asked for in ``coral.capabilities``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coral.ports.task import Examples

PLAIN = "plain"
"""Name of the examples as they are, among a task's views."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A cheap metric of a task's own, which prune rules may name.

    Attributes:
        score: called like ``Task.score``, on the validation split; returns one number.
        stage: index of the stage that it serves; it is computed there and nowhere else.
        view: whose predictions it is called with, see ``HasViews``.
        stands_for: metric of the task that it foretells; how well is measured in every run.
            Empty if it foretells none.
    """

    score: Callable[[NDArray[Any], NDArray[np.float64]], float]
    stage: int = 0
    view: str = PLAIN
    stands_for: str = ""


@runtime_checkable
class HasDifficulty(Protocol):
    """A task that knows which of its examples are hard; else the longer text is the harder one."""

    def difficulty(self, examples: Examples) -> NDArray[np.float64]:
        """Return ``(n,)`` numbers, more for the harder ones; only their order counts."""
        ...


@runtime_checkable
class HasDomains(Protocol):
    """A task whose examples come from several domains, whose shares its parts and batches keep."""

    def domains(self, examples: Examples) -> Sequence[str]:
        """Return the name of each example's domain."""
        ...


@runtime_checkable
class HasProxies(Protocol):
    """A task with cheap metrics for early stages, by name."""

    @property
    def proxies(self) -> Mapping[str, Proxy]: ...


@runtime_checkable
class HasGenes(Protocol):
    """A task that knows what is worth searching on its data."""

    @property
    def genes(self) -> Mapping[str, Any]:
        """Entries of a ``search_space`` block, as a config would write them."""
        ...


@runtime_checkable
class HasProfile(Protocol):
    """A task that says which profile ``--simulate`` should use."""

    @property
    def profile(self) -> str | Path:
        """A bundled profile's name, or the absolute path of one that ``coral calibrate`` wrote."""
        ...


@runtime_checkable
class HasViews(Protocol):
    """A task some of whose metrics, or proxies, need predictions on altered examples."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that its metrics need; none if they need none."""
        ...

    def view(self, examples: Examples, name: str) -> Examples:
        """Return examples as a view shows them, each by itself, in their order."""
        ...

    def score_views(
        self, labels: NDArray[Any], predictions: Mapping[str, NDArray[np.float64]]
    ) -> Mapping[str, float]:
        """Return those of the task's ``metrics`` that ``score`` does not.

        Args:
            labels: as ``score`` has them.
            predictions: by view, ``PLAIN`` included, each as ``score`` has them.
        """
        ...


@runtime_checkable
class HasCollate(Protocol):
    """A task that makes the model's inputs itself, as of texts with images.

    It is the only task of its run, on a base model that comes with a processor.
    """

    def lengths(self, examples: Examples, processor: Any, sequence_len: int) -> NDArray[np.int64]:
        """Return ``(n,)`` tokens of each example as ``collate`` makes them, padding aside."""
        ...

    def collate(
        self, examples: Examples, rows: Sequence[int], processor: Any, sequence_len: int
    ) -> Mapping[str, Any]:
        """Return what the model is called with for some examples.

        Args:
            processor: what ``transformers.AutoProcessor`` finds for the base model.
            sequence_len: tokens that a text is cut to; those of images come on top.

        Returns:
            Tensors by the model's names for them, ``input_ids`` and ``attention_mask`` among
            them, padded on the right.
        """
        ...
