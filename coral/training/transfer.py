"""What a child inherits from the trained adapters of its parents.

A child has ranks, scalings and targets of its own. Weights cross over as updates
(``scaling * b @ a``), never as factors, so that none of these differences changes what a parent has
learned; where the child is smaller, it keeps the best approximation, and the share of the energy
(squared Frobenius norm) that this retains is recorded.

An adapter is a mapping from full module names to factors; heads are a mapping from tensor names,
such as ``task.weight``, to tensors. Results may share tensors with their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from coral.errors import CheckpointError
from coral.training.factors import (
    Factors,
    concatenated,
    energy,
    grown,
    rank_for_energy,
    spectrum,
    truncated,
)

MIN_RETAINED_ENERGY = 0.8
"""Below it a crossover would lose more of the blend than a second parent is worth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """AdamW's state of one tensor."""

    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parent:
    """A trained adapter with its heads.

    Attributes:
        moments: by ``<module>.a``, ``<module>.b``, ``<module>.magnitude`` and names of heads.
    """

    modules: Mapping[str, Factors]
    heads: Mapping[str, Tensor]
    moments: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inherited:
    """What a child begins with.

    Attributes:
        modules: every module of the child.
        moments: of the tensors that the child took over as they were, up to padding and scaling.
        retained: by module of the parent (of the blend, of the chosen layers), the share of its
            energy that the child has; 0 for a module that the child lacks.
        retained_energy: the same for the adapter as a whole.
        moments_reset: a module was shrunk or blended, and starts without moments.
        parents: how many parents' weights are in it.
    """

    modules: Mapping[str, Factors]
    heads: Mapping[str, Tensor]
    moments: Mapping[str, Moments]
    retained: Mapping[str, float]
    retained_energy: float
    moments_reset: bool
    parents: int


def inherit(fresh: Mapping[str, Factors], parent: Parent) -> Inherited:
    """Return the parent's adapter in the child's shape.

    A module of the same rank or a larger one keeps its update and its moments, a smaller one keeps
    the best approximation and starts its moments anew. What the parent lacks stays fresh.

    Args:
        fresh: the child's newly initialised adapter, with its own ranks and scalings.

    Returns:
        Where the child has a DoRA magnitude, the parent's. A parent without one leaves None: which
        magnitude keeps its update whole depends on the base weights, which are not here.

    Raises:
        CheckpointError: a module has another shape in the parent, or is not finite.
    """
    modules = dict(fresh)
    moments = {name: parent.moments[name] for name in parent.heads if name in parent.moments}
    retained = dict.fromkeys(parent.modules, 0.0)
    reset = False
    for name, source in parent.modules.items():
        if name not in fresh:
            continue
        child = fresh[name]
        if child.shape != source.shape:
            raise CheckpointError(
                f"{name} must have one shape in parent and child, got {source.shape} and"
                f" {child.shape}: the adapters are of different base models"
            )
        if child.rank < source.rank:
            made, retained[name] = truncated(spectrum(source), child.rank, child.scaling, child.a)
            reset = True
        else:
            made, retained[name] = grown(source, child.rank, child.scaling, child.a), 1.0
            moments |= _grown_moments(name, child, parent)
        modules[name] = made if child.magnitude is not None else replace(made, magnitude=None)
    return Inherited(
        modules=modules,
        heads=parent.heads,
        moments=moments,
        retained=retained,
        retained_energy=retained_energy(parent.modules, retained),
        moments_reset=reset,
        parents=1,
    )


