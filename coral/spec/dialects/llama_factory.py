"""LLaMA-Factory's configs for LoRA, read as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coral.errors import Fault
from coral.spec.dialects.dialect import EMPTY, Dialect
from coral.spec.dialects.llama_factory_keys import (
    COLUMNS,
    DESCRIBED,
    DESCRIBED_REFUSED,
    IGNORED,
    MAPPED,
    REFUSED,
    TAGS,
)
from coral.spec.dialects.shared import (
    TASK_TYPE,
    both,
    fill_defaults,
    hold_out,
    map_alpha,
    map_micro_batch,
    map_optimizer,
    map_warmup,
    place_tasks,
    put_all,
    said,
    task_name,
    told_template,
)
from coral.spec.dialects.translation import Translation
from coral.spec.document import shown
from coral.spec.fields import suggestion

DESCRIPTION = "dataset_info.json"
ALPACA = "alpaca"
ONLINE = "ONLINE"
"""What ``dataset_dir`` says where data sets are named by their hub ids."""


def translate(config: Translation) -> None:
    """Put what LLaMA-Factory says in its own way into Coral's keys."""
    for key, allowed, other in (
        ("stage", "sft", "supervised fine-tuning is what Coral trains"),
        ("finetuning_type", "lora", "LoRA is what Coral trains"),
    ):
        if config.get(key, allowed) != allowed:
            rule = f"must be {allowed}: {other}, got {shown(config[key])}"
            config.fault((key,), rule, f"Write `{key}: {allowed}`.")
    _execution(config)
    map_optimizer(config, "optim")
    map_warmup(config)
    _data(config)
    map_micro_batch(config)
    rank = said(config).get("adapter.rank", LLAMA_FACTORY.defaults["lora_rank"])
    fill_defaults(config, {"lora_alpha": 2 * rank} if type(rank) is int else {})
    map_alpha(config)


def _execution(config: Translation) -> None:
    for key in ("bf16", "pure_bf16"):
        if config.get(key) is True:
            config.put(("execution", "precision"), "bfloat16", (key,))
    bits = config.get("quantization_bit")
    if bits == 4:
        config.put(("execution", "load_in_4bit"), True, ("quantization_bit",))
    elif bits is not None:
        rule = f"must be 4, the bits of weights that Coral trains on, got {shown(bits)}"
        config.fault(("quantization_bit",), rule, "Write 4, or remove it.")
    if "disable_gradient_checkpointing" in config:
        off = config["disable_gradient_checkpointing"] is True
        config.put(
            ("execution", "gradient_checkpointing"), not off, ("disable_gradient_checkpointing",)
        )
    for key in ("gradient_checkpointing", "trust_remote_code"):
        if key in config:
            config.put(("execution", key), config[key], (key,))
    settings = config.data.setdefault("execution", {})
    if isinstance(settings, dict):  # LLaMA-Factory's own default
        settings.setdefault("gradient_checkpointing", True)


def _data(config: Translation) -> None:
    if "dataset" not in config:
        return
    if "tasks" in config.data:
        both(config, ("tasks",), ("dataset",))
        return
    given = config["dataset"]
    names = given if isinstance(given, list) else str(given).split(",")
    description = _description(config)
    tasks = [
        _task(config, name.strip() if isinstance(name, str) else "", i, description)
        for i, name in enumerate(names)
    ]
    if config.get("template", ALPACA) != ALPACA:
        told_template(config, "template", str(config["template"]))
    _options(config, tasks)
    hold_out(config, "val_size", tasks)
    place_tasks(config, tasks)


def _options(config: Translation, tasks: list[dict[str, Any]]) -> None:
    """Give every task what the config says once for all."""
    packing = next((key for key in ("neat_packing", "packing") if config.get(key)), None)
    if packing is not None:
        put_all(config, tasks, packing, "sample_packing", bool)
    put_all(config, tasks, "train_on_prompt", "train_on_inputs", bool)
    put_all(config, tasks, "max_samples", "max_rows", int)
    if packing == "packing":
        config.notes.append("packing: examples that share a sequence do not see each other here")


@dataclass(frozen=True, slots=True)
class _Description:
    """``dataset_info.json``, with the lines of its data sets.

    Attributes:
        path: of the file; empty where data sets are named by their hub ids.
    """

    path: str = ""
    text: str = ""
    entries: Mapping[str, Any] = field(default_factory=dict)

    def where(self, name: str) -> str:
        """Return file and line of a data set."""
        found = self.text.find(json.dumps(name, ensure_ascii=False))
        return f"{self.path}:{self.text.count(chr(10), 0, max(found, 0)) + 1}"


