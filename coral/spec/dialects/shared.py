"""What Axolotl and LLaMA-Factory say alike, and the search space that is made for their configs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coral.plan import scaling_of
from coral.spec.aliases import ALPHA_NAMES, BATCH_NAMES, EPOCH_NAMES
from coral.spec.dialects.translation import Translation
from coral.spec.document import Document, KeyPath, dotted, shown
from coral.spec.fields import Reader
from coral.spec.training import canonical, training_entries

TASK_TYPE = "sft"
PLAIN_ADAMW = (
    "adamw_hf",
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_npu_fused",
    "adamw_torch_xla",
    "adamw_apex_fused",
    "paged_adamw",
    "paged_adamw_32bit",
)
"""AdamW with moments in 32 bits, as Coral has it."""
SHORTENED_ADAMW = (
    "adamw_8bit",
    "adamw_bnb_8bit",
    "adamw_torch_4bit",
    "adamw_torch_8bit",
    "ao_adamw_4bit",
    "ao_adamw_8bit",
    "paged_adamw_8bit",
)
"""AdamW that keeps its moments in fewer bits to save memory, at the cost of some precision."""
MOMENTS: Mapping[str, float] = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
"""The constants of AdamW that Coral trains with."""
SPREAD = 4.0
"""Factor around the config's own value within which rank, scaling, learning rate are searched."""
FEWER_LAYERS = ("all", "top-16", "top-8")
WARMUP = ("warmup_steps", "warmup_ratio")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML}
"""Chat templates that are the same whatever the model."""
SPLIT_NAMES = ("validation", "valid", "dev", "test")
"""Splits that a data set may have of its own, besides ``train``."""


def said(translation: Translation) -> dict[str, Any]:
    """Return the plan's fields that Coral's keys set by now, by dotted path."""
    reader = Reader(Document(source="", data=translation.data))
    return {
        canonical(name) or name: value
        for name, value, _ in training_entries(reader)
        if value is not None
    }


def fill_defaults(translation: Translation, derived: Mapping[str, Any] | None = None) -> None:
    """Take the other trainer's defaults where the config says nothing.

    Args:
        derived: further ones, which depend on the config.
    """
    taken, known = [], said(translation)
    for key, value in {**translation.dialect.defaults, **(derived or {})}.items():
        given = canonical(key) in known or key in translation.data
        given |= key in EPOCH_NAMES and (
            "training_stages" in translation.data or any(n in translation.data for n in EPOCH_NAMES)
        )
        given |= key in WARMUP and any(canonical(name) in known for name in WARMUP)
        given |= key in BATCH_NAMES and any(
            name in known for name in (*BATCH_NAMES, "schedule.batch_size")
        )
        given |= key in ALPHA_NAMES and any(
            name in known for name in (*ALPHA_NAMES, "adapter.scaling")
        )
        if not given:
            translation.data[key] = value
            taken.append(f"{key} {shown(value)}")
    if taken:
        translation.notes.append(f"{translation.dialect.name}'s defaults: {', '.join(taken)}")


def map_optimizer(translation: Translation, key: str) -> None:
    """Accept AdamW, however it is carried out; its constants are fixed."""
    name = translation.get(key)
    if name in SHORTENED_ADAMW:
        translation.notes.append(f"{key} {name}: AdamW keeps its moments in 32 bits here")
    elif name is not None and name not in PLAIN_ADAMW:
        translation.fault(
            (key,),
            f"must be AdamW, the one optimizer that Coral trains with, got {shown(name)}",
            "Write adamw_torch; the best learning rate may then be another.",
        )
    for constant, value in MOMENTS.items():
        if constant in translation and translation[constant] != value:
            translation.fault(
                (constant,),
                f"must be {value:g}, the constant that Coral trains with, got"
                f" {shown(translation[constant])}",
                "Remove it; the best learning rate may then be another.",
            )