def cross(
    fresh: Mapping[str, Factors],
    better: Parent,
    other: Parent,
    *,
    mixing: float,
    mode: Literal["blend", "layers"],
    layer_of: Mapping[str, int | None],
    take_other: Collection[int],
    min_retained_energy: float = MIN_RETAINED_ENERGY,
) -> Inherited:
    """Return what a child has of two parents.

    ``blend`` sums the two updates by weight, exactly, and gives the child that sum in its shape;
    heads are averaged with the same weights, and moments start anew. ``layers`` takes every layer
    whole from one parent, as ``inherit`` does, and the heads from the better one.

    Args:
        mixing: weight in [0, 1] of the better parent, for ``blend``.
        layer_of: index of the layer of every module of the parents; None outside of layers.
        take_other: layers that come from the other parent, for ``layers``.
        min_retained_energy: if the child retains less, it inherits from the better parent alone.

    Raises:
        CheckpointError: modules or heads have different shapes, or a module is not finite.
        ValueError: ``mixing`` is outside [0, 1].
    """
    match mode:
        case "blend":
            weighted = [(mixing, better), (1 - mixing, other)]
            modules, heads = blend(weighted)
            child = replace(
                inherit(fresh, Parent(modules=modules, heads=heads)),
                moments_reset=True,
                parents=sum(weight > 0 for weight, _ in weighted),
            )
        case "layers":
            child = _inherit_layers(
                fresh, better, other, {name for name in layer_of if layer_of[name] in take_other}
            )
    return child if child.retained_energy >= min_retained_energy else inherit(fresh, better)


def blend(
    parents: Sequence[tuple[float, Parent]],
) -> tuple[dict[str, Factors], dict[str, Tensor]]:
    """Return the exact weighted mean of adapters of any ranks and targets, and of their heads.

    A module that only some parents have enters with their weights: where a parent lacks it, its
    update is zero. A magnitude is averaged where every parent has it, else there is none.

    Args:
        parents: weights and parents; the weights are not negative and sum to 1.

    Raises:
        CheckpointError: modules or heads have different shapes, or a head is missing.
        ValueError: the weights are no weights of a mean.
    """
    weights = [weight for weight, _ in parents]
    if not (all(weight >= 0 for weight in weights) and math.isclose(math.fsum(weights), 1)):
        raise ValueError(f"weights must be at least 0 and sum to 1, got {weights}")
    present = [(weight, parent) for weight, parent in parents if weight > 0]
    names = dict.fromkeys(name for _, parent in present for name in parent.modules)
    modules = {}
    for name in names:
        parts = [(w, parent.modules[name]) for w, parent in present if name in parent.modules]
        magnitudes = [(w, part.magnitude) for w, part in parts if part.magnitude is not None]
        complete = len(magnitudes) == len(present)
        modules[name] = replace(
            concatenated(parts), magnitude=_mean(magnitudes) if complete else None
        )
    return modules, _mean_heads(present)


def squeezed(
    modules: Mapping[str, Factors], *, rank: int | None = None, energy: float | None = None
) -> tuple[dict[str, Factors], dict[str, float]]:
    """Return an adapter at lower rank, with its scalings, and by module the share it retains.

    Args:
        rank: no module has more afterwards; those with no more than that stay as they are.
        energy: share in (0, 1] of its energy that every module retains, at the smallest rank that
            does.

    Raises:
        CheckpointError: a module is not finite.
        ValueError: not exactly one of ``rank`` and ``energy`` is given, or it is out of bounds.
    """
    if (rank is None) == (energy is None):
        raise ValueError(f"give exactly one of rank and energy, got {rank=} and {energy=}")
    small = dict(modules)
    retained = dict.fromkeys(modules, 1.0)
    for name, factors in modules.items():
        if rank is not None and factors.rank <= rank:
            continue
        source = spectrum(factors)
        if energy is not None:
            target = rank_for_energy(source.values, energy)
        else:
            assert rank is not None
            target = min(rank, len(source.values))
        if target < factors.rank:
            small[name], retained[name] = truncated(source, target, factors.scaling)
    return small, retained


