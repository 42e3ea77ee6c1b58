"""What only the loaded model can tell about a config."""

from __future__ import annotations

from collections.abc import Sequence

from coral.errors import ConfigError, Fault, PlanError
from coral.genome import ChoiceGene, IntGene, SearchSpace, SubsetGene
from coral.plan import UNWEIGHED, TrainingPlan, adapted_modules, value_at, with_values
from coral.plan.adapter import ALL_LINEAR
from coral.ports import Survey, TaskSurvey
from coral.spec.document import KeyPath
from coral.spec.load import LoadedConfig, in_file_order
from coral.spec.training import written_at

TARGETS, LAYERS = "adapter.target_modules", "adapter.layers"
LENGTH = "encoding.sequence_len"
THRESHOLD, ABSTENTION = "inference.threshold", "inference.abstention"
DECODING = tuple(
    f"inference.{name}"
    for name in ("generation_temperature", "top_p", "repetition_penalty", "max_new_tokens")
)

Variant = tuple[object, KeyPath]
"""A value that a field can take, and where it is written."""


def check_survey(config: LoadedConfig, survey: Survey) -> None:
    """Check that every target and layer range, fixed or searched, matches something in the model.

    Lengths must fit into it, and what is made of its outputs must suit the tasks.

    Raises:
        ConfigError: something matches nothing; the faults name what there is.
    """
    modules = [(module.name, module.layer) for module in survey.linear_modules]

    def complaint(targets: object, layers: object) -> str | None:
        try:
            plan = with_values(config.spec.training, {TARGETS: targets, LAYERS: layers})
            adapted_modules(plan.adapter, modules, survey.depth)
        except PlanError as error:
            return str(error)
        return None

    found: list[tuple[KeyPath, str]] = []
    ranges: list[object] = []
    for layers, path in _variants(config, LAYERS):
        rule = complaint(ALL_LINEAR, layers)
        if rule is None:
            ranges.append(layers)
        else:
            found.append((path, rule))
    for targets, path in _variants(config, TARGETS):
        rules = (complaint(targets, layers) for layers in ranges or ["all"])
        rule = next((rule for rule in rules if rule is not None), None)
        if rule is not None:
            found.append((path, rule))
    remedy = _inventory(modules, survey.depth)
    faults = [config.document.fault(*fault, remedy) for fault in dict.fromkeys(found)]
    faults += _too_long(config, survey)
    if not config.spec.simulated:
        faults += _in_vain(config, survey)
        faults += _weighed_unseen(config, survey)
    faults += _compared_over_lengths(config, survey)
    if faults:
        raise ConfigError(in_file_order(faults))


def targets_of(space: SearchSpace) -> list[str]:
    """Return every module name that plans of a search space can adapt."""
    found = [value_at(space.base, TARGETS)]
    for gene in space.genes:
        if gene.path == TARGETS and isinstance(gene, ChoiceGene | SubsetGene):
            found += gene.options
    listed = [[value] if isinstance(value, str) else value for value in found]
    return [name for names in listed for name in names]


def _too_long(config: LoadedConfig, survey: Survey) -> list[Fault]:
    """Return a fault for each sequence length that the model has no positions for."""
    limit = survey.max_tokens
    if limit is None:
        return []
    return [
        config.document.fault(
            path,
            f"sequence_len must be <= {limit}, the positions of this model, got {length}.",
            f"Lower it to {limit} or less, or use a model for longer texts.",
        )
        for length, path in _variants(config, LENGTH)
        if isinstance(length, int) and length > limit
    ]


def _in_vain(config: LoadedConfig, survey: Survey) -> list[Fault]:
    """Return a fault for what is to be made of outputs that the tasks don't have."""
    faults = []
    told = ", ".join(f"{task.name} ({_asked(task)})" for task in survey.tasks)
    writes = any(task.problem == "causal_lm" for task in survey.tasks)
    for field, suits, rule in (
        (
            THRESHOLD,
            any(map(_has_threshold, survey.tasks)),
            "only has an effect on tasks of two classes, or of any number of labels",
        ),
        (
            ABSTENTION,
            all(task.problem in ("single_label", "multi_label") for task in survey.tasks),
            "only has an effect on labels, which are more probable or less",
        ),
        *(
            (field, writes, "only has an effect on tasks whose answers are generated")
            for field in DECODING
        ),
    ):
        searched = any(gene.path == field for gene in config.spec.space.genes)
        fixed = value_at(config.spec.training, field) != value_at(TrainingPlan(), field)
        if not suits and (searched or fixed):
            path = written_at(config.document, field, searched=searched)
            remedy = f"Remove it; the tasks are {told}."
            faults.append(config.document.fault(path, f"{rule}.", remedy))
    return faults


def _has_threshold(task: TaskSurvey) -> bool:
    two = task.problem == "single_label" and len(task.label_names) == 2
    return two or task.problem == "multi_label"


def _asked(task: TaskSurvey) -> str:
    """Return in words what a task asks for."""
    count = len(task.label_names)
    return {
        "single_label": f"{count} classes",
        "multi_label": f"{count} labels",
        "regression": "numbers",
        "causal_lm": "answers",
    }[task.problem]


def _compared_over_lengths(config: LoadedConfig, survey: Survey) -> list[Fault]:
    """Return a fault if lengths are searched for, though what is cut off is not predicted."""
    written = [task.name for task in survey.tasks if task.problem == "causal_lm"]
    gene = next((gene for gene in config.spec.space.genes if gene.path == LENGTH), None)
    if gene is None or not written:
        return []
    rule = (
        "sequence_len must be one for all genomes where answers are written: a perplexity over"
        f" texts cut elsewhere is another measure (task {', '.join(written)})"
    )
    path = written_at(config.document, LENGTH, searched=True)
    return [config.document.fault(path, rule, "Fix it under `training:`.")]


def _weighed_unseen(config: LoadedConfig, survey: Survey) -> list[Fault]:
    """Return a fault for each way to weigh examples by what only all of them tell, on a stream."""
    streams = ", ".join(task.name for task in survey.tasks if task.streams)
    if not streams:
        return []
    return [
        config.document.fault(
            path,
            f"{field} must be {usual} where data stream (task {streams}), got {value}: weights"
            " follow from all labels, which are never held.",
            "Remove it, or leave streaming out.",
        )
        for field, usual in UNWEIGHED.items()
        for value, path in _variants(config, field)
        if value != usual
    ]


def _variants(config: LoadedConfig, field: str) -> list[Variant]:
    spec, document = config.spec, config.document
    values: list[object] = []
    for gene in spec.space.genes:
        if gene.path == field and isinstance(gene, ChoiceGene):
            values = list(gene.options)
        elif gene.path == field and isinstance(gene, SubsetGene):
            values = [(name,) for name in gene.options]
        elif gene.path == field and isinstance(gene, IntGene):
            values = [gene.high]
    searched = written_at(document, field, searched=True)
    fixed = (value_at(spec.training, field), written_at(document, field))
    return [fixed, *((value, searched) for value in values)]


def _inventory(modules: Sequence[tuple[str, int | None]], depth: int) -> str:
    """Return in words what can be adapted in a model."""
    inside = {name.split(f".{layer}.", 1)[-1] for name, layer in modules if layer is not None}
    outside = {name for name, layer in modules if layer is None}
    told = f"The model has {depth} layers (0-{depth - 1}) with {', '.join(sorted(inside))}"
    if outside:
        told += f"; outside of them {', '.join(sorted(outside))}"
    return f"{told}. `all-linear` takes every one in the layers."
