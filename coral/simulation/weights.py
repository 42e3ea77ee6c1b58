"""What a simulated checkpoint holds, and what children keep of it.

A simulated checkpoint is a few numbers. They travel in the address itself, so nothing is written to
the cache, and a run that is resumed finds all of them in its store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from coral.errors import CheckpointError
from coral.plan import AdapterPlan, TrainingPlan, adapted_modules, as_canonical_json, task_shares
from coral.ports import Survey
from coral.simulation.profile import Inheritance
from coral.simulation.surface import Progress

SCHEME = "simulated:"
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWeights:
    """Weights, as far as the simulation cares.

    Attributes:
        steps: optimizer steps that they have ever seen.
        epochs: passes over the full train set.
        rank: of the adapter.
        layers, targets: where it sits, as in the plan.
        pooling: as in the plan.
        shares: task name to its share of the training examples.
        progress: task name to progress of head and adapter.
    """

    steps: int
    epochs: float
    rank: int
    layers: str
    targets: str | tuple[str, ...]
    pooling: str
    shares: Mapping[str, float]
    progress: Mapping[str, tuple[float, float]]


def address_of(weights: SimulatedWeights) -> str:
    """Return the address that is the weights."""
    return SCHEME + as_canonical_json(
        {
            "steps": weights.steps,
            "epochs": _rounded(weights.epochs),
            "rank": weights.rank,
            "layers": weights.layers,
            "targets": weights.targets,
            "pooling": weights.pooling,
            "shares": {name: _rounded(share) for name, share in weights.shares.items()},
            "progress": {
                name: [_rounded(value) for value in pair] for name, pair in weights.progress.items()
            },
        }
    )


def weights_at(address: str) -> SimulatedWeights:
    """Return the weights that an address is.

    Raises:
        CheckpointError: it is the address of something else.
    """
    try:
        if not address.startswith(SCHEME):
            raise ValueError(address)
        data = json.loads(address.removeprefix(SCHEME))
        targets = data["targets"]
        return SimulatedWeights(
            **{
                **data,
                "targets": targets if isinstance(targets, str) else tuple(targets),
                "progress": {name: (pair[0], pair[1]) for name, pair in data["progress"].items()},
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{address} is no simulated checkpoint.\nTrain from scratch."
        ) from error


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


class WeightsInAddresses:
    """A ``CheckpointStore`` with nothing to store."""

    def put(self, content: bytes) -> str:
        return SCHEME + content.decode()

    def get(self, address: str) -> bytes:
        return address.removeprefix(SCHEME).encode()

    def discard(self, addresses: Iterable[str]) -> None:
        """Do nothing: an address takes no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where training begins: at nothing, or at what was inherited."""

    steps: int = 0
    epochs: float = 0.0
    progress: Mapping[str, Progress]


def start_of(
    plan: TrainingPlan,
    parents: Sequence[SimulatedWeights],
    inheritance: Inheritance,
    survey: Survey,
    tasks: Sequence[str],
) -> Start:
    """Return where a child of ``parents`` begins, the better parent first.

    An adapter's progress is kept as far as the child adapts the same features at the same rank;
    heads keep theirs unless the pooling differs. Both fade as the plans give the tasks other
    shares. Of two parents the child has, task by task, the progress of whoever brings more.
    """
    if not parents:
        return Start(progress={name: Progress() for name in tasks})
    shares = task_shares(plan.tasks, tasks)
    inherited = [_kept(plan, shares, parent, inheritance, survey) for parent in parents]
    return Start(
        steps=parents[0].steps,
        epochs=parents[0].epochs,
        progress={
            name: Progress(
                head=max(kept.get(name, (0.0, 0.0))[0] for kept in inherited),
                adapter=max(kept.get(name, (0.0, 0.0))[1] for kept in inherited),
            )
            for name in tasks
        },
    )


def _kept(
    plan: TrainingPlan,
    shares: Mapping[str, float],
    parent: SimulatedWeights,
    inheritance: Inheritance,
    survey: Survey,
) -> dict[str, tuple[float, float]]:
    """Return what a child keeps of one parent, by task."""
    moved = sum(abs(share - parent.shares.get(name, 0.0)) for name, share in shares.items()) / 2
    kept = inheritance.kept * (1 - moved)
    pooled = 1.0 if plan.encoding.pooling == parent.pooling else inheritance.pooling
    adapter = kept * retained_share(plan, parent, survey)
    return {
        name: (head * kept * pooled, tuned * adapter)
        for name, (head, tuned) in parent.progress.items()
    }


def retained_share(plan: TrainingPlan, parent: SimulatedWeights, survey: Survey) -> float:
    """Return the share of the parent's update that fits into the child's adapter.

    Growing loses nothing. Shrinking to a share of the rank keeps its square root of the energy, for
    trained updates have few large singular values.
    """
    modules = [(module.name, module.layer) for module in survey.linear_modules]
    width = {m.name: m.in_features + m.out_features for m in survey.linear_modules}
    own = set(adapted_modules(plan.adapter, modules, survey.depth))
    adapter = AdapterPlan(layers=parent.layers, target_modules=parent.targets)
    theirs = adapted_modules(adapter, modules, survey.depth)
    overlap = sum(width[name] for name in theirs if name in own) / sum(width[n] for n in theirs)
    kept: float = overlap * math.sqrt(min(1.0, plan.adapter.rank / parent.rank))
    return kept
