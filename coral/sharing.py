"""Where forward passes begin: what lies below adapters is known, as far as it fits on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

from coral.flops import lowest_layer
from coral.plan import TrainingPlan, adapted_modules
from coral.ports import Survey


def entrances(
    plans: Iterable[TrainingPlan], survey: Survey, most_bytes: int | None
) -> tuple[int, ...] | None:
    """Return the layers before which activations are kept; None if there is room for any.

    Those are chosen that leave the least to compute below the adapters of all plans together. A
    plan enters at the highest of them that its adapter leaves alone.

    Args:
        plans: of a population.
        most_bytes: that activations may take; None for no limit.
    """
    if most_bytes is None or not survey.shares_prefixes:
        return None
    room = int(most_bytes // max(1.0, bytes_before_layer(survey)))
    if room >= survey.depth - 1:
        return None
    lowest = Counter(_lowest(plan, survey) for plan in plans)
    return most_useful({layer: count for layer, count in lowest.items() if layer}, room)


def entrance(plan: TrainingPlan, survey: Survey, kept: Container[int] | None = None) -> int:
    """Return the first layer that training and evaluating a plan computes.

    Args:
        kept: layers before which activations are kept; None for any.
    """
    return highest_kept(_lowest(plan, survey), kept) if survey.shares_prefixes else 0


def highest_kept(lowest: int, kept: Container[int] | None) -> int:
    """Return the layer to enter at for an adapter that changes none below ``lowest``; 0 if none.

    Args:
        kept: layers before which activations are kept; None for any.
    """
    below = range(1, lowest + 1)
    return max((layer for layer in below if kept is None or layer in kept), default=0)


def bytes_before_layer(survey: Survey) -> float:
    """Return what the activations of all examples take before one layer."""
    examples = sum(
        task.train_examples + task.validation_examples + task.test_examples for task in survey.tasks
    )
    return examples * survey.mean_tokens * survey.hidden_size * survey.prefix_feature_bytes


def _lowest(plan: TrainingPlan, survey: Survey) -> int:
    names = [(module.name, module.layer) for module in survey.linear_modules]
    adapted = frozenset(adapted_modules(plan.adapter, names, survey.depth))
    return lowest_layer(adapted, survey.linear_modules)


def most_useful(lowest: dict[int, int], room: int) -> tuple[int, ...]:
    """Return at most ``room`` layers to enter at, so that most layers are skipped in all.

    Args:
        lowest: lowest adapted layer to how many plans have it.
    """
    layers = sorted(lowest)
    # best[i]: layers skipped by plans up to the i-th layer, and where they enter, the highest last.
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())] * len(layers)
    for _ in range(min(room, len(layers))):
        best = [
            max(
                (
                    (
                        (best[k - 1][0] if k else 0)
                        + layers[k] * sum(lowest[layer] for layer in layers[k : i + 1]),
                        (*(best[k - 1][1] if k else ()), layers[k]),
                    )
                    for k in range(i + 1)
                ),
                key=lambda choice: (choice[0], -len(choice[1])),
            )
            for i in range(len(layers))
        ]
    return best[-1][1] if best else ()
