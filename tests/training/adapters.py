"""Random adapters, and what they add to their base."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from coral.training.factors import Factors

FLOAT32 = 1e-6
BFLOAT16 = torch.finfo(torch.bfloat16).eps


def make_factors(
    rank: int,
    *,
    shape: tuple[int, int] = (6, 5),
    scaling: float = 2.0,
    seed: int = 0,
    independent: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Factors:
    """Random factors of an update of ``shape``.

    Args:
        independent: the rank of the update, if it is to be less than that of its factors.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape
    a = torch.randn(rank, columns, generator=generator)
    b = torch.randn(rows, rank, generator=generator)
    if independent is not None:
        b[:, independent:] = 0
    return Factors(a=a.to(dtype), b=b.to(dtype), scaling=scaling)


def update(factors: Factors) -> Tensor:
    """The update, dense and in float64."""
    return factors.scaling * factors.b.double() @ factors.a.double()


def distance(one: Tensor, two: Tensor) -> float:
    """The Frobenius norm of the difference, relative to the larger one."""
    size = max(float(one.norm()), float(two.norm()))
    return float((one - two).norm()) / size if size > 0 else 0.0


def change(one: Factors, two: Factors) -> float:
    """The Frobenius norm of the difference of two updates, relative to the size of their factors.

    Where rows and columns cancel, rounding is small next to the factors and not next to the update.
    """
    size = min(f.scaling * float(f.b.double().norm() * f.a.double().norm()) for f in (one, two))
    error = float((update(one) - update(two)).norm())
    return error / size if size > 0 else error


sides = st.integers(1, 8)
ranks = st.integers(1, 10)
seeds = st.integers(0, 2**31)


@st.composite
def scalings(draw: st.DrawFn) -> float:
    """Every rule's: alpha / rank, alpha / sqrt(rank), and any of a module's own."""
    alpha, rank = draw(st.integers(1, 256)), draw(st.integers(1, 64))
    return draw(st.sampled_from([alpha / rank, alpha / math.sqrt(rank)]) | st.floats(0.01, 100))


@st.composite
def factors(draw: st.DrawFn, shape: tuple[int, int] | None = None) -> Factors:
    """Of any shape and rank, also above both sides, of full rank or less, also of none."""
    rank = draw(ranks)
    return make_factors(
        rank,
        shape=shape or (draw(sides), draw(sides)),
        scaling=draw(scalings()),
        seed=draw(seeds),
        independent=draw(st.integers(0, rank)),
    )
