"""The two factors of one module's update, resized and combined without ever forming the update.

LoRA adds ``scaling * b @ a`` to a frozen weight. Everything here keeps that product, or the best
approximation of it, while rank and scaling change. Linear algebra runs in float64: its factors are
thin, so that costs little, and directions that cancel or repeat are then told from rounding noise.
Results have the type of what came in, and may share tensors with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from coral.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factors:
    """One adapted module.

    Attributes:
        a: ``(rank, in_features)``.
        b: ``(out_features, rank)``.
        scaling: the effective one, whatever rule made it: the update is ``scaling * b @ a``.
        magnitude: ``(out_features,)``, with DoRA only. It is no part of the update.

    Raises:
        CheckpointError: shapes don't fit, or the scaling is not positive and finite.
    """

    a: Tensor
    b: Tensor
    scaling: float
    magnitude: Tensor | None = None

    def __post_init__(self) -> None:
        a, b = tuple(self.a.shape), tuple(self.b.shape)
        if len(a) != 2 or len(b) != 2 or b[1] != a[0] or a[0] < 1:
            raise CheckpointError(
                "factors must have the shapes a (rank, in_features) and b (out_features, rank) with"
                f" rank >= 1, got a {a} and b {b}: the adapter is damaged"
            )
        if self.magnitude is not None and tuple(self.magnitude.shape) != b[:1]:
            raise CheckpointError(
                f"a magnitude must have the shape (out_features,) = {b[:1]}, got"
                f" {tuple(self.magnitude.shape)}: the adapter is damaged"
            )
        if not (math.isfinite(self.scaling) and self.scaling > 0):
            raise CheckpointError(f"a scaling must be positive and finite, got {self.scaling}")

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)``, the shape of the update."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """The singular value decomposition of an update, in float64.

    Attributes:
        values: ``(k,)`` singular values, largest first; ``k`` is the least of rank and both sides.
        left: ``(out_features, k)`` orthonormal columns.
        right: ``(k, in_features)`` orthonormal rows.
        source: the factors it is of.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    source: Factors


def energy(factors: Factors) -> float:
    """Return the squared Frobenius norm of the update.

    Raises:
        CheckpointError: a factor is not finite.
    """
    left_core = torch.linalg.qr(factors.b.double(), mode="r").R
    right_core = torch.linalg.qr(factors.a.double().T, mode="r").R
    return float(_core(left_core, right_core, factors.scaling).square().sum())


def rescaled(factors: Factors, scaling: float) -> Factors:
    """Return the same update under another scaling; ``b`` makes up for the difference."""
    return replace(factors, b=factors.b * (factors.scaling / scaling), scaling=scaling)


def grown(factors: Factors, rank: int, scaling: float, fresh: Tensor) -> Factors:
    """Return the same update with more rows in ``a``.

    New rows of ``a`` are fresh and new columns of ``b`` are zero, as PEFT starts an adapter.

    Args:
        fresh: ``(n, in_features)`` newly initialised rows; the last ``rank - factors.rank`` of them
            are used, so a whole new ``a`` of the new rank will do.

    Raises:
        ValueError: ``rank`` is smaller than it was, or there are too few fresh rows.
    """
    missing = rank - factors.rank
    if not 0 <= missing <= len(fresh):
        raise ValueError(
            f"growing from rank {factors.rank} to {rank} must not shrink it and needs {missing}"
            f" fresh rows, got {len(fresh)}"
        )
    scaled = rescaled(factors, scaling)
    return replace(
        scaled,
        a=torch.cat([scaled.a, fresh[len(fresh) - missing :].to(scaled.a)]),
        b=torch.nn.functional.pad(scaled.b, (0, missing)),
    )


