"""Floating-point operations of a training step, from shapes alone."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from coral.plan import AdapterPlan, adapted_modules
from coral.ports import LinearModule


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Operations for one token, and for one pair of tokens that attend to each other."""

    per_token: float
    per_pair: float

    def teraflops(self, batch_size: int, length: int) -> float:
        """Return 1e12 operations for a padded batch of ``(batch_size, length)`` tokens."""
        tokens = batch_size * length
        return tokens * (self.per_token + self.per_pair * length) / 1e12


def step_cost(
    plan: AdapterPlan,
    modules: Sequence[LinearModule],
    depth: int,
    hidden_size: int,
    *,
    first_layer: int = 0,
) -> StepCost:
    """Return what one training step costs.

    Args:
        first_layer: what enters this layer is known; nothing below it is computed.

    A frozen map takes 2 x in x out operations forward, and as many for the gradient that flows
    through it, which it does only above the lowest adapted layer. An adapter of rank r takes
    2 x r x (in + out) forward and twice that backward. Attention takes 4 x hidden size for each
    pair forward and twice that backward.
    """
    adapted = set(adapted_modules(plan, [(module.name, module.layer) for module in modules], depth))
    inside = [m for m in modules if m.layer is not None and m.layer >= first_layer]
    lowest = lowest_layer(adapted, modules)
    per_token = 0.0
    for module in inside:
        size = module.in_features * module.out_features
        through = module.layer is not None and module.layer >= lowest
        per_token += 2 * size * (2 if through else 1)
    for module in modules:
        if module.name in adapted:
            per_token += 6 * plan.rank * (module.in_features + module.out_features)
    return StepCost(
        per_token=per_token,
        per_pair=4.0 * hidden_size * (depth - first_layer + 2 * (depth - lowest)),
    )


def lowest_layer(adapted: Container[str], modules: Sequence[LinearModule]) -> int:
    """Return the lowest layer that an adapter changes; 0 if it changes a map beside the stack.

    Args:
        adapted: full names of the modules that it changes.
    """
    return min(module.layer or 0 for module in modules if module.name in adapted)


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
