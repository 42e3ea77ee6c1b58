"""Axolotl's configs for LoRA, read as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from coral.spec.dialects.axolotl_keys import (
    DATASET_MAPPED,
    DATASET_REFUSED,
    ENDINGS,
    FOREIGN_PLUGINS,
    FORMATS,
    IGNORED,
    MAPPED,
    OPTIONS,
    REFUSED,
    ROLES,
)
from coral.spec.dialects.dialect import EMPTY, Dialect
from coral.spec.dialects.shared import (
    SPLIT_NAMES,
    TASK_TYPE,
    TEMPLATES,
    both,
    fill_defaults,
    hold_out,
    is_a,
    map_alpha,
    map_micro_batch,
    map_optimizer,
    map_warmup,
    place_tasks,
    put_all,
    task_name,
    template_of,
    told_template,
)
from coral.spec.dialects.translation import Translation
from coral.spec.document import KeyPath, shown


def translate(config: Translation) -> None:
    """Put what Axolotl says in its own way into Coral's keys."""
    _adapter(config)
    _precision(config)
    for key in ("load_in_4bit", "trust_remote_code"):
        if key in config:
            config.put(("execution", key), config[key], (key,))
    if "gradient_checkpointing" in config:
        on = config["gradient_checkpointing"]
        kept_elsewhere = ("unsloth", "offload", "offload_disk")
        on = True if on in kept_elsewhere else on
        config.put(("execution", "gradient_checkpointing"), on, ("gradient_checkpointing",))
    map_optimizer(config, "optimizer")
    _layers(config)
    if all(name in config and config[name] for name in ("warmup_steps", "warmup_ratio")):
        both(config, ("warmup_steps",), ("warmup_ratio",))
    map_warmup(config)
    _plugins(config)
    _special_tokens(config)
    _data(config)
    map_micro_batch(config)
    fill_defaults(config)
    map_alpha(config)


def _adapter(config: Translation) -> None:
    adapter = config.get("adapter")
    if adapter is None:
        rule = "must be given: without it Axolotl trains every weight, and Coral trains LoRA"
        config.fault(("adapter",), rule, "Add `adapter: lora`, or `adapter: qlora`.")
    elif adapter not in ("lora", "qlora"):
        rule = f"must be lora or qlora, got {shown(adapter)}"
        config.fault(("adapter",), rule, "Write `adapter: lora`.")
    elif adapter == "qlora" and config.get("load_in_4bit") is not True:
        rule = f"must be true with adapter: qlora, got {shown(config.get('load_in_4bit'))}"
        config.fault(("load_in_4bit",), rule, "Write `load_in_4bit: true`, or `adapter: lora`.")


def _precision(config: Translation) -> None:
    words = {True: "bfloat16", False: "float32", "auto": "auto"}
    for key in ("bf16", "bfloat16", "float32"):
        if key not in config or (config[key] is False and key != "bf16"):
            continue
        value = config[key]
        if not isinstance(value, bool | str) or value not in words:
            rule = f"must be true, false or auto, got {shown(value)}"
            config.fault((key,), rule, "Write `bf16: auto`.")
            continue
        meant = "float32" if key == "float32" else words[value]
        config.put(("execution", "precision"), meant, (key,))


def _layers(config: Translation) -> None:
    key = "peft_layers_to_transform"
    if key not in config:
        return
    layers = config[key]
    numbers = [layers] if type(layers) is int else layers
    plain = isinstance(numbers, list) and all(type(n) is int for n in numbers)
    if plain and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        config.put(("layers",), f"{numbers[0]}-{numbers[-1]}", (key,))
    else:
        rule = f"must be numbers that follow each other, got {shown(layers)}"
        config.fault((key,), rule, "Write them as a range, such as [4, 5, 6, 7].")


def _plugins(config: Translation) -> None:
    plugins = config.get("plugins", [])
    for i, name in enumerate(plugins if isinstance(plugins, list) else [plugins]):
        if not any(part in str(name) for part in FOREIGN_PLUGINS):
            rule = f"asks for a part of Axolotl that Coral does not have, got {shown(name)}"
            path: KeyPath = ("plugins", i) if isinstance(plugins, list) else ("plugins",)
            config.fault(path, rule, "Remove it; the result may then differ.")