def map_alpha(translation: Translation) -> None:
    """Turn alpha into the effective scaling at the config's own rank, so that both can be searched.

    Alpha that is no positive number is left to the checks of Coral's own keys.
    """
    given = [name for name in ALPHA_NAMES if name in translation.data]
    known = said(translation)
    rank: Any = known.get("adapter.rank")
    rslora = known.get("adapter.rslora", False)
    if len(given) != 1 or not isinstance(rslora, bool):
        return
    alpha = translation.data[given[0]]
    whole = isinstance(rank, int) and _is_positive(rank)
    if _is_positive(alpha) and whole and "adapter.scaling" not in known:
        del translation.data[given[0]]
        translation.put(("scaling",), scaling_of(alpha, rank, rslora=rslora), (given[0],))


def map_micro_batch(translation: Translation) -> None:
    """Hold what goes through the model at once to what the config says fits."""
    given = [name for name in BATCH_NAMES if name in translation]
    settings = translation.data.get("execution", {})
    if len(given) == 1 and _is_positive(translation[given[0]]) and isinstance(settings, dict):
        size = translation[given[0]]
        if "micro_batch_size" not in settings and isinstance(size, int):
            translation.put(("execution", "micro_batch_size"), size, (given[0],))


def map_warmup(translation: Translation) -> None:
    """Read steps or a share; a fraction of steps is a share, and no steps are none."""
    steps = translation.get("warmup_steps")
    if not isinstance(steps, int | float) or isinstance(steps, bool) or steps >= 1:
        return
    del translation.data["warmup_steps"]
    if "warmup_ratio" not in translation.data:
        translation.put(("warmup_ratio",), float(steps), ("warmup_steps",))


def share_of(translation: Translation, key: str) -> float | None:
    """Return the share of the rows that validates; None where the config holds out none."""
    value = translation.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        translation.fault(
            (key,), f"must be a share of the rows, got {shown(value)}", "Write it as 0.05."
        )
        return None
    if value >= 1:
        translation.fault(
            (key,),
            f"must be a share of the rows below 1, got a number of rows, {shown(value)}",
            "Divide it by the rows that there are, such as 0.05.",
        )
        return None
    return float(value) or None


def hold_out(translation: Translation, key: str, tasks: Sequence[dict[str, Any]]) -> None:
    """Give every task the shares of rows that validate and test."""
    share = share_of(translation, key)
    if share is None:
        translation.notes.append(
            f"{key} holds nothing out: where the data have no splits, the task's own shares do,"
            " since genomes are compared on validation"
        )
        return
    for i, task in enumerate(tasks):
        task["validation_share"] = task["test_share"] = share
        for name in ("validation_share", "test_share"):
            translation.come_from(("tasks", i, name), (key,))
    translation.notes.append(
        f"{key}: where the data have no splits, {share:.0%} of the rows validate, and as many"
        " again are the test split that the search never sees"
    )


def place_tasks(translation: Translation, tasks: Sequence[dict[str, Any]]) -> None:
    """Hand the tasks over, each under a name of its own."""
    if not tasks:
        return
    taken: dict[str, int] = {}
    for task in tasks:
        name = task["name"]
        taken[name] = taken.get(name, 0) + 1
        task["name"] = name if taken[name] == 1 else f"{name}_{taken[name]}"
    translation.data["tasks"] = list(tasks)
    if len(tasks) > 1 and "tasks.weights" not in said(translation):
        translation.notes.append(
            f"{len(tasks)} data sets are {len(tasks)} tasks with equal shares of training;"
            f" {translation.dialect.name} mixes them by size. task_weights sets the shares"
        )


def task_name(path: str) -> str:
    """Return a task's name, made from where its data lie.

    >>> task_name("teknium/GPT4-LLM-Cleaned")
    'gpt4_llm_cleaned'
    """
    last = path.rstrip("/").rpartition("/")[2]
    stem = last.rpartition(".")[0] or last
    return re.sub(r"\W+", "_", stem).strip("_").lower() or "data"


