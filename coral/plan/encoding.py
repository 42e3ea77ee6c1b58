"""How a text becomes a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coral.plan.checks import PositiveInt, check_bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingPlan:
    """Tokenization and pooling.

    Attributes:
        sequence_len: texts are cut to this many tokens.
        pooling: ``mean`` over the tokens, ``cls`` (first token) or ``last`` (last real token).
    """

    sequence_len: PositiveInt = 64
    pooling: Literal["mean", "cls", "last"] = "mean"

    def __post_init__(self) -> None:
        check_bounds(self)
