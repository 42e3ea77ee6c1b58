"""Tiny causal language models with random weights, and a byte-level tokenizer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM as AnyLanguageModel
from transformers import (
    BertConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

DEPTH = 3
SPECIALS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

COUNTRIES = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Norway": "Oslo",
}


def conversation(question: str, answer: str, system: str | None = None) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def capitals(count: int = 80, seed: int = 0) -> list[list[dict[str, str]]]:
    """Short questions with one right answer each, no two alike."""
    rng = random.Random(seed)
    asked = []
    for number in range(count):
        country = rng.choice(sorted(COUNTRIES))
        please = "please " * rng.randint(0, 6)
        question = f"{number}: {please}capital of {country}?"
        asked.append(conversation(question, f"{COUNTRIES[country]}."))
    return asked


def build_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows the words of ``capitals``; nothing is unknown to it."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteDecoder()
    texts = [message["content"] for asked in capitals() for message in asked]
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "user assistant system\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "</s>"],
        chat_template=template,
    )


def build_language_model(family: str, words: int) -> Any:
    """A language model of ``family`` with ``DEPTH`` layers 32 wide, from its real configuration."""
    torch.manual_seed(0)
    shared = {
        "vocab_size": words,
        "hidden_size": 32,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 4,
        "initializer_range": 0.2,
    }
    headed = {**shared, "head_dim": 16}
    configs: dict[str, Any] = {
        "llama": lambda: LlamaConfig(**shared),
        "qwen3": lambda: Qwen3Config(**headed, tie_word_embeddings=True),
        "gemma": lambda: GemmaConfig(**headed),
        "gemma2": lambda: Gemma2Config(**headed, query_pre_attn_scalar=16, sliding_window=8),
        "gemma3": lambda: Gemma3TextConfig(**headed, query_pre_attn_scalar=16, sliding_window=8),
        "granite": lambda: GraniteConfig(**shared, logits_scaling=4.0),
        "cohere": lambda: CohereConfig(**shared),
        "gpt2": lambda: GPT2Config(
            vocab_size=words, n_embd=32, n_layer=DEPTH, n_head=2, n_positions=256
        ),
        "bert": lambda: BertConfig(
            vocab_size=words,
            hidden_size=32,
            num_hidden_layers=DEPTH,
            num_attention_heads=2,
            intermediate_size=64,
        ),
    }
    return AnyLanguageModel.from_config(configs[family]()).eval()


def save_language_model(folder: Path, family: str = "llama", template: str | None = CHATML) -> Path:
    """Write a language model and its tokenizer as a user's local folder."""
    tokenizer = build_tokenizer(template)
    build_language_model(family, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