def make_search_space(translation: Translation, depth: int | None) -> None:
    """Search around the config's own values where it has no search space.

    Args:
        depth: layers of the model; None if that can't be told yet.
    """
    if "search_space" in translation.data:
        return
    fields = said(translation)
    space: dict[str, Any] = {}
    rank = fields.get("adapter.rank", 16)
    if isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1:
        space["lora_r"] = {"low": max(1, round(rank / SPREAD)), "high": round(rank * SPREAD)}
    for name, path, default in (
        ("scaling", "adapter.scaling", 2.0),
        ("learning_rate", "schedule.learning_rate", 2e-4),
    ):
        value = fields.get(path, default)
        if _is_positive(value):
            space[name] = {"low": _rounded(value / SPREAD), "high": _rounded(value * SPREAD)}
    for gene in space.values():
        gene["log"] = True
    layers = _fewer_layers(depth)
    if "adapter.layers" not in fields and len(layers) > 1:
        space["layers"] = list(layers)
    size = _batch_of(fields)
    if size is not None:
        space["batch_size"] = sorted({max(1, size // 2), size, size * 2})
    dropout = fields.get("adapter.dropout", 0.0)
    if isinstance(dropout, int | float) and 0 <= dropout < 0.5:
        space["lora_dropout"] = {"low": 0.0, "high": max(0.1, float(dropout))}
    tasks = translation.data.get("tasks")
    if isinstance(tasks, list) and len(tasks) > 1:
        space["task_weights"] = {"floor": min(0.1, round(0.5 / len(tasks), 3))}
    translation.data["search_space"] = space
    told = ", ".join(f"{name} {_told(gene)}" for name, gene in space.items())
    translation.notes.append(f"searched, as there is no search_space: {told}")


def _fewer_layers(depth: int | None) -> tuple[str, ...]:
    if depth is None:
        return FEWER_LAYERS
    parts = (depth // 2, depth // 4)
    return ("all", *(f"top-{count}" for count in dict.fromkeys(parts) if 0 < count < depth))


def _batch_of(fields: Mapping[str, Any]) -> int | None:
    """Return the examples of an optimizer step; None where they have faults."""
    micro = next((fields[name] for name in BATCH_NAMES if name in fields), None)
    accumulation = fields.get("gradient_accumulation_steps", 1)
    size = fields.get("schedule.batch_size", micro)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (size, accumulation))
    if not whole or size < 1 or accumulation < 1:
        return None
    return int(size) if "schedule.batch_size" in fields else int(size * accumulation)


def _told(gene: Any) -> str:
    if isinstance(gene, list):
        return " or ".join(map(str, gene))
    if "low" in gene:
        return f"{gene['low']:g} to {gene['high']:g}"
    return f"at least {gene['floor']:g} each"


def _rounded(value: float) -> float:
    """Round to three digits, so that a range reads well."""
    return float(f"{value:.3g}")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


NOUNS: Mapping[type, str] = {bool: "true or false", int: "a whole number > 0", str: "a text"}


def is_a(translation: Translation, kind: type, value: Any, key: KeyPath) -> bool:
    """Return whether an option of a task is what it must be; if not, that is a fault."""
    positive = not isinstance(value, int) or isinstance(value, bool) or value > 0
    if positive and type(value) is kind:
        return True
    translation.fault(key, f"must be {NOUNS[kind]}, got {shown(value)}", "Correct the value.")
    return False


def put_all(
    translation: Translation, tasks: Sequence[dict[str, Any]], key: str, name: str, kind: type
) -> None:
    """Give every task an option that the config says once for all."""
    if key not in translation or not is_a(translation, kind, translation[key], (key,)):
        return
    for i, task in enumerate(tasks):
        task[name] = translation[key]
        translation.come_from(("tasks", i, name), (key,))


def template_of(translation: Translation, value: Any, key: KeyPath) -> str | None:
    """Return a chat template that is written out, or that a file holds; None if it has faults."""
    text = str(value)
    if "{{" in text or "{%" in text:
        return text
    try:
        return translation.read(Path(text))
    except (OSError, ValueError) as error:
        rule = f"must be a Jinja template or a file of one, got {shown(value)} ({error})"
        translation.fault(key, rule, "Correct the path, or write the template out.")
        return None


def told_template(translation: Translation, key: str, name: str) -> None:
    """Note that a template that goes by the model's name is taken from the model."""
    translation.notes.append(
        f"{key} {name}: the tokenizer's own chat template is used; `coral data` shows it"
    )


def both(translation: Translation, one: KeyPath, other: KeyPath) -> None:
    """Note that two keys say the same."""
    rule = f"says the same as {dotted(one)} ({translation.where(one)})"
    translation.fault(other, rule, "Remove one of the two.")