def concatenated(parts: Sequence[tuple[float, Factors]]) -> Factors:
    """Return the exact weighted sum of updates, with scaling 1 and the sum of the ranks as rank.

    Averaging the ``a`` and the ``b`` of two adapters instead would add the cross terms
    ``b1 @ a2`` and ``b2 @ a1``, which neither has learned. A magnitude is no sum: none is returned.

    Raises:
        CheckpointError: the updates are not of one shape.
        ValueError: there are no parts.
    """
    if not parts:
        raise ValueError("a concatenation needs at least one part, got none")
    shapes = {part.shape for _, part in parts}
    if len(shapes) > 1:
        raise CheckpointError(
            f"updates must have one shape to be added, got {sorted(shapes)}: the adapters are of"
            " different base models"
        )
    return Factors(
        a=torch.cat([part.a for _, part in parts]),
        b=torch.cat([part.b * (weight * part.scaling) for weight, part in parts], dim=1),
        scaling=1.0,
    )


def spectrum(factors: Factors) -> Spectrum:
    """Return the singular value decomposition of the update.

    With the thin decompositions ``b = q_b @ r_b`` and ``a.T = q_a @ r_a``, the update is
    ``q_b @ (scaling * r_b @ r_a.T) @ q_a.T``. Only the small core in the middle is decomposed.

    Raises:
        CheckpointError: a factor is not finite.
    """
    left, left_core = torch.linalg.qr(factors.b.double())
    right, right_core = torch.linalg.qr(factors.a.double().T)
    core = _core(left_core, right_core, factors.scaling)
    u, values, vh = torch.linalg.svd(core, full_matrices=False)
    return Spectrum(values=values, left=left @ u, right=vh @ right.T, source=factors)


def truncated(
    source: Spectrum, rank: int, scaling: float, fresh: Tensor | None = None
) -> tuple[Factors, float]:
    """Return the best approximation of an update by ``rank`` directions, and how much it keeps.

    The singular values go to ``b``, and the rows of ``a`` get the root mean square of the source's
    row norms. That is how a trained adapter looks: ``a`` stays near the norm it began with, and
    ``b``, which began at zero, carries the size. The product is the same however it is split, but
    a gradient step is not: ``b`` moves with the size of ``a`` and ``a`` with that of ``b``, and a
    learning rate found on trained adapters fits only factors of their sizes. So neither square
    roots on both sides nor rows of unit length.

    Args:
        fresh: newly initialised rows for ``a``, as in ``grown``, for a ``rank`` above the number
            of singular values.

    Returns:
        Factors of exactly ``rank``, and the share in [0, 1] of the update's energy that they
        retain, 1 for an update of zero.

    Raises:
        ValueError: ``rank`` is not positive, or fresh rows are needed and too few.

    Source: Eckart and Young 1936.
    """
    if rank < 1:
        raise ValueError(f"a rank must be at least 1, got {rank}")
    kept = min(rank, len(source.values))
    a, b = source.source.a, source.source.b
    # An ``a`` of zeros makes an update of zero; its directions then are arbitrary unit vectors.
    norm = float(a.double().norm()) / math.sqrt(len(a)) or 1.0
    best = replace(
        source.source,
        a=(norm * source.right[:kept]).to(a.dtype),
        b=(source.left[:, :kept] * (source.values[:kept] / (norm * scaling))).to(b.dtype),
        scaling=scaling,
    )
    retained = float(_retained_shares(source.values)[kept - 1])
    if kept < rank:
        best = grown(best, rank, scaling, a.new_empty(0, a.shape[1]) if fresh is None else fresh)
    return best, retained


def rank_for_energy(values: Tensor, share: float) -> int:
    """Return the smallest rank, at least 1, that retains at least ``share`` of the energy.

    Args:
        values: ``(k,)`` singular values, largest first.

    Raises:
        ValueError: the share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of the energy must be in (0, 1], got {share}")
    return int((_retained_shares(values) < share).sum()) + 1


def _retained_shares(values: Tensor) -> Tensor:
    """Return the share of the energy in the first 1, 2, ... values; the last is exactly 1."""
    retained = values.double().square().cumsum(0)
    return retained / retained[-1] if retained[-1] > 0 else torch.ones_like(retained)


def _core(left_core: Tensor, right_core: Tensor, scaling: float) -> Tensor:
    core = scaling * (left_core @ right_core.T)
    if not core.isfinite().all():
        raise CheckpointError("an update must be finite to be resized; it was not")
    return core
