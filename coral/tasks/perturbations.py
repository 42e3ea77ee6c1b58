"""Texts as careless or evasive people write them: seeded by the text, and so the same for ever."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coral.ports import Examples
from coral.rng import stream

SHARE = 0.1
"""Of a text's letters that are touched."""

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {
    letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in _ROWS
    for i, letter in enumerate(row)
}
"""Each key's neighbours on its row of the keyboard."""

_SLIPS = ("swap", "delete", "case", "typo")


def perturb(text: str, share: float = SHARE, seed: int = 0) -> str:
    """Return a text with slips in about a ``share`` of its letters.

    A slip swaps a letter with the one after it, leaves it out, turns its case, or hits the key
    beside it. Spaces, digits and punctuation stay; a word's first letter is not left out, so that
    no word disappears.
    """
    rng = stream(seed, "perturb", text)
    touched = rng.random(len(text)) < share
    letters = list(text)
    for i in np.flatnonzero(touched).tolist():
        if not text[i].isalpha():
            continue
        match _SLIPS[int(rng.integers(len(_SLIPS)))]:
            case "swap" if i + 1 < len(text) and text[i + 1].isalpha():
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
            case "delete" if i > 0 and text[i - 1].isalpha():
                letters[i] = ""
            case "typo" if beside := _BESIDE.get(text[i].lower(), ""):
                letters[i] = _cased_like(text[i], beside[int(rng.integers(len(beside)))])
            case _:
                letters[i] = letters[i].swapcase()
    return "".join(letters)


def perturbed(examples: Examples) -> Examples:
    """Return examples with every text perturbed, in their order."""
    texts, pairs = (tuple(map(perturb, own)) for own in (examples.texts, examples.pairs))
    return replace(examples, texts=texts, pairs=pairs)


def _cased_like(model: str, letter: str) -> str:
    return letter.upper() if model.isupper() else letter