def retained_energy(modules: Mapping[str, Factors], retained: Mapping[str, float]) -> float:
    """Return the share of an adapter's energy that is retained, 1 for an adapter of zero energy.

    Args:
        retained: share by module.

    Raises:
        CheckpointError: a module is not finite.
    """
    if all(share == 1 for share in retained.values()):
        return 1.0
    energies = {name: energy(factors) for name, factors in modules.items()}
    total = math.fsum(energies.values())
    kept = math.fsum(retained[name] * energies[name] for name in modules)
    return kept / total if total > 0 else 1.0


def _inherit_layers(
    fresh: Mapping[str, Factors], better: Parent, other: Parent, from_other: Collection[str]
) -> Inherited:
    """Return what a child has of the better parent, with the modules ``from_other`` the other's."""
    chosen = {name: better for name in better.modules if name not in from_other}
    chosen |= {name: other for name in other.modules if name in from_other}
    moments = {name: better.moments[name] for name in better.heads if name in better.moments}
    for name, parent in chosen.items():
        keys = (f"{name}.{tensor}" for tensor in ("a", "b", "magnitude"))
        moments |= {key: parent.moments[key] for key in keys if key in parent.moments}
    spliced = Parent(
        modules={name: parent.modules[name] for name, parent in chosen.items()},
        heads=better.heads,
        moments=moments,
    )
    both = any(parent is other and name in fresh for name, parent in chosen.items())
    return replace(inherit(fresh, spliced), parents=2 if both else 1)


def _grown_moments(name: str, child: Factors, parent: Parent) -> dict[str, Moments]:
    """Return the moments of a module that grew or kept its rank, under the child's scaling.

    Where ``b`` is ``c`` times what it was, its gradient is ``1 / c`` of what it was; that of ``a``
    is unchanged. New rows and columns have seen no gradient.
    """
    source = parent.modules[name]
    missing = child.rank - source.rank
    gradient = child.scaling / source.scaling
    grown_moments = {}
    if moments := parent.moments.get(f"{name}.a"):
        grown_moments[f"{name}.a"] = _padded(moments, (0, 0, 0, missing), 1.0)
    if moments := parent.moments.get(f"{name}.b"):
        grown_moments[f"{name}.b"] = _padded(moments, (0, missing), gradient)
    if child.magnitude is not None and (moments := parent.moments.get(f"{name}.magnitude")):
        grown_moments[f"{name}.magnitude"] = moments
    return grown_moments


def _padded(moments: Moments, padding: tuple[int, ...], gradient: float) -> Moments:
    """Return moments of gradients ``gradient`` times as large, with room for new entries.

    New entries have seen no gradient: their first moment is zero. With a second moment of zero as
    well, and the many steps of the old ones, Adam's bias correction would let them move at several
    times the learning rate; they get the old entries' mean.
    """
    second = moments.exp_avg_sq * gradient**2
    return Moments(
        step=moments.step,
        exp_avg=pad(moments.exp_avg * gradient, padding),
        exp_avg_sq=pad(second, padding, value=float(second.mean())),
    )


def _mean_heads(parents: Sequence[tuple[float, Parent]]) -> dict[str, Tensor]:
    names = {frozenset(parent.heads) for _, parent in parents}
    if len(names) > 1:
        raise CheckpointError(
            "parents must have the same heads, only some have"
            f" {sorted(frozenset.union(*names) - frozenset.intersection(*names))}: their tasks"
            " differ"
        )
    means = {}
    for name in parents[0][1].heads:
        shapes = {tuple(parent.heads[name].shape) for _, parent in parents}
        if len(shapes) > 1:
            raise CheckpointError(
                f"a head must have one shape in all parents, {name} has"
                f" {' and '.join(map(str, sorted(shapes)))}: their classes differ"
            )
        means[name] = _mean((weight, parent.heads[name]) for weight, parent in parents)
    return means


def _mean(weighted: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Return the sum of tensors times weights; the weights sum to 1."""
    return torch.stack([weight * tensor for weight, tensor in weighted]).sum(dim=0)
