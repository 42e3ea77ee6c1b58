"""What a simulated checkpoint holds.

A simulated checkpoint is a few numbers. They travel in the address itself, so nothing is written to
the cache, and a run that is resumed finds all of them in its store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

from coral.errors import CheckpointError
from coral.plan import AdapterPlan, adapted_modules
from coral.ports import Survey

SCHEME = "simulated:"
_TOLD = 60
"""Characters of an address that are told of one that can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Where one adapter sits, as in its plan."""

    rank: int
    layers: str
    targets: str | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """Whose own luck with the choice of evaluated examples is in some weights, to what share.

    Attributes:
        identity: of a course.
        step: on it.
    """

    identity: str
    step: int
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWeights:
    """Weights, as far as the simulation cares.

    Attributes:
        steps: optimizer steps that they have ever seen, along the longest line.
        teraflops: spent on them, along the most expensive line.
        epochs: passes over the full train set, along the longest line.
        rank: of no update more than this.
        parts: the adapters whose sum they are; one, unless they were put together.
        breadth: over how many times as many directions as those of one training run the energy of
            the updates spreads.
        place: where they lie in the space of weights, 0 for none at all and about 1 from there once
            trained; sums of weights lie between.
        has_moments: the optimizer's moments are there; training alone makes them.
        pooling: as in the plan.
        shares: task name to its share of the training examples.
        progress: task name to progress of head and adapter.
        deviation: task name to what chance and blending have added to the log-error.
        errors: task name to the log-error that an evaluation finds, but for the choice of examples.
        overfitted: the part of it that overfitting makes up.
        luck: with the choice of examples.
    """

    steps: int
    teraflops: float
    epochs: float
    rank: int
    parts: tuple[Part, ...]
    breadth: float
    place: tuple[float, ...]
    has_moments: bool
    pooling: str
    shares: Mapping[str, float]
    progress: Mapping[str, tuple[float, float]]
    deviation: Mapping[str, float]
    errors: Mapping[str, float]
    overfitted: float
    luck: tuple[Luck, ...]

    def ranks(self, survey: Survey) -> dict[str, int]:
        """Return the rank of each adapted module."""
        modules = [(module.name, module.layer) for module in survey.linear_modules]
        total: dict[str, int] = {}
        for part in self.parts:
            adapter = AdapterPlan(layers=part.layers, target_modules=part.targets)
            for name in adapted_modules(adapter, modules, survey.depth):
                total[name] = total.get(name, 0) + part.rank
        return {name: min(self.rank, rank) for name, rank in total.items()}


def address_of(weights: SimulatedWeights) -> str:
    """Return the address that is the weights."""
    return SCHEME + _codec().dump_json(weights).decode()


def weights_at(address: str) -> SimulatedWeights:
    """Return the weights that an address is.

    Raises:
        CheckpointError: it is the address of something else.
    """
    try:
        if not address.startswith(SCHEME):
            raise ValueError(address)
        return _codec().validate_json(address.removeprefix(SCHEME))
    except ValueError as error:
        raise CheckpointError(f"{address[:_TOLD]} is no simulated checkpoint") from error


@cache
def _codec() -> TypeAdapter[SimulatedWeights]:
    return TypeAdapter(SimulatedWeights)


class WeightsInAddresses:
    """A ``CheckpointStore`` with nothing to store."""

    def put(self, content: bytes) -> str:
        return SCHEME + content.decode()

    def get(self, address: str) -> bytes:
        return address.removeprefix(SCHEME).encode()

    def holds(self, address: str) -> bool:
        return address.startswith(SCHEME)

    def size(self, address: str) -> int | None:
        """Return the length of the content: all of it is there, though not in the cache."""
        return len(self.get(address)) if self.holds(address) else None

    def discard(self, addresses: Iterable[str]) -> None:
        """Do nothing: an address takes no room."""
