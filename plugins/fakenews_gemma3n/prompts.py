"""Texts and images as a processor takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .pictures import Picture


def shortened(texts: Sequence[str], tokenizer: Any, sequence_len: int) -> list[tuple[str, int]]:
    """Return texts cut to ``sequence_len`` tokens, special ones included, and their tokens.

    What a text has of the tokenizer's special tokens is taken out: one that stands for an image
    would ask for an image.
    """
    around = tokenizer.num_special_tokens_to_add(pair=False)
    most = max(1, sequence_len - around)
    plain = [_without(text, tokenizer.all_special_tokens) for text in texts]
    encoded = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
    found = []
    for text, places in zip(plain, encoded["offset_mapping"], strict=True):
        end = places[most - 1][1] if len(places) > most else len(text)
        found.append((text[:end], min(len(places), most) + around))
    return found


def model_inputs(
    texts: Sequence[str], pictures: Sequence[Picture | None], processor: Any, sequence_len: int
) -> dict[str, Any]:
    """Return what the model is called with: each picture before its text."""
    short = shortened(texts, processor.tokenizer, sequence_len)
    prompts = [
        f"{processor.image_token if picture else ''}{text}"
        for picture, (text, _) in zip(pictures, short, strict=True)
    ]
    images = [[picture.pixels()] if picture else [] for picture in pictures]
    return dict(
        processor(
            text=prompts,
            images=images if any(images) else None,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
    )


def image_tokens(picture: Picture, processor: Any, sequence_len: int) -> int:
    """Return the tokens that an image adds, of a processor that gives each as many."""
    made = model_inputs([""], [picture], processor, sequence_len)
    (_, alone), *_ = shortened([""], processor.tokenizer, sequence_len)
    return int(made["attention_mask"].sum()) - alone


def _without(text: str, tokens: Sequence[str]) -> str:
    for token in tokens:
        text = text.replace(token, " ")
    return text
