"""From a YAML file to a ``RunSpec``: all faults of a file at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from coral.errors import ConfigError, ModelError, PlanError, TaskError
from coral.evolution.recipes import RECIPES
from coral.fidelity import DEFAULT_LADDER, DEFAULT_RULES, PruneRule, PruneSettings, Stage, check_ladder
from coral.genome import ChoiceGene
from coral.plan import TrainingPlan, adapted_modules, task_shares, value_at, with_values
from coral.ports import Survey, Task
from coral.records import Direction, Objective
from coral.settings import (
    BudgetSettings,
    EvolutionSettings,
    ExecutionSettings,
    RunSpec,
    TaskSettings,
)
from coral.spec.aliases import BASE_MODEL_NAMES, EPOCH_NAMES, TRAINING_SHORTHANDS
from coral.spec.base_model import locate
from coral.spec.document import Document, KeyPath, read_document, with_overrides
from coral.spec.fields import Reader, shown, with_numbers
from coral.spec.search_space import read_search_space
from coral.spec.training import canonical, read_training

SECTIONS = (
    "base_model",
    "tasks",
    "training",
    "search_space",
    "evolution",
    "training_stages",
    "prune",
    "objectives",
    "budget",
    "execution",
    "output_dir",
    "seed",
)
COST_METRICS: Mapping[str, Direction] = {"trainable_parameters": "min", "train_cost": "min"}
PROXIES = ("gradient_norm", "loss_slope")


class TaskRegistry(Protocol):
    """What the loader needs to know of task plugins."""

    def task_names(self) -> Sequence[str]: ...

    def build(self, name: str, options: Mapping[str, Any]) -> Task: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A valid spec, and the document it came from, so that later faults can name their lines."""

    spec: RunSpec
    document: Document


def load_config(
    path: Path, registry: TaskRegistry, overrides: Mapping[str, str] | None = None
) -> LoadedConfig:
    """Read, override and validate a config.

    Raises:
        ConfigError: with every fault that can be found without loading the model.
    """
    document = with_overrides(read_document(path), overrides or {})
    document = replace(document, data=with_numbers(document.data))
    reader = Reader(document)
    spec = _Sections(reader, registry).spec(path.name.split(".")[0])
    if reader.faults or spec is None:
        raise ConfigError(_in_file_order(reader))
    return LoadedConfig(spec=spec, document=document)


def _in_file_order(reader: Reader) -> list[Any]:
    def line(where: str) -> int:
        tail = where.rpartition(":")[2]
        return int(tail) if tail.isdigit() else 0

    return sorted(reader.faults, key=lambda fault: line(fault.where))


