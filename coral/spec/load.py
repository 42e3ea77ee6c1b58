"""From a YAML file to a ``RunSpec``: all faults of a file at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from coral.capabilities import genes_of, profile_of, proxies_of
from coral.errors import ConfigError, Fault, ModelError, PlanError, TaskError
from coral.fidelity import Stage
from coral.plan import SELECTIVE_METRICS, TrainingPlan, task_shares
from coral.ports import Task
from coral.records import Direction, Objective
from coral.settings import (
    FIRST_STAGE,
    PARENTS_STAGE,
    BudgetSettings,
    EvolutionSettings,
    ExecutionSettings,
    RunSpec,
    SimulationSettings,
    TaskSettings,
    WarmStartSettings,
)
from coral.spec.aliases import BASE_MODEL_NAMES, EPOCH_NAMES, TRAINING_SHORTHANDS
from coral.spec.base_model import layers_of, locate, read_config
from coral.spec.dialects import Understood, understand
from coral.spec.document import (
    OVERRIDE,
    Document,
    KeyPath,
    read_document,
    shown,
    with_overrides,
    without,
)
from coral.spec.fields import Reader, suggestion
from coral.spec.ladder import read_prune, read_stages
from coral.spec.search_space import TaskGenes, read_search_space, taken_over
from coral.spec.sections import BYTE_COUNTS, BYTES, INHERITANCE, RETIRED, SECTIONS
from coral.spec.training import entries_of, read_plan_values, read_training, written_at

MEASURED_METRIC = "peak_memory_bytes"
COST_METRICS: Mapping[str, Direction] = {
    "trainable_parameters": "min",
    "train_cost": "min",
    MEASURED_METRIC: "min",
}
_TASK_OPTION = re.compile(r"task '[^']*': (?:the option )?'?(\w+)")


class TaskRegistry(Protocol):
    """What the loader needs to know of plugins."""

    def task_names(self) -> Sequence[str]: ...

    def build(self, name: str, options: Mapping[str, Any]) -> Task: ...

    def strategy_names(self) -> Mapping[str, Sequence[str]]: ...

    def objective_directions(self) -> Mapping[str, Direction]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A valid spec, and the document it came from, so that later faults can name their lines.

    Attributes:
        notes: what the user should know of how the config was read, a line each.
    """

    spec: RunSpec
    document: Document
    notes: tuple[str, ...] = ()


def load_config(
    path: Path, registry: TaskRegistry, overrides: Mapping[str, str] | None = None
) -> LoadedConfig:
    """Read, override and validate a config, in Coral's own words or in another trainer's.

    Raises:
        ConfigError: with every fault that can be found without loading the model.
    """
    document = with_overrides(read_document(path), overrides or {})
    understood = understand(
        document,
        read=lambda other: other.read_text(encoding="utf-8"),
        layers_of=lambda base_model: layers_of(read_config(base_model)),
    )
    return _loaded(understood, path.stem, registry)


def load_resolved(
    path: Path, registry: TaskRegistry, overrides: Mapping[str, str] | None = None
) -> LoadedConfig:
    """Read the resolved config of a run. Raises what ``load_config`` does.

    A run that an older Coral began goes on as it began, with nothing inherited or derived.
    """
    document = without(read_document(path), RETIRED)
    document = with_overrides(document, overrides or {})
    config = _loaded(Understood(document=document), path.stem, registry)
    if any(section in document.data for section in INHERITANCE):
        return config
    return replace(config, spec=config.spec.without_inheritance())


def _loaded(understood: Understood, name: str, registry: TaskRegistry) -> LoadedConfig:
    reader = Reader(understood.document, registry.strategy_names())
    reader.faults += understood.faults
    spec = _Sections(reader, registry).spec(name)
    if spec is None:
        raise ConfigError(in_file_order(list(dict.fromkeys(reader.faults))))
    return LoadedConfig(spec=spec, document=understood.document, notes=understood.notes)


def in_file_order(faults: Sequence[Fault]) -> list[Fault]:
    """Return faults by line, those of the command line last."""

    def line(fault: Fault) -> float:
        return float("inf") if fault.where == OVERRIDE else int(fault.where.rpartition(":")[2])

    return sorted(faults, key=line)


