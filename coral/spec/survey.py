"""What only the loaded model can tell about a config."""

from __future__ import annotations

from collections.abc import Sequence

from coral.errors import ConfigError, Fault, PlanError
from coral.genome import ChoiceGene, SubsetGene
from coral.plan import adapted_modules, value_at, with_values
from coral.ports import Survey
from coral.spec.load import LoadedConfig
from coral.spec.training import written_at

FIELDS = ("adapter.target_modules", "adapter.layers")


def check_survey(config: LoadedConfig, survey: Survey) -> None:
    """Check that every target and layer range, fixed or searched, matches something in the model.

    Raises:
        ConfigError: some match nothing; the fault names what the model has.
    """
    spec, document = config.spec, config.document
    modules = [(module.name, module.layer) for module in survey.linear_modules]
    remedy = _inventory(modules, survey.depth)
    faults: dict[tuple[str, str], Fault] = {}
    for path, value, searched in _variants(config):
        try:
            plan = with_values(spec.training, {path: value})
            adapted_modules(plan.adapter, modules, survey.depth)
        except PlanError as error:
            key = written_at(document, path, searched=searched)
            fault = document.fault(key, str(error), remedy)
            faults[fault.key, fault.rule] = fault
    if faults:
        raise ConfigError(list(faults.values()))


def _variants(config: LoadedConfig) -> list[tuple[str, object, bool]]:
    """Return each value that a field can take, and whether it is searched."""
    spec = config.spec
    variants: list[tuple[str, object, bool]] = [
        (path, value_at(spec.training, path), False) for path in FIELDS
    ]
    for gene in spec.space.genes:
        if gene.path in FIELDS and isinstance(gene, ChoiceGene):
            variants += [(gene.path, option, True) for option in gene.options]
        elif gene.path in FIELDS and isinstance(gene, SubsetGene):
            variants += [(gene.path, (name,), True) for name in gene.options]
    return variants


def _inventory(modules: Sequence[tuple[str, int | None]], depth: int) -> str:
    """Return in words what can be adapted in a model."""
    inside = {name.split(f".{layer}.", 1)[-1] for name, layer in modules if layer is not None}
    outside = {name for name, layer in modules if layer is None}
    told = f"The model has {depth} layers (0-{depth - 1}) with {', '.join(sorted(inside))}"
    if outside:
        told += f"; outside of them {', '.join(sorted(outside))}"
    return f"{told}. `all-linear` takes every one in the layers."