class _Sections:
    """Reads a document section by section; a fault in one does not hide those of the others."""

    def __init__(self, reader: Reader, registry: TaskRegistry) -> None:
        self._reader = reader
        self._registry = registry
        self._data = reader.document.data

    def spec(self, name: str) -> RunSpec | None:
        for key in self._data:
            if key not in (*SECTIONS, *TRAINING_SHORTHANDS, *BASE_MODEL_NAMES, *EPOCH_NAMES):
                self._reader.unknown((key,), (*SECTIONS, *TRAINING_SHORTHANDS))
        base_model = self._base_model()
        tasks, built = self._tasks()
        stages = self._stages()
        block = self._data.get("search_space")
        searched = self._searched(block if isinstance(block, dict) else {})
        training = read_training(self._reader, searched)
        names = [task.name for task in built]
        if training is not None:
            self._check_weights(training, names)
        space = read_search_space(self._reader, training or TrainingPlan(), names)
        evolution = self._evolution()
        prune = self._prune(stages, built)
        objectives = self._objectives(built)
        budget = self._reader.record(BudgetSettings, self._data.get("budget"), ("budget",))
        execution = self._reader.record(
            ExecutionSettings, self._data.get("execution"), ("execution",)
        )
        scalars = {
            key: self._scalar(key) for key in ("output_dir", "seed") if key in self._data
        }
        if self._reader.faults:
            return None
        assert base_model and stages and training and space and evolution
        assert prune and objectives and budget and execution
        return RunSpec(
            name=name,
            base_model=base_model,
            tasks=tuple(tasks),
            training=training,
            space=space,
            evolution=evolution,
            training_stages=stages,
            prune=prune,
            objectives=objectives,
            budget=budget,
            execution=execution,
            **scalars,
        )

    @staticmethod
    def _searched(block: Mapping[str, Any]) -> list[str]:
        inner = [f"{k}.{f}" for k, v in block.items() if isinstance(v, dict) for f in v]
        return [*block, *inner]

    def _scalar(self, key: str) -> Any:
        return self._reader.field(RunSpec, key, self._data[key], (key,))[1]

    def _base_model(self) -> str | None:
        given = [name for name in BASE_MODEL_NAMES if name in self._data]
        if len(given) != 1:
            path: KeyPath = (given[1] if given else BASE_MODEL_NAMES[0],)
            rule = "says the same as base_model" if given else "must be given"
            self._reader.fault(path, rule, "Name one hub id, folder, or package:<module>/<folder>.")
            return None
        path = (given[0],)
        fits, value = self._reader.field(RunSpec, "base_model", self._data[given[0]], path)
        if not fits:
            return None
        try:
            locate(value)
        except ModelError as error:
            rule, _, remedy = str(error).partition("\n")
            self._reader.fault(path, f"{rule} Got {shown(value)}.", remedy)
            return None
        model: str = value
        return model

    def _tasks(self) -> tuple[list[TaskSettings], list[Task]]:
        if "tasks" not in self._data:
            known = ", ".join(self._registry.task_names())
            self._reader.fault(("tasks",), "must be given", f"Tasks that exist: {known}.")
            return [], []
        settings: list[TaskSettings] = []
        built: list[Task] = []
        for i, item in enumerate(self._reader.sequence(self._data["tasks"], ("tasks",))):
            path: KeyPath = ("tasks", i)
            options = {"name": item} if isinstance(item, str) else self._reader.mapping(item, path)
            name = options.get("name")
            if not isinstance(name, str):
                self._reader.fault(path, "a task needs a name", "Write `- name: <task>`.")
                continue
            options = {key: value for key, value in options.items() if key != "name"}
            if name in [task.name for task in settings]:
                self._reader.fault(path, f"task {name} is named twice", "Remove one of the two.")
                continue
            try:
                built.append(self._registry.build(name, options))
                settings.append(TaskSettings(name=name, options=options))
            except TaskError as error:
                rule, _, remedy = str(error).partition("\n")
                self._reader.fault(path, rule, remedy or "Correct the task.")
        if not settings and not self._reader.faults:
            self._reader.fault(("tasks",), "must hold at least one task", "Name a task.")
        return settings, built

    def _check_weights(self, training: TrainingPlan, tasks: Sequence[str]) -> None:
        try:
            if tasks:
                task_shares(training.tasks, tasks)
        except PlanError as error:
            path: KeyPath = ("training", "tasks", "weights")
            self._reader.fault(path, str(error), f"The run's tasks: {', '.join(tasks)}.")

    def _stages(self) -> tuple[Stage, ...] | None:
        epochs = next((name for name in EPOCH_NAMES if name in self._data), None)
        if "training_stages" not in self._data:
            return DEFAULT_LADDER if epochs is None else self._scaled_ladder(epochs)
        path: KeyPath = ("training_stages",)
        items = self._reader.sequence(self._data["training_stages"], path)
        stages = [self._reader.record(Stage, item, (*path, i)) for i, item in enumerate(items)]
        whole = [stage for stage in stages if stage is not None]
        if len(whole) < len(stages):
            return None
        for i in range(max(1, len(whole))):
            try:
                check_ladder(whole[: i + 1])
            except PlanError as error:
                where = (*path, i) if whole else path
                self._reader.fault(where, str(error), "Order the stages from cheap to full.")
                return None
        if epochs is not None and self._data[epochs] != whole[-1].epoch_budget:
            self._reader.fault(
                (epochs,),
                f"must equal the last stage's epoch_budget ({whole[-1].epoch_budget:g}),"
                f" got {shown(self._data[epochs])}",
                "Remove it: training_stages says how long training is.",
            )
        return tuple(whole)

    def _scaled_ladder(self, key: str) -> tuple[Stage, ...] | None:
        """Stretch the default ladder so that its last stage ends after ``num_epochs``."""
        fits, epochs = self._reader.field(Stage, "epoch_budget", self._data[key], (key,))
        if not fits:
            return None
        factor = epochs / DEFAULT_LADDER[-1].epoch_budget
        return tuple(
            replace(stage, epoch_budget=stage.epoch_budget * factor) for stage in DEFAULT_LADDER
        )

    def _evolution(self) -> EvolutionSettings | None:
        block = self._reader.mapping(self._data.get("evolution"), ("evolution",))
        path: KeyPath = ("evolution", "recipes")
        recipes = []
        for i, item in enumerate(self._reader.sequence(block.get("recipes", []), path)):
            recipe = {}
            for name, value in self._reader.mapping(item, (*path, i)).items():
                target = canonical(name)
                if target is None:
                    self._reader.unknown((*path, i, name), RECIPES[0])
                    continue
                recipe[target] = tuple(value) if isinstance(value, list) else value
            try:
                with_values(TrainingPlan(), recipe)
                recipes.append(recipe)
            except (PlanError, TypeError) as error:
                self._reader.fault((*path, i), str(error), "Correct the recipe.")
        return self._reader.record(
            EvolutionSettings, block, ("evolution",), given={"recipes": tuple(recipes)}
        )

    def _prune(
        self, stages: tuple[Stage, ...] | None, tasks: Sequence[Task]
    ) -> PruneSettings | None:
        block = self._data.get("prune")
        block = {"rules": block} if isinstance(block, list) else block
        block = self._reader.mapping(block, ("prune",))
        rules = self._rules(block, stages, tasks)
        return self._reader.record(PruneSettings, block, ("prune",), given={"rules": rules})

    def _rules(
        self, block: Mapping[str, Any], stages: tuple[Stage, ...] | None, tasks: Sequence[Task]
    ) -> tuple[PruneRule, ...]:
        names = [stage.name for stage in stages or DEFAULT_LADDER]
        known = {*self._metrics(tasks), *PROXIES, *COST_METRICS}
        if "rules" not in block:
            return _default_rules(names, known)
        path: KeyPath = ("prune",) if isinstance(self._data["prune"], list) else ("prune", "rules")
        rules = []
        for i, item in enumerate(self._reader.sequence(block["rules"], path)):
            rule = self._reader.record(PruneRule, item, (*path, i))
            if rule is None:
                continue
            if rule.stage and rule.stage not in names:
                self._reader.unknown((*path, i, "stage", rule.stage), names)
            if tasks and rule.metric not in known:
                self._reader.unknown((*path, i, "metric", rule.metric), known)
            rules.append(rule)
        return tuple(rules)

    def _metrics(self, tasks: Sequence[Task]) -> dict[str, Direction]:
        """Return every task metric, and those shared by all under their own name."""
        metrics: dict[str, Direction] = {}
        for task in tasks:
            metrics |= {f"{task.name}.{name}": side for name, side in task.metrics.items()}
        if tasks:
            for name in set.intersection(*(set(task.metrics) for task in tasks)):
                metrics[name] = tasks[0].metrics[name]
        return metrics

    def _objectives(self, tasks: Sequence[Task]) -> tuple[Objective, ...] | None:
        known = {**self._metrics(tasks), **COST_METRICS}
        if "objectives" not in self._data:
            primary = tasks[0].primary_metric if tasks else "auroc"
            name = primary if primary in known else f"{tasks[0].name}.{primary}" if tasks else ""
            return (Objective(metric=name, direction=known.get(name, "max")),)
        objectives = []
        items = self._reader.sequence(self._data["objectives"], ("objectives",))
        for i, item in enumerate(items):
            path: KeyPath = ("objectives", i)
            block = {"metric": item} if isinstance(item, str) else item
            metric = block.get("metric") if isinstance(block, dict) else None
            if tasks and isinstance(metric, str) and metric not in known:
                self._reader.fault(
                    path,
                    f"no task of this run gives the metric {metric!r}",
                    f"Metrics that exist: {', '.join(sorted(known))}.",
                )
                continue
            given = {} if isinstance(block, dict) and "direction" in block else {
                "direction": known.get(str(metric), "max")
            }
            objective = self._reader.record(Objective, block, path, given=given)
            if objective is not None:
                objectives.append(objective)
        if not items:
            self._reader.fault(("objectives",), "must hold at least one metric", "Name a metric.")
        return tuple(objectives)


