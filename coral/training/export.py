"""Handing over a folder with adapter, heads, tokenizer, card and facts; and using it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peft import LoraConfig, PeftModel, TaskType
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from coral.errors import CheckpointError, ModelError
from coral.plan import InferencePlan
from coral.ports import CausalSettings, Examples
from coral.training.base import BaseModel, load_base
from coral.training.conversations import Renderer, turn_ends
from coral.training.encoder import MultiTaskEncoder, require_coverage
from coral.training.evaluation import answered, predict
from coral.training.evaluation_sets import build_evaluation_set
from coral.training.generation import generate
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


def _save_for_language_model(adapter: Any, prefix: str, folder: Path) -> None:
    """Write an adapter of a decoder as one of the language model that holds it.

    Args:
        adapter: a ``PeftModel``.
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
    # By full names: what PEFT shortens them to may match more in the whole model.
    modules = {name.partition(".lora_A.")[0] for name in named if ".lora_A." in name}
    config.target_modules = sorted(name.removeprefix(start) for name in modules)
    for pattern in ("rank_pattern", "alpha_pattern"):
        own = getattr(config, pattern) or {}
        setattr(config, pattern, {f"{prefix}.{name}": value for name, value in own.items()})
    save_file(named, folder / ADAPTER, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _model_card(card: Mapping[str, Any]) -> str:
    validation, test = card["metrics"]["validation"], card["metrics"]["test"] or {}
    table = "\n".join(
        f"| {metric} | {_shown(value)} | {_shown(test.get(metric))} |"
        for metric, value in validation.items()
    )
    tasks = "\n".join(
        f"- `{name}`: {', '.join(facts['labels']) or 'written answers'}"
        for name, facts in card["tasks"].items()
    )
    answered = [name for name, facts in card["tasks"].items() if facts.get("causal")]
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

{_use_of_language_model() if answered else _use_of_encoder(card)}"""


def _use_of_encoder(card: Mapping[str, Any]) -> str:
    return f"""```python
from peft import PeftModel
from transformers import AutoModel

encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(BASE_MODEL_FOLDER), THIS_FOLDER)
```

`{HEADS}` holds one linear head a task, on {card["plan"]["encoding"]["pooling"]}-pooled vectors;
`coral predict` applies them.
"""


def _use_of_language_model() -> str:
    return """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(BASE_MODEL_FOLDER)
model = PeftModel.from_pretrained(base, THIS_FOLDER)
```

`coral predict` writes a prompt as the model was trained to see it, and generates the answer.
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
        # Cards from before there was inference to search have none.
        self._inference = InferencePlan(**self.card["plan"].get("inference", {}))
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
        whole = language.model if language else self._base.model
        adapter = PeftModel.from_pretrained(whole, str(folder))
        targets = {n: Target.from_facts(facts) for n, facts in self.card["tasks"].items()}
        modules = nn.ModuleDict(
            {
                name: nn.Linear(self._base.hidden_size, target.outputs)
                for name, target in targets.items()
                if name not in self._answers
            }
        )
        pooling = self.card["plan"]["encoding"]["pooling"]
        heads = modules.to(self._base.device)
        adapted = self._base.model if language else adapter
        self._encoder = MultiTaskEncoder(self._base, adapted, heads, targets, pooling).eval()
        try:
            require_coverage(
                get_peft_model_state_dict(adapter, save_embedding_layers=False), tensors
            )
            require_coverage(modules.state_dict(), trained)
            modules.load_state_dict(trained)
        except (CheckpointError, RuntimeError) as error:
            raise ModelError(f"{folder} does not fit its base model: {error}") from error

    def predict(
        self, texts: Sequence[str | tuple[str, str]]
    ) -> list[dict[str, dict[str, float] | str | None]]:
        """Return, for each text, task name to label name to prediction, or to a written answer.

        None in the place of the labels says that the adapter gives no answer: it is less sure than
        its genome asks for.

        Args:
            texts: for tasks on two texts tuples, or strings in which a tab divides the two.

        Raises:
            ModelError: there is one text where a task compares two, or two where it reads one.
        """
        if not texts:
            return []
        tasks = self.card["tasks"]
        labelled = [name for name in tasks if name not in self._answers]
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
            dict.fromkeys(labelled, unlabelled), self._base.tokenizer, sequence_len
        )
        targets = self._encoder.targets
        answers = answered(
            self._inference, predict(self._encoder, examples, self._inference), targets
        )
        given = {
            name: targets[name].confidence(answers[name]) >= facts["needed_confidence"]
            for name, facts in tasks.items()
            if "needed_confidence" in facts
        }
        written = {n: self._write(n, own, firsts) for n, own in self._answers.items()}
        return [
            {
                name: written[name][i]
                if name in written
                else dict(zip(facts["labels"], np.round(answers[name][i], 6).tolist(), strict=True))
                if name not in given or given[name][i]
                else None
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
                self._inference,
                max_new_tokens=settings.max_new_tokens,
                ends=turn_ends(tokenizer, asked),
                most_tokens=self._base.max_tokens,
            )


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