def _special_tokens(config: Translation) -> None:
    tokens = config.get("special_tokens", {})
    if not isinstance(tokens, dict):
        rule = f"must be a mapping, got {shown(tokens)}"
        config.fault(("special_tokens",), rule, "Write `pad_token: ...` on a line of its own.")
        return
    for name, token in tokens.items():
        if name != "pad_token" and token not in EMPTY:
            rule = f"asks for another {name}, which Coral leaves as it is, got {shown(token)}"
            remedy = "Remove it, or save the tokenizer with it beside the model."
            config.fault(("special_tokens", name), rule, remedy)
    if "pad_token" in tokens and tokens["pad_token"] not in EMPTY:
        config.notes.append("special_tokens.pad_token: padding is masked, whichever token it is")


def _data(config: Translation) -> None:
    if "datasets" not in config:
        return
    if "tasks" in config.data:
        both(config, ("tasks",), ("datasets",))
        return
    items = config["datasets"]
    if not isinstance(items, list):
        rule = f"must be a list, got {shown(items)}"
        config.fault(("datasets",), rule, "Write `- path: ...` lines.")
        items = []
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            rule = f"must be a mapping with path and type, got {shown(item)}"
            config.fault(("datasets", i), rule, "Write `- path: ...` lines.")
    own = [(i, item) for i, item in enumerate(items) if isinstance(item, dict)]
    tasks = [_task(config, item, i, number) for number, (i, item) in enumerate(own)]
    foreign = [
        _template(config, item, i, number, task)
        for number, ((i, item), task) in enumerate(zip(own, tasks, strict=True))
        if task["format"] == "chat"
    ]
    if any(foreign):
        told_template(config, "chat_template", ", ".join(sorted({*filter(None, foreign)})))
    put_all(config, tasks, "train_on_inputs", "train_on_inputs", bool)
    put_all(config, tasks, "sample_packing", "sample_packing", bool)
    if _test_datasets(config, [item for _, item in own]):
        for task in tasks:
            task.pop("split", None)
    else:
        hold_out(config, "val_set_size", tasks)
    place_tasks(config, tasks)


def _template(
    config: Translation, item: dict[str, Any], i: int, number: int, task: dict[str, Any]
) -> str:
    """Give conversations their template: the data set's own, or that of all.

    Returns:
        The name of a template that is to be the tokenizer's own; empty if it is another.
    """
    home: KeyPath = ("datasets", i)
    said_by: list[tuple[Mapping[str, Any], KeyPath]] = [(item, home), (config.top, ())]
    for block, around in said_by:
        jinja, name = block.get("chat_template_jinja"), block.get("chat_template")
        if jinja not in EMPTY:
            key: KeyPath = (*around, "chat_template_jinja")
            task["chat_template"] = template_of(config, jinja, key)
            config.come_from(("tasks", number, "chat_template"), key)
            return ""
        if isinstance(name, str) and name in TEMPLATES:
            task["chat_template"] = TEMPLATES[name]
            config.come_from(("tasks", number, "chat_template"), (*around, "chat_template"))
            return ""
        if name not in EMPTY:
            return "" if str(name).startswith("tokenizer_default") else str(name)
    return ""


def _task(config: Translation, item: dict[str, Any], i: int, number: int) -> dict[str, Any]:
    """Return a task for a data set; what it says wrongly is noted and left out."""
    home: KeyPath = ("datasets", i)
    config.come_from(("tasks", number), home)
    for key, value in item.items():
        if key in DATASET_REFUSED:
            refusal = DATASET_REFUSED[key]
            if value not in (*EMPTY, *refusal.harmless):
                rule = f"asks for {refusal.asks}, which Coral does not do, got {shown(value)}"
                config.fault((*home, key), rule, refusal.remedy)
        elif key not in DATASET_MAPPED:
            known = ", ".join(DATASET_MAPPED)
            config.fault((*home, key), "unknown key of a data set", f"Known keys: {known}.")
    form = _format(config, item, home)
    path = _path(config, item, home)
    task: dict[str, Any] = {"name": task_name(path), "type": TASK_TYPE, "path": path}
    task["format"] = form
    config.come_from(("tasks", number, "format"), (*home, "type"))
    config.come_from(("tasks", number, "name"), (*home, "path"))
    config.come_from(("tasks", number, "type"), home)
    if form == "chat":
        task["messages"] = "messages"
        _messages(config, item, home)
    for key, option in OPTIONS[form].items():
        if item.get(key) not in EMPTY and is_a(config, str, item[key], (*home, key)):
            task[option] = item[key]
            config.come_from(("tasks", number, option), (*home, key))
    return task


