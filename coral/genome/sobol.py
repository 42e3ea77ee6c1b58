"""Sobol points: a sequence whose first ``2**m`` points fill the unit cube evenly, for every m.

Written out here because loading ``scipy.stats`` takes longer than a simulated evolution.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

BITS = 30
"""Binary digits of a coordinate: the sequence has ``2**30`` points."""

# A line for each dimension from the second on, as in Joe and Kuo's file new-joe-kuo-6: degree s of
# a primitive polynomial, its inner coefficients a as one number, and s direction numbers m.
_JOE_KUO = """
1 0 1
2 1 1 3
3 1 1 3 1
3 2 1 1 1
4 1 1 1 3 3
4 4 1 3 5 13
5 2 1 1 5 5 17
5 4 1 1 5 5 5
5 7 1 1 7 11 19
5 11 1 1 5 1 1
5 13 1 1 1 3 11
5 14 1 3 5 5 31
6 1 1 3 3 9 7 49
6 13 1 1 1 15 21 21
6 16 1 3 1 13 27 49
6 19 1 1 1 15 7 5
6 22 1 3 1 15 13 25
6 25 1 1 5 5 19 61
7 1 1 3 7 11 23 15 103
7 4 1 3 7 13 13 15 69
7 7 1 1 3 13 7 35 63
7 8 1 3 5 9 1 25 53
7 14 1 3 1 13 9 35 107
7 19 1 3 1 5 27 61 31
7 21 1 1 5 11 19 41 61
7 28 1 3 5 3 3 13 69
7 31 1 1 7 13 1 19 1
7 32 1 3 7 5 13 19 59
7 37 1 1 3 9 25 29 41
7 41 1 3 5 13 23 1 55
7 42 1 3 7 3 13 59 17
7 50 1 3 1 3 5 53 69
7 55 1 1 5 5 23 33 13
7 56 1 1 7 7 1 61 123
7 59 1 1 7 9 13 61 49
7 62 1 3 3 5 3 55 33
8 14 1 3 1 15 31 13 49 245
8 21 1 3 5 15 31 59 63 97
8 22 1 3 1 11 11 11 77 249
8 38 1 3 1 11 27 43 71 9
8 47 1 1 7 15 21 11 81 45
8 49 1 3 7 3 25 31 65 79
8 50 1 3 1 1 19 11 3 205
8 52 1 1 5 9 19 21 29 157
8 56 1 3 7 11 1 33 89 185
8 67 1 3 3 3 15 9 79 71
8 70 1 3 7 11 15 39 119 27
8 84 1 1 3 1 11 31 97 225
8 97 1 1 1 3 23 43 57 177
8 103 1 3 7 7 17 17 37 71
8 115 1 3 1 5 27 63 123 213
8 122 1 1 3 5 11 43 53 133
9 8 1 3 5 5 29 17 47 173 479
9 13 1 3 3 11 3 1 109 9 69
9 16 1 1 1 5 17 39 23 5 343
9 22 1 3 1 5 25 15 31 103 499
9 25 1 1 1 11 11 17 63 105 183
9 44 1 1 5 11 9 29 97 231 363
9 47 1 1 5 15 19 45 41 7 383
9 52 1 3 7 7 31 19 83 137 221
9 55 1 1 1 3 23 15 111 223 83
9 59 1 1 5 13 31 15 55 25 161
9 62 1 1 3 13 25 47 39 87 257
"""

TABLED_DIMENSIONS = 1 + len(_JOE_KUO.strip().splitlines())
"""Dimensions beyond these are pseudo-random."""


def sobol_points(count: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """Return the first ``count`` Sobol points, shifted at random.

    One draw a dimension is added to the binary digits of its coordinates, without carry. Each
    interval of length ``2**-k`` still holds equally many of the first ``2**m`` points, k <= m, but
    the sequence no longer begins in the corner of the cube. Dimensions beyond
    ``TABLED_DIMENSIONS`` are drawn from the same stream.

    Returns:
        ``(count, dimensions)`` in ``[0, 1)``.

    Source: Sobol 1967; Joe and Kuo 2008, "Constructing Sobol sequences with better two-dimensional
    projections" (direction numbers); L'Ecuyer and Lemieux 2002 (digital shift).
    """
    rng = np.random.default_rng(seed)
    tabled = min(dimensions, TABLED_DIMENSIONS)
    shift = rng.integers(2**BITS, size=tabled, dtype=np.uint32)
    shifted = (sobol_digits(count, tabled) ^ shift) / 2**BITS
    return np.hstack([shifted, rng.random((count, dimensions - tabled))])


def sobol_digits(count: int, dimensions: int) -> NDArray[np.uint32]:
    """Return the binary digits of the first Sobol points, as whole numbers below ``2**BITS``.

    Point ``i`` is the sum, without carry, of the direction numbers that the Gray code of ``i``
    picks (Antonov and Saleev 1979).

    Args:
        dimensions: at most ``TABLED_DIMENSIONS``.

    Returns:
        ``(count, dimensions)``.
    """
    index = np.arange(count, dtype=np.uint32)
    gray = index ^ (index >> 1)
    digits = np.zeros((count, dimensions), dtype=np.uint32)
    for bit, direction in enumerate(_directions()[:, :dimensions]):
        digits ^= np.outer((gray >> bit) & 1, direction)
    return digits


@cache
def _directions() -> NDArray[np.uint32]:
    """Return the direction numbers, ``(BITS, TABLED_DIMENSIONS)``, as digits of coordinates."""
    columns = [[1] * BITS]
    for line in _JOE_KUO.strip().splitlines():
        degree, coefficients, *numbers = map(int, line.split())
        while len(numbers) < BITS:
            new = numbers[-degree] ^ (numbers[-degree] << degree)
            for i in range(1, degree):
                if coefficients >> (degree - 1 - i) & 1:
                    new ^= numbers[-i] << i
            numbers.append(new)
        columns.append(numbers)
    heights = np.arange(BITS - 1, -1, -1)
    return np.left_shift(np.array(columns, dtype=np.int64), heights).T.astype(np.uint32)
