"""Answers that a language model writes, and how they compare with the expected ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from coral.plan import InferencePlan
from coral.rng import derive_seed
from coral.training.causal import LanguageHead

AT_ONCE = 16
"""Prompts that are answered together."""

_WORD = re.compile(r"\w+")


def generate(
    head: LanguageHead,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    inference: InferencePlan,
    *,
    max_new_tokens: int,
    ends: Collection[int] = (),
    most_tokens: int | None = None,
) -> list[str]:
    """Return a continuation of each prompt: the most probable tokens, unless a plan draws them.

    What is drawn depends on the prompts alone.

    Args:
        prompts: with their special tokens.
        max_new_tokens: the plan may ask for fewer.
        ends: tokens that end an answer, beside those that model and tokenizer declare.
        most_tokens: of a prompt and its answer; longer prompts lose their beginnings.
    """
    ends = _ends(head, tokenizer, ends)
    max_new_tokens = min(max_new_tokens, inference.max_new_tokens)
    longest = None if most_tokens is None else max(1, most_tokens - max_new_tokens)
    drawn = inference.generation_temperature > 0
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=drawn,
        temperature=inference.generation_temperature if drawn else None,
        top_p=inference.top_p if drawn else None,
        repetition_penalty=inference.repetition_penalty,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
    )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    with _padded_left(tokenizer), torch.random.fork_rng(), torch.inference_mode():
        for first in range(0, len(order), AT_ONCE):
            chosen = order[first : first + AT_ONCE]
            inputs = tokenizer(
                [prompts[i] for i in chosen],
                add_special_tokens=False,
                padding=True,
                truncation=longest is not None,
                max_length=longest,
                return_tensors="pt",
            ).to(head.model.device)
            model: Any = head.model
            torch.manual_seed(derive_seed(0, "answers", *(prompts[i] for i in chosen)))
            found = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=settings,
                use_cache=True,
            )
            written = found[:, inputs["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(written, skip_special_tokens=True)
            for i, text in zip(chosen, texts, strict=True):
                answers[i] = text
    return answers


def _ends(
    head: LanguageHead, tokenizer: PreTrainedTokenizerBase, further: Collection[int]
) -> list[int]:
    """Return the tokens that end an answer: those that tokenizer and model declare, and others."""
    declared = getattr(head.model.generation_config, "eos_token_id", None)
    listed = declared if isinstance(declared, list) else [declared]
    known = [*listed, tokenizer.eos_token_id, *further]
    return sorted({int(token) for token in known if token is not None})


@contextmanager
def _padded_left(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Pad and cut on the left for the scope: an answer follows right behind its prompt."""
    sides = tokenizer.padding_side, tokenizer.truncation_side
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    try:
        yield
    finally:
        tokenizer.padding_side, tokenizer.truncation_side = sides


def exact_match(expected: str, answer: str) -> float:
    """Return 1 if two answers are the same, blanks around them aside, else 0."""
    return float(expected.strip() == answer.strip())


def rouge_l(expected: str, answer: str) -> float:
    """Return the F1 of the longest common subsequence of words, in lower case.

    Words are runs of letters, digits and underscores of any script; nothing is stemmed.

    Source: Lin 2004 (ROUGE).
    """
    wanted, given = (_WORD.findall(text.casefold()) for text in (expected, answer))
    common = _common_subsequence(wanted, given)
    return 2 * common / (len(wanted) + len(given)) if common else float(wanted == given)


def _common_subsequence(one: Sequence[str], two: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    above = [0] * (len(two) + 1)
    for word in one:
        row = [0]
        for i, other in enumerate(two):
            row.append(above[i] + 1 if word == other else max(row[i], above[i + 1]))
        above = row
    return above[-1]
