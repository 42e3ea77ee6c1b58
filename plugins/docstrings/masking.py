"""Hiding the names of the libraries, so that no text tells who wrote it."""

from __future__ import annotations

import re

MASK = "library"

NAMES = (
    r"standard\s+library",
    "stdlib",
    "numpy",
    "scipy",
    r"scikit[\s_-]*learn",
    "scikit",
    "sklearn",
    "pandas",
    "pytorch",
    "torch",
    "transformers",
    "peft",
    "datasets",
    "sympy",
    "networkx",
    r"hugging[\s_-]*face(?:[\s_-]*hub)?",
    "🤗",
    "pydantic",
    "rich",
    "accelerate",
    "pygments",
)
"""Names long enough to be hidden wherever they occur, inside other words too."""

SHORT_NAMES = ("np", "sp", "pd", "nx", "hf")
"""Names hidden as a whole part of an identifier only: ``np.ndarray`` but not ``input``."""

_PATTERN = re.compile(
    rf"(?:{'|'.join(NAMES)})"
    rf"|(?<![a-z0-9])(?:{'|'.join(SHORT_NAMES)})(?![a-z0-9])"
    r"|(?<![a-z0-9])(?-i:Hf(?=[A-Z]))",
    re.IGNORECASE,
)


def mask_names(text: str) -> str:
    """Replace each library's names in ``text``, whoever wrote it.

    All names go, not only the author's: a library that is named would be ruled out as the author.

    >>> mask_names("Convert a NumPy array to torch_dtype, see np.asarray.")
    'Convert a library array to library_dtype, see library.asarray.'
    """
    return _PATTERN.sub(MASK, text)