def _format(config: Translation, item: dict[str, Any], home: KeyPath) -> str:
    kind = item.get("type")
    if isinstance(kind, str) and kind in FORMATS:
        return FORMATS[kind]
    rule = f"must be {', '.join(FORMATS)}, got {shown(kind)}"
    remedy = "Write `type: chat_template`, and the conversations as messages."
    if kind is None:
        rule, remedy = "must be given", f"Add `type: ...`: {', '.join(FORMATS)}."
    config.fault((*home, "type"), rule, remedy)
    return "chat"


def _path(config: Translation, item: dict[str, Any], home: KeyPath) -> str:
    """Return where the data lie; ``data_files`` says which of the files there."""
    path, kind, files = item.get("path"), item.get("ds_type"), item.get("data_files")
    if not isinstance(path, str) or not path:
        config.fault((*home, "path"), f"must be a text, got {shown(path)}", "Add `path: ...`.")
        return ""
    if isinstance(files, list) and len(files) == 1:
        files = files[0]
    if isinstance(files, str) and files:
        path = files if path in ENDINGS else _inside(path, files, item.get("revision"))
    elif files not in EMPTY:
        rule = f"must be one file, folder or pattern, got {shown(files)}"
        config.fault((*home, "data_files"), rule, "Write a pattern, such as data/*.jsonl.")
    ending = PurePosixPath(path).suffix.lower()
    known = {end for ends in ENDINGS.values() for end in ends}
    fitting = ENDINGS.get(str(kind), ())
    if kind not in EMPTY and (not fitting or ending in known - {*fitting}):
        rule = f"must agree with the file's ending, got {shown(kind)} for {path}"
        config.fault((*home, "ds_type"), rule, "Rename the file, or correct ds_type.")
    return path


def _inside(path: str, files: str, revision: Any) -> str:
    """Return the place of files in a folder, or in a data set on the hub."""
    if "://" in files or files.startswith("/"):
        return files
    local = path.startswith((".", "/", "~")) or path.count("/") != 1
    at = f"@{revision}" if revision not in EMPTY else ""
    return f"{path.rstrip('/')}/{files}" if local else f"hf://datasets/{path}{at}/{files}"


def _messages(config: Translation, item: dict[str, Any], home: KeyPath) -> None:
    """Check that messages are written as a role and a content, by names that Coral reads."""
    mappings = item.get("message_property_mappings")
    names = {} if mappings in EMPTY else mappings
    places: list[tuple[Any, tuple[str, ...], KeyPath]] = [
        (item.get("message_field_role"), ("role", "from"), (*home, "message_field_role")),
        (item.get("message_field_content"), ("content", "value"), (*home, "message_field_content")),
    ]
    if isinstance(names, dict):
        usual = {"role": ("role", "from"), "content": ("content", "value")}
        for name, column in names.items():
            where = (*home, "message_property_mappings", name)
            places.append((column, usual.get(name, (name,)), where))
    for value, allowed, path in places:
        if value not in EMPTY and value not in allowed:
            rule = f"must be {' or '.join(allowed)}, got {shown(value)}"
            config.fault(path, rule, "Rename it in the data, and remove the key.")
    roles = item.get("roles")
    for role, others in (roles if isinstance(roles, dict) else {}).items():
        given = others if isinstance(others, list) else [others]
        foreign = [name for name in given if name not in ROLES.get(role, [])]
        if foreign:
            rule = f"must be among {', '.join(ROLES.get(role, ROLES))}, got {shown(others)}"
            config.fault((*home, "roles", role), rule, "Rename it in the data.")


def _test_datasets(config: Translation, items: list[dict[str, Any]]) -> bool:
    """Return whether the data have splits of their own to validate on."""
    given = config.get("test_datasets", [])
    trained = [item.get("path") for item in items]
    for i, item in enumerate(given if isinstance(given, list) else [given]):
        entry = item if isinstance(item, dict) else {}
        if entry.get("path") not in trained or entry.get("split") not in SPLIT_NAMES:
            rule = f"must name a split of one of the datasets, got {shown(item)}"
            remedy = (
                "Put the rows to train on and to validate on into one data set with splits, or set"
                " val_set_size."
            )
            config.fault(("test_datasets", i), rule, remedy)
    return bool(given)


AXOLOTL = Dialect(
    name="Axolotl",
    article="an",
    signs=("datasets", "adapter", "test_datasets"),
    mapped=MAPPED,
    ignored=IGNORED,
    refused=REFUSED,
    defaults={
        "num_epochs": 1.0,
        "micro_batch_size": 1,
        "sequence_len": 512,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lora_dropout": 0.0,
        "seed": 42,
    },
    translate=translate,
)
