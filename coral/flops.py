"""Floating-point operations of a training step, from shapes alone."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from coral.plan import AdapterPlan, adapted_modules
from coral.ports import LinearModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where forward passes begin, for what lies before is known.

    Attributes:
        layer: what enters it is known.
        products: what its first frozen maps give is known, too.
    """

    layer: int = 0
    products: bool = False

    def computes(self, module: LinearModule) -> bool:
        """Return whether a linear map is computed."""
        if module.layer is None or module.layer < self.layer:
            return False
        return not self.knows(module)

    def knows(self, module: LinearModule) -> bool:
        """Return whether what a frozen map gives is known."""
        return self.products and module.entry and module.layer == self.layer


BEGINNING = Start()
"""Everything is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Operations for one token, and for one pair of tokens that attend to each other."""

    per_token: float
    per_pair: float

    def teraflops(self, batch_size: int, length: float) -> float:
        """Return 1e12 operations for a padded batch of ``(batch_size, length)`` tokens."""
        tokens = batch_size * length
        return tokens * (self.per_token + self.per_pair * length) / 1e12


def step_cost(
    plan: AdapterPlan,
    modules: Sequence[LinearModule],
    depth: int,
    hidden_size: int,
    start: Start = BEGINNING,
) -> StepCost:
    """Return what one training step costs.

    A frozen map takes 2 x in x out operations forward, and as many for the gradient that flows
    through it, which it does only above the lowest adapted layer, and in it behind its first maps.
    An adapter of rank r takes 2 x r x (in + out) forward and twice that backward. Attention takes
    4 x hidden size for each pair forward and twice that backward.
    """
    adapted = set(adapted_modules(plan, [(module.name, module.layer) for module in modules], depth))
    lowest = lowest_layer(adapted, modules) or 0
    through = Start(layer=lowest, products=True)
    forward = evaluation_cost(modules, depth, hidden_size, start)
    backward = sum(2.0 * m.in_features * m.out_features for m in modules if through.computes(m))
    updates = sum(m.in_features + m.out_features for m in modules if m.name in adapted)
    return StepCost(
        per_token=forward.per_token + backward + 6 * plan.rank * updates,
        per_pair=forward.per_pair + 8.0 * hidden_size * (depth - lowest),
    )


def evaluation_cost(
    modules: Sequence[LinearModule], depth: int, hidden_size: int, start: Start = BEGINNING
) -> StepCost:
    """Return what a forward pass of the base costs."""
    return StepCost(
        per_token=sum(2.0 * m.in_features * m.out_features for m in modules if start.computes(m)),
        per_pair=4.0 * hidden_size * (depth - start.layer),
    )


def lowest_layer(adapted: Container[str], modules: Sequence[LinearModule]) -> int | None:
    """Return the lowest layer that an adapter changes; None if it changes a map beside the stack.

    Args:
        adapted: full names of the modules that it changes.
    """
    layers = [module.layer for module in modules if module.name in adapted]
    return None if None in layers else min(layer for layer in layers if layer is not None)


def adapter_parameters(plan: AdapterPlan, modules: Sequence[LinearModule], depth: int) -> int:
    """Return the trainable parameters of a plan's adapter, heads aside.

    Raises:
        PlanError: the plan's targets match nothing.
    """
    adapted = set(adapted_modules(plan, [(module.name, module.layer) for module in modules], depth))
    return sum(
        plan.rank * (module.in_features + module.out_features)
        + (module.out_features if plan.dora else 0)
        for module in modules
        if module.name in adapted
    )
