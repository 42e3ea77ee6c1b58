"""Tiny models with random weights, and tasks whose texts tell their labels."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

from coral.ports import DataContext, Examples, TaskData
from coral.records import Direction
from coral.tasks import CLASSIFICATION_METRICS, score_classification
from coral.training.data import LoadedTask
from coral.training.targets import Target

COLOURS = ("red", "green", "blue")
ANIMALS = ("cat", "dog")
FILLERS = tuple(f"w{number}" for number in range(40))
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY = (*SPECIALS, *COLOURS, *ANIMALS, *FILLERS)
DEPTH = 3


class KeywordTask:
    """The label is the one keyword in the text."""

    def __init__(self, name: str, keywords: tuple[str, ...], train_examples: int) -> None:
        self.name = name
        self.metrics: Mapping[str, Direction] = CLASSIFICATION_METRICS
        self.primary_metric = "auroc"
        self._keywords = keywords
        self._train_examples = train_examples

    def load(self, context: DataContext | None = None) -> TaskData:
        rng = random.Random(self.name)
        return TaskData(
            train=self._examples(rng, self._train_examples),
            validation=self._examples(rng, 40),
            test=self._examples(rng, 40),
            label_names=self._keywords,
        )

    def score(
        self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        return score_classification(labels, probabilities)

    def _examples(self, rng: random.Random, count: int) -> Examples:
        labels = [number % len(self._keywords) for number in range(count)]
        rng.shuffle(labels)
        texts = []
        for label in labels:
            words = rng.choices(FILLERS, k=rng.randint(2, 12))
            words.insert(rng.randint(0, len(words)), self._keywords[label])
            texts.append(" ".join(words))
        return Examples(texts=tuple(texts), labels=np.array(labels, dtype=np.int64))


class BrokenTask(KeywordTask):
    """Its plugin has a bug."""

    def score(
        self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        raise ZeroDivisionError("no positives")


def load(*tasks: KeywordTask) -> dict[str, LoadedTask]:
    return {task.name: LoadedTask(task=task, data=task.load()) for task in tasks}


def targets(classes: Mapping[str, int]) -> dict[str, Target]:
    """Return what heads predict that tell classes."""
    return {n: Target(problem="single_label", outputs=count) for n, count in classes.items()}


def colours(train_examples: int = 48) -> KeywordTask:
    return KeywordTask("colour", COLOURS, train_examples)


def animals(train_examples: int = 32) -> KeywordTask:
    return KeywordTask("animal", ANIMALS, train_examples)


def build_tokenizer(*, segments: bool = False) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts [CLS] before and [SEP] after each text.

    Args:
        segments: tell second texts from first ones, as BERT's tokenizer does.
    """
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=[
            "input_ids",
            *(["token_type_ids"] if segments else []),
            "attention_mask",
        ],
    )


def build_model(family: str, intermediate_size: int = 64, positions: int = 64) -> PreTrainedModel:
    """A model of ``family`` with ``DEPTH`` layers 32 wide, from its real configuration."""
    torch.manual_seed(0)
    words = len(VOCABULARY)
    shared = {
        "vocab_size": words,
        "hidden_size": 32,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 2,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": positions,
        "pad_token_id": 0,
    }
    decoder = {**shared, "num_key_value_heads": 1, "bos_token_id": 2, "eos_token_id": 3}
    match family:
        case "bert":
            return BertModel(BertConfig(**shared))
        case "distilbert":
            return DistilBertModel(
                DistilBertConfig(
                    vocab_size=words,
                    dim=32,
                    hidden_dim=64,
                    n_layers=DEPTH,
                    n_heads=2,
                    max_position_embeddings=positions,
                    pad_token_id=0,
                )
            )
        case "modernbert":
            special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
            return ModernBertModel(ModernBertConfig(**shared, **special))
        case "llama":
            return LlamaModel(LlamaConfig(**decoder))
        case "qwen3":
            return Qwen3Model(Qwen3Config(**decoder, head_dim=16))
        case "gpt2":
            return GPT2Model(
                GPT2Config(
                    vocab_size=words,
                    n_embd=32,
                    n_layer=DEPTH,
                    n_head=2,
                    n_positions=positions,
                    bos_token_id=2,
                    eos_token_id=3,
                )
            )
        case _:
            raise ValueError(f"no tiny {family!r} here")


def save_model(folder: Path, family: str = "bert", **sizes: int) -> Path:
    """Write a model and its tokenizer as a user's local folder."""
    build_model(family, **sizes).save_pretrained(folder)
    build_tokenizer(segments=family == "bert").save_pretrained(folder)
    return folder
