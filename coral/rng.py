"""Named random streams.

No generator is stored anywhere in Coral. Each draw derives its own from the run's seed and a name,
so neither the number of workers nor the order of arrival can change a result.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed for the stream that ``names`` describe.

    >>> derive_seed(0, "mutate", 1, 2) == derive_seed(0, "mutate", 1, 2)
    True
    """
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return a fresh generator for the stream that ``names`` describe."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))