class _Sections:
    """Reads a document section by section; a fault in one does not hide those of the others."""

    def __init__(self, reader: Reader, registry: TaskRegistry) -> None:
        self._reader = reader
        self._registry = registry
        self._data = reader.document.data

    def spec(self, name: str) -> RunSpec | None:
        for key in self._data:
            if key not in (*SECTIONS, *TRAINING_SHORTHANDS, *BASE_MODEL_NAMES, *EPOCH_NAMES):
                self._reader.unknown((key,), (*SECTIONS, *TRAINING_SHORTHANDS), SECTIONS)
        mode = self._mode()
        base_model = self._base_model(mode)
        tasks, built = self._tasks()
        names = None if built is None else [task.name for task in tasks]
        stages = read_stages(self._reader)
        brought = _task_genes(tasks, built or ())
        training = read_training(self._reader, self._searched(brought))
        if training is not None and names is not None:
            self._check_weights(training, names)
        space = read_search_space(self._reader, training or TrainingPlan(), names, brought)
        evolution = self._evolution(training or TrainingPlan())
        abstains = space is not None and space.abstains
        more = SELECTIVE_METRICS if abstains else {}
        metrics = None if built is None else _metrics(built, more)
        prune = read_prune(
            self._reader,
            stages,
            None if metrics is None else set(metrics),
            _proxies(built or ()),
        )
        objectives = self._objectives(built, metrics)
        budget = self._reader.record(BudgetSettings, self._data.get("budget"), ("budget",))
        execution = self._reader.record(
            ExecutionSettings, self._data.get("execution"), ("execution",)
        )
        scalars: dict[str, Any] = {
            key: self._reader.field(RunSpec, key, self._data[key], (key,))[1]
            for key in ("output_dir", "seed", "cache")
            if key in self._data
        }
        scalars |= {key: self._bytes(key) for key in BYTE_COUNTS if key in self._data}
        simulation = self._simulation(stages, built or (), mode)
        blocks: dict[str, Any] = {
            name: self._reader.record(record, self._data.get(name), (name,))
            for name, record in INHERITANCE.items()
        }
        self._check_entry(blocks["warm_start"], stages)
        if self._reader.faults:
            return None
        assert mode is not None
        assert base_model is not None
        assert stages is not None
        assert training is not None
        assert space is not None
        assert evolution is not None
        assert prune is not None
        assert budget is not None
        assert execution is not None
        assert simulation is not None
        return RunSpec(
            name=name,
            mode=mode,
            base_model=base_model,
            tasks=tuple(tasks),
            space=space,
            evolution=evolution,
            training_stages=stages,
            prune=prune,
            objectives=objectives,
            budget=budget,
            execution=execution,
            simulation=simulation,
            **blocks,
            **scalars,
        )

    def _searched(self, brought: Sequence[TaskGenes]) -> list[str]:
        block = self._data.get("search_space")
        entries = entries_of(Reader(self._reader.document), block, ("search_space",))
        theirs = [name for own in taken_over(self._reader, brought) for name in own.genes]
        return [*theirs, *(name for name, _, _ in entries)]

    def _mode(self) -> Literal["real", "simulate"] | None:
        mode: Literal["real", "simulate"] | None = "real"
        if "mode" in self._data:
            _, mode = self._reader.field(RunSpec, "mode", self._data["mode"], ("mode",))
        return mode

    def _base_model(self, mode: str | None) -> str | None:
        given = [name for name in BASE_MODEL_NAMES if name in self._data]
        remedy = "Name one hub id, folder, or package:<module>/<folder>."
        if not given:
            self._reader.fault(("base_model",), "must be given", remedy)
            return None
        for other in given[1:]:
            rule = f"says the same as {given[0]} ({self._reader.document.where((given[0],))})"
            self._reader.fault((other,), rule, "Remove one of the two.")
        path: KeyPath = (given[0],)
        fits, value = self._reader.field(RunSpec, "base_model", self._data[given[0]], path)
        if not fits:
            return None
        try:
            if mode == "real":
                locate(value)
        except ModelError as error:
            rule, _, remedy = str(error).partition("\n")
            told = rule if value in rule else f"{rule.rstrip('.')}, got {shown(value)}"
            self._reader.fault(path, told, remedy)
            return None
        model: str = value
        return model

    def _tasks(self) -> tuple[list[TaskSettings], list[Task] | None]:
        """Return the tasks' settings, and the tasks; None for these if they have faults."""
        before = len(self._reader.faults)
        known = f"Tasks that exist: {', '.join(self._registry.task_names())}."
        settings: list[TaskSettings] = []
        built: list[Task] = []
        if "tasks" not in self._data:
            self._reader.fault(("tasks",), "must be given", known)
            return settings, None
        items = self._reader.sequence(self._data["tasks"], ("tasks",))
        if items == [] == self._data["tasks"]:
            self._reader.fault(("tasks",), "must hold at least one task, got []", known)
        for i, item in enumerate(items):
            path: KeyPath = ("tasks", i)
            block = {"name": item} if isinstance(item, str) else item
            if not isinstance(block, dict) or not isinstance(block.get("name"), str):
                rule = f"must be a task's name, or a mapping with a name, got {shown(item)}"
                self._reader.fault(path, rule, known)
                continue
            options = {key: v for key, v in block.items() if key not in ("name", "type")}
            name, kind = block["name"], block.get("type", "")
            if not isinstance(kind, str):
                rule = f"must be a task's registered name, got {shown(kind)}"
                self._reader.fault((*path, "type"), rule, known)
                continue
            if name in [task.name for task in settings]:
                rule = f"task {name!r} must be named once, it is already above"
                self._reader.fault(path, rule, "Remove one of the two.")
                continue
            settings.append(TaskSettings(name=name, options=options, type=kind))
            task = self._task(settings[-1], path)
            if task is not None:
                built.append(task)
        return settings, built if len(self._reader.faults) == before else None

    def _task(self, settings: TaskSettings, path: KeyPath) -> Task | None:
        """Build a task; every option at fault is left out in turn, so that all are found."""
        kept = settings.arguments
        while True:
            try:
                task = self._registry.build(settings.registered, kept)
            except TaskError as error:
                rule, _, remedy = str(error).partition("\n")
                named = _TASK_OPTION.match(rule)
                option = named.group(1) if named else ""
                where = (*path, option) if option in kept else path
                self._reader.fault(where, rule, remedy or "Correct the task.")
                if option not in kept:
                    return None
                del kept[option]
            else:
                return task

    def _check_weights(self, training: TrainingPlan, tasks: Sequence[str]) -> None:
        try:
            task_shares(training.tasks, tasks)
        except PlanError as error:
            path = written_at(self._reader.document, "tasks.weights")
            self._reader.fault(path, str(error), f"The run's tasks: {', '.join(tasks)}.")

    def _evolution(self, training: TrainingPlan) -> EvolutionSettings | None:
        block = self._data.get("evolution")
        if not isinstance(block, dict) or "recipes" not in block:
            return self._reader.record(EvolutionSettings, block, ("evolution",))
        path: KeyPath = ("evolution", "recipes")
        recipes = []
        for i, item in enumerate(self._reader.sequence(block["recipes"], path)):
            entries = entries_of(self._reader, item, (*path, i))
            recipes.append(read_plan_values(self._reader, entries, training))
        given = {"recipes": tuple(recipe for recipe in recipes if recipe)}
        return self._reader.record(EvolutionSettings, block, ("evolution",), given=given)

    def _check_entry(
        self, warm_start: WarmStartSettings | None, stages: Sequence[Stage] | None
    ) -> None:
        if warm_start is None or stages is None:
            return
        known = (FIRST_STAGE, PARENTS_STAGE, *(stage.name for stage in stages))
        if warm_start.entry not in known:
            rule = f"must be first, parent or a stage's name, got {warm_start.entry}"
            remedy = suggestion(warm_start.entry, known, "Entries that exist")
            self._reader.fault(("warm_start", "entry"), rule, remedy)

    def _bytes(self, key: str) -> int | None:
        """Read a number of bytes, alone or with a unit; None where there is none."""
        value = self._data.get(key)
        count = byte_count(value) if isinstance(value, str) else value
        if count is None:
            return None
        if type(count) in (int, float) and math.isfinite(count) and count == int(count) > 0:
            return int(count)
        rule = f"must be a number of bytes > 0, alone or with a unit, got {shown(value)}"
        self._reader.fault((key,), rule, "Write it as 200MB, 1.5GB or 200000000.")
        return None

    def _simulation(
        self, stages: Sequence[Stage] | None, tasks: Sequence[Task], mode: str | None
    ) -> SimulationSettings | None:
        path: KeyPath = ("simulation",)
        block = self._data.get("simulation")
        agreement = block.get("agreement") if isinstance(block, dict) else None
        names = tuple(stage.name for stage in stages or ())[:-1]
        for name in agreement if isinstance(agreement, dict) and stages else ():
            if name not in names:
                rule = f"must name a stage before the last, got {name}"
                remedy = "This ladder has one stage; remove the key."
                if names:
                    remedy = suggestion(name, names, "Stages before the last")
                self._reader.fault((*path, "agreement", name), rule, remedy)
        given = {}
        if not isinstance(block, dict) or "profile" not in block:
            wanted = {profile: task.name for task in tasks if (profile := profile_of(task))}
            if len(wanted) > 1 and mode == "simulate":
                told = ", ".join(f"{task} asks for {name}" for name, task in wanted.items())
                rule = f"must be given where tasks ask for different ones: {told}"
                self._reader.fault((*path, "profile"), rule, "Name one of them.")
            elif len(wanted) == 1:
                given = {"profile": next(iter(wanted))}
        return self._reader.record(SimulationSettings, block, path, given=given)

    def _objectives(
        self, tasks: Sequence[Task] | None, metrics: Mapping[str, Direction] | None
    ) -> tuple[Objective, ...]:
        """Read the objectives; None for ``tasks`` and ``metrics`` if the tasks have faults."""
        measured = {**(metrics or {}), **COST_METRICS}
        computed = self._registry.objective_directions()
        known = {**computed, **measured}
        if "objectives" not in self._data:
            if not tasks:
                return ()
            primary = tasks[0].primary_metric
            name = primary if primary in known else f"{tasks[0].name}.{primary}"
            return (Objective(metric=name, direction=known[name]),)
        items = self._reader.sequence(self._data["objectives"], ("objectives",))
        if items == [] == self._data["objectives"]:
            rule = "must hold at least one metric, got []"
            self._reader.fault(("objectives",), rule, _metrics_that_exist(known))
        objectives: list[Objective] = []
        for i, item in enumerate(items):
            path: KeyPath = ("objectives", i)
            objective = self._objective(item, path, known, checked=metrics is not None)
            if objective is not None and {objective.metric} <= measured.keys() & computed.keys():
                rule = f"{objective.metric} is a metric of this run, and an objective of a plugin"
                self._reader.fault(path, rule, "Rename the objective in the plugin.")
            if objective is not None and objective.metric in [o.metric for o in objectives]:
                rule = f"{objective.metric} must be named once, it is already above"
                self._reader.fault(path, rule, "Remove one of the two.")
            elif objective is not None:
                objectives.append(objective)
        if objectives and objectives[0].metric == MEASURED_METRIC:
            rule = f"can't begin with {MEASURED_METRIC}, which no two runs measure the same"
            remedy = "Put first what decides who is handed over, such as a task's metric."
            self._reader.fault(("objectives", 0), rule, remedy)
        return tuple(objectives)

    def _objective(
        self, item: Any, path: KeyPath, known: Mapping[str, Direction], *, checked: bool
    ) -> Objective | None:
        block = {"metric": item} if isinstance(item, str) else item
        if not isinstance(block, dict):
            rule = f"must be a metric's name, or a mapping with a metric, got {shown(item)}"
            self._reader.fault(path, rule, _metrics_that_exist(known))
            return None
        metric = block.get("metric")
        if checked and isinstance(metric, str) and metric not in known:
            where = path if block is not item else (*path, "metric")
            remedy = suggestion(metric, tuple(known), "Metrics that exist", _short(known))
            self._reader.fault(where, f"no task of this run gives it, got {metric}", remedy)
        given = {} if "direction" in block else {"direction": known.get(str(metric), "max")}
        return self._reader.record(Objective, block, path, given=given)


