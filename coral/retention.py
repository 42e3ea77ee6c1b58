"""Keeping what a run's checkpoints take within ``cache_bytes``.

What is given up can be trained again, and is if a job asks for it: the budget costs time only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from coral.errors import CheckpointError
from coral.evolution import EvolutionState, Use, claims, spare, writes_ahead
from coral.ports import CheckpointStore, Ports
from coral.records import Outcome
from coral.settings import RunSpec


class RememberedSizes:
    """A ``CheckpointStore`` that asks another for each size once.

    Workers put into the other one; ``holds`` asks it again.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._sizes: dict[str, int | None] = {}

    def put(self, content: bytes) -> str:
        address = self._store.put(content)
        self._sizes[address] = len(content)
        return address

    def get(self, address: str) -> bytes:
        return self._store.get(address)

    def size(self, address: str) -> int | None:
        if address not in self._sizes:
            self._sizes[address] = self._store.size(address)
        return self._sizes[address]

    def holds(self, address: str) -> bool:
        self._sizes.pop(address, None)
        return bool(self.size(address))

    def discard(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            self._store.discard([address])
            self._sizes[address] = None


def make_room(state: EvolutionState, spec: RunSpec, ports: Ports) -> None:
    """Give up checkpoints so that the run's, and those written next, fit into ``cache_bytes``.

    What queued jobs need stays, also where it is more than that; the observer is told.
    """
    if spec.cache_bytes is None or spec.simulated:  # a simulation's take no room
        return
    try:
        _make_room(state, spec, spec.cache_bytes, ports)
    except CheckpointError as error:
        _tell_of(error, ports)


def give_up(addresses: Sequence[str], ports: Ports) -> None:
    """Discard checkpoints as far as the store lets them go."""
    try:
        ports.checkpoints.discard(addresses)
    except CheckpointError as error:
        _tell_of(error, ports)


def _tell_of(error: CheckpointError, ports: Ports) -> None:
    ports.observer.on_notice("cache", f"{error}\nThe run goes on with what it can reach.")


def _make_room(state: EvolutionState, spec: RunSpec, budget: int, ports: Ports) -> None:
    found = claims(state, spec)
    sizes = {claim.address: ports.checkpoints.size(claim.address) or 0 for claim in found}
    largest = max((max(claim.size, sizes[claim.address]) for claim in found), default=0)
    ahead = largest * writes_ahead(state, spec, ports.workers)
    queued = [claim for claim in found if claim.use is Use.QUEUED]
    needs = [(claim.trial, claim.stage) for claim in queued]
    ahead += sum(lost.checkpoint_bytes for lost in _lost(needs, state, ports.checkpoints))
    give_up([claim.address for claim in spare(found, sizes, budget - ahead)], ports)
    needed = ahead + sum(sizes[claim.address] for claim in queued)
    if needed > budget:
        ports.observer.on_notice(
            "cache_bytes",
            f"cache_bytes is {_megabytes(budget)}, and what queued jobs read and write takes"
            f" {_megabytes(needed)}; it stays.\n"
            "Raise cache_bytes at least to that, or breed a smaller population.",
        )


def _lost(
    roots: Iterable[tuple[int, int | None]], state: EvolutionState, checkpoints: CheckpointStore
) -> Iterator[Outcome]:
    """Yield what is gone of trials' weights, and of those that it takes to make them again.

    Args:
        roots: trial numbers with stages; the final confirmation's, which is None, inherit nothing.
    """
    open_ends, seen = list(roots), set()
    while open_ends:
        trial, stage = open_ends.pop()
        if stage is None or (trial, stage) in seen:
            continue
        seen.add((trial, stage))
        outcome = state.outcome_of(trial, stage)
        if outcome and outcome.checkpoint and not checkpoints.size(outcome.checkpoint):
            yield outcome
            open_ends += [(item.trial, item.stage) for item in state.candidate(trial).legacy]


def _megabytes(count: float) -> str:
    return f"{math.ceil(count / 1e4) / 100:,.2f} MB"
