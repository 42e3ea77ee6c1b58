"""Field invariants, declared once as ``annotated_types`` metadata and checked in every record.

pydantic reads the same metadata, so YAML, code and mutation meet the same check.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from coral.errors import PlanError

Bound = Gt | Ge | Lt | Le

NUMBER = (int, float)
"""For ``isinstance``: a tuple, for ``int | float`` would be made anew at each of many checks."""

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]


@cache
def bounds_of(record: type[Any]) -> dict[str, tuple[Bound, ...]]:
    """Return the declared bounds of each field of a dataclass."""
    hints = get_type_hints(record, include_extras=True)
    return {
        field.name: tuple(_bounds_in(hints[field.name])) for field in dataclasses.fields(record)
    }


def _bounds_in(hint: Any) -> list[Bound]:
    if get_origin(hint) is Annotated:
        return [item for item in get_args(hint)[1:] if isinstance(item, Bound)]
    return [bound for arg in get_args(hint) for bound in _bounds_in(arg)]


def describe_bound(bound: Bound) -> str:
    """Return a bound as people write it, such as ``> 0``."""
    match bound:
        case Gt():
            return f"> {bound.gt}"
        case Ge():
            return f">= {bound.ge}"
        case Lt():
            return f"< {bound.lt}"
        case Le():
            return f"<= {bound.le}"


_Limit = tuple[Callable[[Any, Any], bool], Any, Bound]


@cache
def _limits_of(record: Any) -> tuple[tuple[str, tuple[_Limit, ...]], ...]:
    """Return the bounds of each field of a dataclass as comparisons, which are quick to check."""
    return tuple(
        (name, tuple(_limit(bound) for bound in bounds))
        for name, bounds in bounds_of(record).items()
    )


def _limit(bound: Bound) -> _Limit:
    match bound:
        case Gt():
            return operator.gt, bound.gt, bound
        case Ge():
            return operator.ge, bound.ge, bound
        case Lt():
            return operator.lt, bound.lt, bound
        case Le():
            return operator.le, bound.le, bound


def check_bounds(record: Any) -> None:
    """Check every numeric field of a dataclass instance against its declared bounds.

    Raises:
        PlanError: a number is not finite, or outside its bounds.
    """
    for name, limits in _limits_of(record.__class__):
        value = getattr(record, name)
        if not isinstance(value, NUMBER) or isinstance(value, bool):
            continue
        if not math.isfinite(value):
            raise PlanError(f"{name} must be finite, got {value}")
        for holds, limit, bound in limits:
            if not holds(value, limit):
                raise PlanError(f"{name} must be {describe_bound(bound)}, got {value}")