def _description(config: Translation) -> _Description | None:
    """Read what describes the data sets; None if it has faults."""
    folder = config.get("dataset_dir", "data")
    if folder == ONLINE:
        return _Description()
    path = Path(str(folder)) / DESCRIPTION
    where = "dataset_dir" if "dataset_dir" in config else "dataset"
    remedy = "Name its folder in dataset_dir, or write ONLINE there and hub ids in dataset."
    try:
        text = config.read(path)
        entries = json.loads(text)
    except OSError as error:
        rule = f"{path} must describe the data sets; it can't be read: {error.strerror}"
        config.fault((where,), rule, remedy)
        return None
    except ValueError as error:
        config.fault((where,), f"{path} must be JSON: {error}", "Correct the file.")
        return None
    if not isinstance(entries, dict):
        config.fault((where,), f"{path} must hold an object, got {shown(entries)}", remedy)
        return None
    return _Description(path=str(path), text=text, entries=entries)


def _task(
    config: Translation, name: str, i: int, description: _Description | None
) -> dict[str, Any]:
    """Return a task for a named data set; what is wrong with it is noted and left out."""
    config.come_from(("tasks", i), ("dataset",))
    for option in ("name", "type", "path", "format", "messages", "subset"):
        config.come_from(("tasks", i, option), ("dataset",))
    task: dict[str, Any] = {"name": task_name(name), "type": TASK_TYPE, "path": name}
    if description is None or not description.path:
        return {**task, "format": _asked(config)}
    entry = description.entries.get(name)
    if not isinstance(entry, dict):
        rule = f"{description.path} describes no data set {shown(name)}"
        remedy = suggestion(name, tuple(description.entries), "It describes")
        config.fault(("dataset",), rule, remedy)
        return {**task, "format": _asked(config)}
    reading = _Entry(config, description, name, entry)
    return {**task, **reading.options()}


def _asked(config: Translation) -> str:
    """Return the format of instructions: in Alpaca's words, or in a chat template."""
    return "alpaca" if config.get("template") == ALPACA else "alpaca-chat"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One data set as ``dataset_info.json`` describes it."""

    config: Translation
    description: _Description
    name: str
    entry: Mapping[str, Any]

    def options(self) -> dict[str, Any]:
        """Return what a task needs to know."""
        for key, value in self.entry.items():
            if key in DESCRIBED_REFUSED:
                refusal = DESCRIBED_REFUSED[key]
                if value not in (*EMPTY, *refusal.harmless):
                    rule = f"asks for {refusal.asks}, which Coral does not do, got {shown(value)}"
                    self._fault(key, rule, refusal.remedy)
            elif key not in DESCRIBED:
                remedy = suggestion(key, tuple(DESCRIBED), "Known keys")
                self._fault(key, "unknown key of a data set", remedy)
        formatting = self.entry.get("formatting", "alpaca")
        if formatting not in ("alpaca", "sharegpt", "openai"):
            rule = f"must be alpaca, sharegpt or openai, got {shown(formatting)}"
            self._fault("formatting", rule, "Correct it.")
        chat = formatting != "alpaca"
        form = _asked(self.config)
        options: dict[str, Any] = {"path": self._path(), "format": "chat" if chat else form}
        if chat:
            options["messages"] = self._columns().get("messages", "conversations")
        for key in ("subset", "split"):
            if self.entry.get(key) not in EMPTY:
                options[key] = self.entry[key]
        self._check_columns()
        self._check_names("tags", TAGS)
        return options

    def _fault(self, key: str, rule: str, remedy: str) -> None:
        where, name = self.description.where(self.name), f"{self.name}.{key}"
        self.config.faults.append(Fault(where=where, key=name, rule=f"{rule}.", remedy=remedy))

    def _path(self) -> str:
        for key in ("hf_hub_url", "cloud_file_name"):
            if self.entry.get(key) not in EMPTY:
                return str(self.entry[key])
        name = self.entry.get("file_name")
        if not isinstance(name, str) or not name:
            self._fault("file_name", "must be given", "Add file_name, or hf_hub_url.")
            return self.name
        return str(Path(self.description.path).parent / name)

    def _columns(self) -> Mapping[str, Any]:
        columns = self.entry.get("columns")
        return columns if isinstance(columns, dict) else {}

    def _check_columns(self) -> None:
        self._check_names("columns", COLUMNS)

    def _check_names(self, key: str, known: Mapping[str, tuple[str, ...]]) -> None:
        given = self.entry.get(key)
        for role, name in (given if isinstance(given, dict) else {}).items():
            allowed = known.get(role, ())
            if name in (*EMPTY, *allowed) or (key, role) == ("columns", "messages"):
                continue
            rule = f"must be {' or '.join(allowed)}, got {shown(name)}"
            if not allowed:
                rule = f"is more than Coral reads, got {shown(name)}"
            self._fault(f"{key}.{role}", rule, "Rename it in the data, or leave it out there.")


LLAMA_FACTORY = Dialect(
    name="LLaMA-Factory",
    article="a",
    signs=("stage", "finetuning_type", "dataset", "template"),
    mapped=MAPPED,
    ignored=IGNORED,
    refused=REFUSED,
    defaults={
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-5,
        "cutoff_len": 2048,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lora_rank": 8,
        "lora_target": "all",
        "lora_dropout": 0.0,
        "seed": 42,
    },
    translate=translate,
)