def byte_count(text: str) -> float:
    """Return the bytes that a text such as ``1.5GB`` says; NaN if it says none."""
    if not re.fullmatch(BYTES, text):
        return math.nan
    count = text.rstrip(" kKMGTB")
    unit = text.removeprefix(count).strip(" B").upper()
    return float(round(float(count) * 1000.0 ** ("", "K", "M", "G", "T").index(unit)))


def _metrics(tasks: Sequence[Task], more: Mapping[str, Direction]) -> dict[str, Direction]:
    """Return every task's metrics, and those shared by all under their own name.

    Args:
        more: what tasks are scored with besides.
    """
    of_task = {task.name: {**task.metrics, **more} for task in tasks}
    metrics: dict[str, Direction] = {}
    for task, own in of_task.items():
        metrics |= {f"{task}.{name}": side for name, side in own.items()}
    first, *others = of_task.values()
    for name in set(first).intersection(*others):
        metrics[name] = first[name]
    return metrics


def _proxies(tasks: Sequence[Task]) -> dict[str, int]:
    """Return every task's proxies, and those shared by all, with the stage that they serve."""
    own = {task.name: proxies_of(task) for task in tasks}
    found = {f"{t}.{name}": proxy.stage for t, mine in own.items() for name, proxy in mine.items()}
    for name in set.intersection(*(set(mine) for mine in own.values())) if own else ():
        stages = {mine[name].stage for mine in own.values()}
        if len(stages) == 1:
            found[name] = stages.pop()
    return found


def _task_genes(settings: Sequence[TaskSettings], tasks: Sequence[Task]) -> list[TaskGenes]:
    """Return what each task would search; nothing if one of them has faults."""
    if len(settings) != len(tasks):
        return []
    return [
        TaskGenes(task=task.name, path=("tasks", i), genes=genes)
        for i, task in enumerate(tasks)
        if (genes := genes_of(task))
    ]


def _short(known: Mapping[str, Direction]) -> tuple[str, ...]:
    return tuple(sorted(known, key=lambda name: (name.count("."), name)))


def _metrics_that_exist(known: Mapping[str, Direction]) -> str:
    return f"Metrics that exist: {', '.join(_short(known))}."
