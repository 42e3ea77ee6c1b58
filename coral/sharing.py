"""Where forward passes begin: what lies below adapters is known, as far as it fits on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

from coral.flops import BEGINNING, Start, lowest_layer
from coral.plan import TrainingPlan, adapted_modules
from coral.ports import Survey


def entrances(
    plans: Iterable[TrainingPlan], survey: Survey, most_bytes: int | None
) -> tuple[int, ...] | None:
    """Return the layers before which activations are kept; None if there is room for all.

    Those are chosen that leave the least to compute below the adapters of all plans together. A
    plan enters at the highest of them that its adapter leaves alone.

    Args:
        plans: of a population.
        most_bytes: that activations may take; None for no limit.
    """
    if most_bytes is None or not survey.shares_prefixes:
        return None
    layers = range(survey.depth)
    if sum(bytes_before(Start(layer=i, products=True), survey) for i in layers) <= most_bytes:
        return None
    room = int(most_bytes // max(1.0, bytes_before(Start(layer=1), survey)))
    lowest = Counter(_lowest(plan, survey) for plan in plans)
    return most_useful({layer: count for layer, count in lowest.items() if layer}, room)


def start_of(plan: TrainingPlan, survey: Survey, kept: Container[int] | None = None) -> Start:
    """Return where training and evaluating a plan begin.

    Args:
        kept: layers before which activations are kept; None for all.
    """
    if not survey.shares_prefixes:
        return BEGINNING
    return highest_start(_lowest(plan, survey), kept, products=survey.shares_products)


def starts_of(
    plans: Iterable[TrainingPlan], survey: Survey, kept: Container[int] | None = None
) -> list[Start]:
    """Return where a population's plans begin to share, the lowest first."""
    starts = {start_of(plan, survey, kept) for plan in plans} - {BEGINNING}
    return sorted(starts, key=lambda start: start.layer)


def highest_start(lowest: int | None, kept: Container[int] | None, *, products: bool) -> Start:
    """Return where passes begin for an adapter that changes nothing below a layer.

    Args:
        lowest: that layer; None if the adapter changes a map beside the stack.
        kept: layers before which activations are kept; None for all.
        products: those of first maps are kept, too, where there is room for all.
    """
    if lowest is None:
        return BEGINNING
    if kept is None:
        return Start(layer=lowest, products=products)
    return Start(layer=max((layer for layer in range(1, lowest + 1) if layer in kept), default=0))


def bytes_before(start: Start, survey: Survey) -> float:
    """Return what is kept of all examples, for passes to begin somewhere."""
    if start.layer == 0 and not survey.shares_products:
        return 0.0
    examples = sum(
        task.train_examples + task.validation_examples + task.test_examples for task in survey.tasks
    )
    features = survey.hidden_size
    if survey.shares_products:
        features += sum(m.out_features for m in survey.linear_modules if start.knows(m))
    return examples * survey.mean_tokens * features * survey.prefix_feature_bytes


def _lowest(plan: TrainingPlan, survey: Survey) -> int | None:
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
