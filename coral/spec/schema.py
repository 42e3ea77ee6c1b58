"""The JSON Schema of a config, drawn from the records themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from coral.fidelity import PruneRule, Stage
from coral.plan import plan_paths
from coral.ports import BUILT_IN
from coral.records import Objective
from coral.settings import (
    BudgetSettings,
    EvolutionSettings,
    ExecutionSettings,
    FaultRates,
    SimulationSettings,
)
from coral.spec.aliases import (
    ACCUMULATION,
    ALPHA_NAMES,
    BASE_MODEL_NAMES,
    BATCH_NAMES,
    EPOCH_NAMES,
    PLAN_ALIASES,
    TARGET_LINEAR,
)
from coral.spec.search_space import TASK_GENES
from coral.spec.sections import BYTE_COUNTS, BYTES, INHERITANCE
from coral.spec.training import PARTS, plan_fields

Schema = dict[str, Any]

_GENE: Schema = {
    "description": "A list of choices, or a range, a subset, or shares on a simplex.",
    "anyOf": [
        {"type": "array", "minItems": 2},
        {"const": "simplex"},
        {"const": "flag"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "low": {"type": "number"},
                "high": {"type": "number"},
                "log": {"type": "boolean", "default": False},
                "choices": {"type": "array", "minItems": 2},
                "subset": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "least": {"type": "integer", "minimum": 1},
                "simplex": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "floor": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
                "when": {"type": "object", "minProperties": 1, "maxProperties": 1},
            },
        },
    ],
}


def config_schema() -> Schema:
    """Return the schema (JSON Schema 2020-12) of a config file."""
    names = {path: _plan_field(path) for path in plan_paths()}
    aliases = {alias: names[path] for alias, path in PLAN_ALIASES.items()}
    whole = {"type": "integer", "exclusiveMinimum": 0}
    shorthands = {
        **aliases,
        **{name: {"type": "number", "exclusiveMinimum": 0} for name in ALPHA_NAMES},
        **dict.fromkeys((*BATCH_NAMES, ACCUMULATION), whole),
        TARGET_LINEAR: {"type": "boolean"},
    }
    parts = {part: _record(record) for part, record in PARTS.items()}
    rules = {"type": "array", "items": _record(PruneRule)}
    evolution = _record(EvolutionSettings)
    plan = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**parts, **names, **shorthands},
    }
    evolution["properties"]["recipes"] = {"type": "array", "items": plan}
    simulation = _record(SimulationSettings)
    simulation["properties"]["faults"] = _record(FaultRates)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Coral config",
        "type": "object",
        "required": ["tasks"],
        "oneOf": [{"required": [name]} for name in BASE_MODEL_NAMES],
        "additionalProperties": False,
        "properties": {
            "base_model": {
                "type": "string",
                "description": "A hub id, a local folder, or package:<module>/<folder>.",
            },
            "model_name_or_path": {"type": "string"},
            "tasks": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "anyOf": [
                        {"type": "string"},
                        {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"type": "string"},
                                "type": {
                                    "type": "string",
                                    "description": "What makes the task; its name if not given.",
                                },
                            },
                        },
                    ]
                },
            },
            "training": plan,
            "search_space": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    **{part: _genes(plan_fields(part)) for part in PARTS},
                    **dict.fromkeys((*names, *PLAN_ALIASES, *BATCH_NAMES), _GENE),
                    TASK_GENES: {
                        "type": "boolean",
                        "default": False,
                        "description": "Take over what the tasks would search.",
                    },
                },
            },
            "evolution": evolution,
            **{name: _record(record) for name, record in INHERITANCE.items()},
            "training_stages": {"type": "array", "minItems": 1, "items": _record(Stage)},
            "prune": {
                "anyOf": [
                    rules,
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "rules": rules,
                            "audit_fraction": {"type": "number", "minimum": 0, "maximum": 1},
                        },
                    },
                ]
            },
            "objectives": {
                "type": "array",
                "minItems": 1,
                "items": {"anyOf": [{"type": "string"}, _record(Objective)]},
            },
            "budget": _record(BudgetSettings),
            "execution": _record(ExecutionSettings),
            "mode": {"enum": ["real", "simulate"], "default": "real"},
            "simulation": simulation,
            "cache": {"type": "string"},
            **{
                key: {
                    "description": "A number of bytes, or a text such as 200MB.",
                    "type": ["integer", "string", "null"],
                    "exclusiveMinimum": 0,
                    "pattern": f"^{BYTES}$",
                }
                for key in BYTE_COUNTS
            },
            "output_dir": {"type": "string"},
            "seed": {"type": "integer", "minimum": 0},
            **{name: {"type": "number", "exclusiveMinimum": 0} for name in EPOCH_NAMES},
            **shorthands,
        },
    }


def _record(record: type) -> Schema:
    """Return the schema of a record, without the keys that its defaults make optional."""
    hints = get_type_hints(record, include_extras=True)
    properties: Schema = {}
    required = []
    for field in dataclasses.fields(record):
        properties[field.name] = TypeAdapter(hints[field.name]).json_schema()
        if (kind := field.metadata.get("strategy")) is not None:
            own = {"enum": list(BUILT_IN[kind]), "description": "Coral's own."}
            properties[field.name] = {"anyOf": [own, {"type": "string"}]}
        if field.default is not dataclasses.MISSING:
            properties[field.name]["default"] = TypeAdapter(Any).dump_python(
                field.default, mode="json"
            )
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "required": required} if required else schema


def _genes(fields: Sequence[str]) -> Schema:
    properties = dict.fromkeys(fields, _GENE)
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _plan_field(path: str) -> Schema:
    part, _, name = path.partition(".")
    schema: Schema = _record(PARTS[part])["properties"][name]
    return schema