def _default_rules(stages: Sequence[str], known: set[str]) -> tuple[PruneRule, ...]:
    """Return the default rules, moved to the first two stages of the run's ladder."""
    moved = {
        default.name: name for default, name in zip(DEFAULT_LADDER[:2], stages[:-1], strict=False)
    }
    return tuple(
        replace(rule, stage=moved[rule.stage])
        for rule in DEFAULT_RULES
        if rule.stage in moved and (rule.metric in known or not known)
    )


def check_survey(config: LoadedConfig, survey: Survey) -> None:
    """Check what only the loaded model can tell: that every target and layer range matches.

    Raises:
        ConfigError: some match nothing; the fault names what the model has.
    """
    spec, document = config.spec, config.document
    modules = [(module.name, module.layer) for module in survey.linear_modules]
    leaves = sorted({name.rpartition(".")[2] for name, layer in modules if layer is not None})
    tails = sorted({name.split(f".{layer}.", 1)[-1] for name, layer in modules if layer is not None})
    remedy = (
        f"The model has {survey.depth} layers with the linear maps {', '.join(tails)}"
        f" (short: {', '.join(leaves)}); `all-linear` takes them all."
    )
    faults = {}
    paths = ("adapter.target_modules", "adapter.layers")
    variants = [(path, value_at(spec.training, path), False) for path in paths]
    for gene in spec.space.genes:
        if gene.path in paths and isinstance(gene, ChoiceGene):
            variants += [(gene.path, option, True) for option in gene.options]
        elif gene.path in paths:
            variants += [(gene.path, (name,), True) for name in getattr(gene, "options", ())]
    for path, value, searched in variants:
        try:
            adapted_modules(with_values(spec.training, {path: value}).adapter, modules, survey.depth)
        except PlanError as error:
            key = _written(document, path, searched)
            faults[(key, str(error))] = document.fault(key, str(error), remedy)
    if faults:
        raise ConfigError(list(faults.values()))


def _written(document: Document, path: str, searched: bool) -> KeyPath:
    """Return the key path under which the user wrote a field of the plan."""
    blocks: tuple[KeyPath, ...] = (("search_space",),) if searched else (("training",), ())
    written = [*document.lines, *document.overridden]
    for key in written:
        for block in blocks:
            tail = key[len(block) :]
            if key[: len(block)] == block and tail and canonical(".".join(map(str, tail))) == path:
                return key
    return (*blocks[0], *path.split("."))
