"""Handing over a folder with adapter, heads, tokenizer, card and facts; and using it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from coral.errors import CheckpointError, ModelError
from coral.ports import Examples
from coral.training.base import BaseModel, load_base
from coral.training.data import build_evaluation_set
from coral.training.encoder import MultiTaskEncoder, require_coverage
from coral.training.evaluation import predict
from coral.training.targets import Target

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
    encoder.adapter.save_pretrained(str(folder), save_embedding_layers=False)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in encoder.heads.state_dict().items()},
        folder / HEADS,
    )
    base.tokenizer.save_pretrained(str(folder))
    (folder / FACTS).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(_model_card(card))


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
            trained = load_file(folder / HEADS)
            adapted = list(load_file(folder / ADAPTER))
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(
                f"{folder} holds no champion: {error}. Finish the run with `coral resume` first."
            ) from error
        self._base = load_base(
            self.card["base_model"], device=device, trust_remote_code=trust_remote_code
        )
        if self._base.digest != self.card["base_model_digest"]:
            raise ModelError(
                f"{folder} was trained on other weights than {self.card['base_model']!r} has here."
                "\nBring back the base model that it was trained on."
            )
        adapter = PeftModel.from_pretrained(self._base.model, str(folder))
        targets = {n: Target.from_facts(facts) for n, facts in self.card["tasks"].items()}
        modules = nn.ModuleDict(
            {n: nn.Linear(self._base.hidden_size, t.outputs) for n, t in targets.items()}
        )
        pooling = self.card["plan"]["encoding"]["pooling"]
        heads = modules.to(torch.device(device))
        self._encoder = MultiTaskEncoder(adapter, heads, targets, pooling).eval()
        try:
            require_coverage(
                get_peft_model_state_dict(adapter, save_embedding_layers=False), adapted
            )
            require_coverage(modules.state_dict(), trained)
            modules.load_state_dict(trained)
        except (CheckpointError, RuntimeError) as error:
            raise ModelError(f"{folder} does not fit its base model: {error}") from error

    def predict(self, texts: Sequence[str | tuple[str, str]]) -> list[dict[str, dict[str, float]]]:
        """Return, for each text, task name to label name to prediction.

        Args:
            texts: for tasks on two texts tuples, or strings in which a tab divides the two.

        Raises:
            ModelError: there is one text where a task compares two, or two where it reads one.
        """
        if not texts:
            return []
        tasks = self.card["tasks"]
        sequence_len = self.card["plan"]["encoding"]["sequence_len"]
        count = max(facts.get("texts", 1) for facts in tasks.values())
        contents = [_content(text, count) for text in texts]
        firsts, *seconds = zip(*contents, strict=True)
        unlabelled = Examples(
            texts=firsts,
            labels=np.zeros(len(contents), dtype=np.int64),
            pairs=seconds[0] if seconds else (),
        )
        examples = build_evaluation_set(
            dict.fromkeys(tasks, unlabelled), self._base.tokenizer, sequence_len
        )
        predictions = predict(self._encoder, examples)
        return [
            {
                name: dict(
                    zip(facts["labels"], np.round(predictions[name][i], 6).tolist(), strict=True)
                )
                for name, facts in tasks.items()
            }
            for i in range(len(texts))
        ]


def _content(text: str | tuple[str, str], count: int) -> tuple[str, ...]:
    """Return the one text or the two that a task reads."""
    content = tuple(text.split("\t") if count == 2 else [text]) if isinstance(text, str) else text
    if len(content) != count:
        needed = {1: "one text", 2: "two texts, in a line divided by a tab"}[count]
        raise ModelError(
            f"the adapter labels {needed}, got {' and '.join(map(repr, content))}.\n"
            "Correct what is to be labelled."
        )
    return content
