"""The adapter's shape: where the low-rank updates sit and how large they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from coral.errors import PlanError
from coral.plan.checks import Fraction, Positive, PositiveInt, check_bounds

ALL_LINEAR = "all-linear"
_LAYERS = re.compile(r"all|(top|bottom)-(\d+)|(\d+)-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlan:
    """The shape of one LoRA.

    Attributes:
        rank: rank of every update.
        scaling: effective scaling, the factor in front of ``B @ A``: alpha / r, or alpha / sqrt(r)
            with ``rslora``. Searching it instead of alpha keeps it apart from the rank.
        dropout: dropout on the adapter's input.
        target_modules: module names as PEFT matches them (the end of the dotted name), or
            ``all-linear`` for every linear map of the layer stack.
        layers: which layers are adapted: ``all``, ``top-N``, ``bottom-N`` or ``FIRST-LAST``
            (counted from 0, both included).
        rslora: rank-stabilized scaling (Kalajdzievski 2023).
        dora: weight-decomposed update (Liu et al. 2024).

    Source: Hu et al. 2021 (LoRA).
    """

    rank: PositiveInt = 16
    scaling: Positive = 2.0
    dropout: Fraction = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    layers: str = "all"
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.dropout >= 1:
            raise PlanError(f"dropout must be < 1, got {self.dropout}")
        if not self.target_modules:
            raise PlanError(
                f"target_modules must name at least one module or be {ALL_LINEAR}, got nothing"
            )
        check_layers(self.layers)

    @property
    def alpha(self) -> float:
        """LoRA's alpha as PEFT expects it."""
        return self.scaling * (math.sqrt(self.rank) if self.rslora else self.rank)


def scaling_of(alpha: float, rank: int, *, rslora: bool) -> float:
    """Return the effective scaling that LoRA's ``alpha`` means at ``rank``."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def check_layers(layers: str) -> None:
    """Check the spelling of a range of layers.

    Raises:
        PlanError: it is none of ``all``, ``top-N``, ``bottom-N``, ``FIRST-LAST``.
    """
    match = _LAYERS.fullmatch(layers)
    if match is None:
        raise PlanError(
            f"layers must be 'all', 'top-N', 'bottom-N' or 'FIRST-LAST', got {layers!r}"
        )
    _, count, first, last = match.groups()
    if count is not None and int(count) == 0:
        raise PlanError(f"layers must hold at least one layer, got {layers!r}")
    if first is not None and int(first) > int(last):
        raise PlanError(f"layers must have FIRST <= LAST, got {layers!r}")


def layer_indices(layers: str, depth: int) -> range:
    """Return the adapted layers of a stack of ``depth`` layers, counted from 0.

    A range that reaches beyond the stack is cut to it.

    Raises:
        PlanError: the range is misspelt, or lies wholly outside the stack.
    """
    check_layers(layers)
    if layers == "all":
        return range(depth)
    side, _, count = layers.partition("-")
    if side == "top":
        return range(max(0, depth - int(count)), depth)
    if side == "bottom":
        return range(min(depth, int(count)))
    first, last = int(side), int(count)
    if first >= depth:
        raise PlanError(f"layers {layers!r} lie outside a stack of {depth} layers (0-{depth - 1})")
    return range(first, min(depth, last + 1))


def adapted_modules(
    plan: AdapterPlan, linear_modules: Sequence[tuple[str, int | None]], depth: int
) -> tuple[str, ...]:
    """Return the full names of the modules that ``plan`` adapts.

    Args:
        linear_modules: ``(full name, layer index or None)`` of every linear map in the model. Maps
            outside the layer stack (index None) are adapted only when named and ``layers`` is all.
        depth: number of layers in the stack.

    Raises:
        PlanError: nothing matches, or one of the named targets matches nothing.
    """
    wanted = set(layer_indices(plan.layers, depth))
    inside = [(name, index) for name, index in linear_modules if index in wanted]
    if plan.target_modules == ALL_LINEAR:
        if not inside:
            raise PlanError(f"layers {plan.layers} hold no linear module to adapt")
        return tuple(name for name, _ in inside)
    targets = (
        (plan.target_modules,) if isinstance(plan.target_modules, str) else plan.target_modules
    )
    outside = [(name, index) for name, index in linear_modules if index is None]
    candidates = inside + (outside if plan.layers == "all" else [])
    unmatched = [
        target for target in targets if not any(_matches(name, target) for name, _ in candidates)
    ]
    if unmatched:
        raise PlanError(
            f"target modules {', '.join(unmatched)} match nothing in layers {plan.layers}"
        )
    return tuple(
        name for name, _ in candidates if any(_matches(name, target) for target in targets)
    )


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
