"""Handing over a folder with adapter, heads, tokenizer, card and facts; and using it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from coral.errors import CheckpointError, ModelError
from coral.ports import CausalSettings, Examples
from coral.training.base import BaseModel, load_base
from coral.training.conversations import Renderer, turn_ends
from coral.training.data import build_evaluation_set
from coral.training.encoder import MultiTaskEncoder, require_coverage
from coral.training.evaluation import predict
from coral.training.generation import generate

ADAPTER = "adapter_model.safetensors"
HEADS = "heads.safetensors"
FACTS = "coral.json"


def write(
    folder: Path, encoder: MultiTaskEncoder, base: BaseModel, card: Mapping[str, Any]
) -> None:
    """Write an adapter so that ``PeftModel.from_pretrained`` and ``coral predict`` can load it.

    Args:
        folder: created; its files are overwritten.
        card: the facts for ``coral.json``; the model card is drawn from them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder.adapter.peft_config["default"].base_model_name_or_path = str(card["base_model"])
    if base.language is None:
        encoder.adapter.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        _save_for_language_model(encoder.adapter, base.language.prefix, folder)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in encoder.heads.state_dict().items()},
        folder / HEADS,
    )
    base.tokenizer.save_pretrained(str(folder))
    (folder / FACTS).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(_model_card(card))


def _save_for_language_model(adapter: PeftModel, prefix: str, folder: Path) -> None:
    """Write an adapter of a decoder as one of the language model that holds it.

    Args:
        prefix: dotted name of the decoder in it.
    """
    tensors = get_peft_model_state_dict(adapter, save_embedding_layers=False)
    start = "base_model.model."
    named = {
        f"{start}{prefix}.{name.removeprefix(start)}": tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    config = copy.deepcopy(adapter.peft_config["default"])
    assert isinstance(config, LoraConfig)
    config.task_type = TaskType.CAUSAL_LM
    config.inference_mode = True
    config.target_modules = {f"{prefix}.{name}" for name in config.target_modules or ()}
    config.rank_pattern = {f"{prefix}.{name}": r for name, r in config.rank_pattern.items()}
    config.alpha_pattern = {f"{prefix}.{name}": a for name, a in config.alpha_pattern.items()}
    save_file(named, folder / ADAPTER, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _model_card(card: Mapping[str, Any]) -> str:
    validation, test = card["metrics"]["validation"], card["metrics"]["test"] or {}
    table = "\n".join(
        f"| {metric} | {_shown(value)} | {_shown(test.get(metric))} |"
        for metric, value in validation.items()
    )
    tasks = "\n".join(
        f"- `{name}`: {', '.join(facts['labels'])}" for name, facts in card["tasks"].items()
    )
    genome = "\n".join(f"| `{path}` | {value} |" for path, value in card["genome"].items())
    return f"""---
library_name: peft
base_model: {card["base_model"]}
tags: [lora, coral]
---

# {card["run"]}, trial {card["trial"]}

A LoRA adapter for `{card["base_model"]}`, found by Coral {card["versions"]["coral"]}
(seed {card["seed"]}, generation {card["lineage"]["generation"]}, {card["lineage"]["operator"]}).

Adapter parameters: {card["trainable_parameters"]:,}. Optimizer steps: {card["cumulative_steps"]:,}.

| metric | validation | test |
|---|---|---|
{table}

## Tasks and labels

{tasks}

## Genome

| gene | value |
|---|---|
{genome}

## Use

```python
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from transformers import AutoModel

encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(BASE_MODEL_FOLDER), THIS_FOLDER)
```

`{HEADS}` holds one linear head a task, on {card["plan"]["encoding"]["pooling"]}-pooled vectors;
`coral predict` applies them.
"""


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


class Predictor:
    """A handed-over adapter with its heads, ready to label texts."""

    def __init__(
        self, folder: Path, *, device: str = "cpu", trust_remote_code: bool = False
    ) -> None:
        """Load the folder and the base model that it names.

        Raises:
            ModelError: the folder or the base model can't be loaded.
        """
        try:
            self.card: dict[str, Any] = json.loads((folder / FACTS).read_text())
            heads = load_file(folder / HEADS)
            tensors = list(load_file(folder / ADAPTER))
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(
                f"{folder} holds no champion: {error}. Finish the run with `coral resume` first."
            ) from error
        self._answers = {
            name: CausalSettings(**facts["causal"])
            for name, facts in self.card["tasks"].items()
            if facts.get("causal")
        }
        self._base = load_base(
            self.card["base_model"],
            device=device,
            trust_remote_code=trust_remote_code,
            causal=bool(self._answers),
            load_in_4bit=self.card.get("load_in_4bit", False),
        )
        if self._base.digest != self.card["base_model_digest"]:
            raise ModelError(
                f"{folder} was trained on other weights than {self.card['base_model']!r} has here."
                "\nBring back the base model that it was trained on."
            )
        language = self._base.language
        model = language.model if language else self._base.model
        adapter = PeftModel.from_pretrained(model, str(folder))
        modules = nn.ModuleDict(
            {
                name: nn.Linear(self._base.hidden_size, len(facts["labels"]))
                for name, facts in self.card["tasks"].items()
                if name not in self._answers
            }
        )
        pooling = self.card["plan"]["encoding"]["pooling"]
        heads_there = modules.to(self._base.device)
        adapted = self._base.model if language else adapter
        self._encoder = MultiTaskEncoder(self._base, adapted, heads_there, pooling).eval()
        try:
            require_coverage(
                get_peft_model_state_dict(adapter, save_embedding_layers=False), tensors
            )
            require_coverage(modules.state_dict(), heads)
            modules.load_state_dict(heads)
        except (CheckpointError, RuntimeError) as error:
            raise ModelError(f"{folder} does not fit its base model: {error}") from error

    def predict(self, texts: Sequence[str]) -> list[dict[str, dict[str, float] | str]]:
        """Return, for each text, task name to label name to probability, or to a written answer."""
        if not texts:
            return []
        tasks = self.card["tasks"]
        labelled = [name for name in tasks if name not in self._answers]
        sequence_len = self.card["plan"]["encoding"]["sequence_len"]
        unlabelled = Examples(texts=tuple(texts), labels=np.zeros(len(texts), dtype=np.int64))
        examples = build_evaluation_set(
            dict.fromkeys(labelled, unlabelled), self._base.tokenizer, sequence_len
        )
        found = predict(self._encoder, examples)
        shares = {name: np.round(found[name], 6).tolist() for name in labelled}
        written = {name: self._write(name, settings, texts) for name, settings in self._answers.items()}
        return [
            {
                name: written[name][i]
                if name in written
                else dict(zip(facts["labels"], shares[name][i], strict=True))
                for name, facts in tasks.items()
            }
            for i in range(len(texts))
        ]

    def _write(self, task: str, settings: CausalSettings, texts: Sequence[str]) -> list[str]:
        """Return what the model answers to each text."""
        language, tokenizer = self._base.language, self._base.tokenizer
        assert language is not None
        asked = [Renderer(task, tokenizer, settings).asked(text) for text in texts]
        with self._encoder.merged(), self._encoder.forward_scope():
            return generate(
                language,
                tokenizer,
                [example.prompt for example in asked],
                max_new_tokens=settings.max_new_tokens,
                ends=turn_ends(tokenizer, asked),
                most_tokens=self._base.max_tokens,
            )
