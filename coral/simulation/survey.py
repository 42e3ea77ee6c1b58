"""What a simulated trainer says of a model and of data that nobody loads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean, mode
from typing import Any

from coral.plan import SELECTIVE_METRICS, digest_of
from coral.plan.adapter import ALL_LINEAR
from coral.ports import LinearModule, Survey, TaskSurvey
from coral.records import Direction
from coral.rng import stream
from coral.simulation.profile import MetricLink, ModelShape, ModuleShape, Profile, TaskProfile

SIZES = ("train_examples", "validation_examples", "test_examples")
"""Options of a task that, where it has them, say how many examples there are."""

NO_SKILL = {"fpr_at_90_recall": 0.9, "ece": 0.3, "cross_modal_gain": 0.0}
"""What metrics are for a model that knows nothing, where that does not follow from the classes."""

_LAYER = "{layer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """A task that a run asks for.

    Attributes:
        options: as in the config.
        profile: what its plugin ships; None if it ships nothing.
    """

    name: str
    metrics: Mapping[str, Direction]
    primary_metric: str
    options: Mapping[str, Any]
    profile: TaskProfile | None = None


def task_profiles(profile: Profile, requests: Iterable[TaskRequest]) -> dict[str, TaskProfile]:
    """Return a profile for every task: its plugin's, the profile's, or one of its own.

    Sizes that the config gives as options go before those of the profile.
    """
    found = {}
    for request in requests:
        known = request.profile or profile.tasks.get(request.name)
        task = known or invented_task(profile, request)
        sizes = {
            name: request.options[name]
            for name in SIZES
            if isinstance(request.options.get(name), int) and request.options[name] > 0
        }
        invented = invented_links(
            request.name, request.metrics, task.labels, request.primary_metric
        )
        links = {**invented, **task.metrics}
        metrics = {name: links[name] for name in request.metrics}
        found[request.name] = replace(
            task, metrics=metrics, primary_metric=request.primary_metric, **sizes
        )
    return found


def invented_task(profile: Profile, request: TaskRequest) -> TaskProfile:
    """Return a surface for a task that nobody measured, seeded by its name and its metrics.

    It lies around the mean of the profile's tasks: harder or easier, quicker or slower.
    """
    rng = stream(0, "simulated task", request.name, *_signature(request))
    tasks = list(profile.tasks.values())
    shifts = rng.normal(0, 0.3, size=4)
    labels = round(fmean(task.labels for task in tasks))

    def around(values: Iterable[float], shift: float) -> float:
        middle = math.exp(fmean(map(math.log, values)))
        return min(0.9, max(0.02, middle * math.exp(shift)))

    return TaskProfile(
        metrics=invented_links(request.name, request.metrics, labels, request.primary_metric),
        primary_metric=request.primary_metric,
        labels=labels,
        train_examples=round(fmean(task.train_examples for task in tasks)),
        validation_examples=round(fmean(task.validation_examples for task in tasks)),
        test_examples=round(fmean(task.test_examples for task in tasks)),
        probe_error=around((task.probe_error for task in tasks), shifts[0]),
        tuned_share=around((task.tuned_share for task in tasks), shifts[1]),
        head_start=fmean(task.head_start for task in tasks) + shifts[2],
        adapter_start=fmean(task.adapter_start for task in tasks) + shifts[3],
    )


def _signature(request: TaskRequest) -> list[str]:
    return [f"{name}={side}" for name, side in sorted(request.metrics.items())]


def invented_links(
    task: str, metrics: Mapping[str, Direction], labels: int, primary: str = ""
) -> dict[str, MetricLink]:
    """Return links by direction: an accuracy or an area under a curve to gain, a loss to lose.

    The primary metric defines the error, so it alone has a ``gamma`` of 1.
    """
    links = {}
    for name, direction in metrics.items():
        rng = stream(0, "simulated metric", task, name, direction)
        gamma = 1.0 if name == primary else float(math.exp(rng.normal(0, 0.2)))
        if direction == "max":
            chance = 0.5 if "auc" in name or "auroc" in name else 1 / max(2, labels)
            chance = NO_SKILL.get(name, chance)
            links[name] = MetricLink(direction="max", chance=chance, best=1.0, gamma=gamma)
        elif name == "perplexity":
            links[name] = MetricLink(direction="min", chance=20.0, best=1.0, gamma=gamma)
        else:
            chance = NO_SKILL.get(name, math.log(max(2, labels)))
            links[name] = MetricLink(direction="min", chance=chance, best=0.0, gamma=gamma)
    return links


def simulated_survey(
    profile: Profile,
    tasks: Mapping[str, TaskProfile],
    *,
    targets: Iterable[str],
    settings: Mapping[str, Any],
    shares_prefixes: bool = False,
    prefix_feature_bytes: int = 4,
    abstains: bool = False,
) -> Survey:
    """Return the survey of a simulated model and its data.

    Args:
        targets: names of the modules that plans of this run adapt. Those that the profile's model
            lacks are added as square maps in every layer, so that configs for other models can be
            simulated too.
        settings: of the simulation, as plain values; part of the model's identity.
        abstains: genomes may leave examples without an answer.
    """
    return Survey(
        model_digest=digest_of(
            {"profile": asdict(replace(profile, goodness=None)), "settings": settings}
        ),
        data_digest=digest_of({name: asdict(task) for name, task in tasks.items()}),
        depth=profile.model.depth,
        linear_modules=linear_modules(profile.model, targets),
        tasks=tuple(
            TaskSurvey(
                name=name,
                metrics={
                    **{metric: link.direction for metric, link in task.metrics.items()},
                    **(SELECTIVE_METRICS if abstains else {}),
                },
                primary_metric=task.primary_metric,
                label_names=tuple(f"class {i}" for i in range(task.labels)),
                train_examples=task.train_examples,
                validation_examples=task.validation_examples,
                test_examples=task.test_examples,
            )
            for name, task in tasks.items()
        ),
        device="simulated",
        mean_tokens=profile.model.mean_tokens,
        max_tokens=profile.model.max_tokens,
        shares_prefixes=shares_prefixes,
        prefix_feature_bytes=prefix_feature_bytes,
        hidden_size=hidden_size(profile.model),
    )


def linear_modules(shape: ModelShape, targets: Iterable[str]) -> tuple[LinearModule, ...]:
    """Return every linear map of a model, layer by layer, those outside the stack last."""
    inside = [module for module in shape.modules if _LAYER in module.name]
    outside = [module for module in shape.modules if _LAYER not in module.name]
    width = hidden_size(shape)
    unknown = [
        target
        for target in dict.fromkeys(targets)
        if target != ALL_LINEAR
        and not any(m.name == target or m.name.endswith(f".{target}") for m in shape.modules)
    ]
    inside += [
        ModuleShape(name=f"layer.{_LAYER}.{target}", in_features=width, out_features=width)
        for target in unknown
    ]
    return tuple(
        LinearModule(
            name=module.name.replace(_LAYER, str(layer)),
            layer=layer,
            in_features=module.in_features,
            out_features=module.out_features,
        )
        for layer in range(shape.depth)
        for module in inside
    ) + tuple(
        LinearModule(
            name=module.name,
            layer=None,
            in_features=module.in_features,
            out_features=module.out_features,
        )
        for module in outside
    )


def hidden_size(shape: ModelShape) -> int:
    """Return the width of the model's residual stream: the most common number of inputs."""
    return mode(module.in_features for module in shape.modules)
