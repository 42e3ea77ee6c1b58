"""Genes: one searched field of the plan each, with its range and its own variation.

A gene reads points of the unit cube (for Sobol designs), mutates a value and checks one. Every draw
takes an injected numpy generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coral.errors import GenomeError
from coral.plan.checks import NUMBER
from coral.records import GeneValue

SIGNIFICANT_DIGITS = 6
SIMPLEX_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A gene is active only where another gene or fixed field has one of these values."""

    path: str
    values: tuple[GeneValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatGene:
    """A real number in ``[low, high]``, on a log scale where ``log`` is set."""

    path: str
    low: float
    high: float
    log: bool = False
    when: Condition | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)

    @property
    def dimensions(self) -> int:
        return 1

    def decode(self, point: NDArray[np.float64]) -> float:
        """Return the value at ``point``, ``(1,)`` in the unit interval."""
        return self._value_at(float(point[0]))

    def _value_at(self, u: float) -> float:
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        return float(min(self.high, max(self.low, rounded)))

    def encode(self, value: GeneValue) -> float:
        """Return where ``value`` lies in the unit interval."""
        number = _number(self.path, value)
        if self.log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)

    def mutate(self, value: GeneValue, strength: float, rng: np.random.Generator) -> float:
        """Move by a normal step of ``strength`` times the range, reflected at the bounds."""
        return self._value_at(_reflect(self.encode(value) + rng.normal(0, strength)))

    def check(self, value: GeneValue) -> None:
        """Raise ``GenomeError`` if ``value`` is not a number within the range."""
        if not self.low <= _number(self.path, value) <= self.high:
            raise GenomeError(f"{self.path} must lie in [{self.low}, {self.high}], got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntGene:
    """A whole number in ``[low, high]``, both included, on a log scale where ``log`` is set."""

    path: str
    low: int
    high: int
    log: bool = False
    when: Condition | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)

    @property
    def dimensions(self) -> int:
        return 1

    def decode(self, point: NDArray[np.float64]) -> int:
        """Return the value at ``point``, ``(1,)`` in the unit interval; each has its cell."""
        return self._value_at(float(point[0]))

    def _value_at(self, u: float) -> int:
        low, high = self._edges()
        value = math.exp(low + u * (high - low)) if self.log else low + u * (high - low)
        return min(self.high, max(self.low, round(value)))

    def encode(self, value: GeneValue) -> float:
        """Return where ``value`` lies in the unit interval."""
        low, high = self._edges()
        number = _number(self.path, value)
        return ((math.log(number) if self.log else number) - low) / (high - low)

    def _edges(self) -> tuple[float, float]:
        low, high = self.low - 0.5, self.high + 0.5
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def mutate(self, value: GeneValue, strength: float, rng: np.random.Generator) -> int:
        """Move by a normal step of ``strength`` times the range, by one at least."""
        moved = self._value_at(_reflect(self.encode(value) + rng.normal(0, strength)))
        if moved != value:
            return moved
        neighbours = [n for n in (int(moved) - 1, int(moved) + 1) if self.low <= n <= self.high]
        return int(rng.choice(neighbours))

    def check(self, value: GeneValue) -> None:
        """Raise ``GenomeError`` if ``value`` is not a whole number within the range."""
        number = _number(self.path, value)
        if not isinstance(number, int) or not self.low <= number <= self.high:
            raise GenomeError(
                f"{self.path} must be a whole number in [{self.low}, {self.high}], got {value}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceGene:
    """One of several options."""

    path: str
    options: tuple[GeneValue, ...]
    when: Condition | None = None

    def __post_init__(self) -> None:
        if not self.options:
            raise GenomeError("choices must not be empty, got []")
        if len(self.options) < 2:
            raise GenomeError(f"a choice needs at least two options, got {list(self.options)}")
        if any(option in self.options[:i] for i, option in enumerate(self.options)):
            raise GenomeError(f"options must differ, got {list(self.options)}")

    @property
    def dimensions(self) -> int:
        return 1

    def decode(self, point: NDArray[np.float64]) -> GeneValue:
        """Return the option whose cell holds ``point``, ``(1,)`` in the unit interval."""
        return self.options[min(len(self.options) - 1, int(point[0] * len(self.options)))]

    def mutate(self, value: GeneValue, strength: float, rng: np.random.Generator) -> GeneValue:
        """Return another option, each as likely."""
        others = [option for option in self.options if option != value]
        return others[int(rng.integers(len(others)))]

    def check(self, value: GeneValue) -> None:
        """Raise ``GenomeError`` if ``value`` is none of the options."""
        if value not in self.options:
            raise GenomeError(f"{self.path} must be one of {list(self.options)}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetGene:
    """A subset of names, at least ``least`` of them, in the order of the options."""

    path: str
    options: tuple[str, ...]
    least: int = 1
    when: Condition | None = None

    def __post_init__(self) -> None:
        if len(set(self.options)) != len(self.options) or len(self.options) < 2:
            raise GenomeError(
                f"a subset needs at least two different names, got {list(self.options)}"
            )
        if not 1 <= self.least < len(self.options):
            raise GenomeError(
                f"least must lie in [1, {len(self.options) - 1}] for"
                f" {len(self.options)} names, got {self.least}"
            )

    @property
    def dimensions(self) -> int:
        return len(self.options)

    def decode(self, point: NDArray[np.float64]) -> tuple[str, ...]:
        """Take the names whose coordinate is above one half, topped up with the next highest."""
        chosen = {int(i) for i in np.flatnonzero(point > 0.5)}
        for i in np.argsort(-point, kind="stable"):
            if len(chosen) >= self.least:
                break
            chosen.add(int(i))
        return tuple(name for i, name in enumerate(self.options) if i in chosen)

    def mutate(
        self, value: GeneValue, strength: float, rng: np.random.Generator
    ) -> tuple[str, ...]:
        """Toggle one name, keeping ``least``."""
        assert isinstance(value, tuple)
        togglable = [n for n in self.options if n not in value or len(value) > self.least]
        name = togglable[int(rng.integers(len(togglable)))]
        return tuple(n for n in self.options if (n in value) != (n == name))

    def check(self, value: GeneValue) -> None:
        """Raise ``GenomeError`` if ``value`` is not such a subset."""
        if not isinstance(value, tuple) or len(set(value)) < self.least:
            raise GenomeError(f"{self.path} must hold at least {self.least} names, got {value!r}")
        unknown = [name for name in value if name not in self.options]
        if unknown:
            raise GenomeError(f"{self.path} must hold names of {list(self.options)}, got {unknown}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplexGene:
    """Shares of named parts that sum to 1, each at least ``floor``."""

    path: str
    names: tuple[str, ...]
    floor: float = 0.05
    when: Condition | None = None

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or len(self.names) < 2:
            raise GenomeError(f"a simplex needs at least two different names, got {self.names}")
        if not 0 <= self.floor * len(self.names) < 1:
            raise GenomeError(
                f"floor must be >= 0 and leave room for {len(self.names)} shares, got {self.floor}"
            )

    @property
    def dimensions(self) -> int:
        return len(self.names)

    def decode(self, point: NDArray[np.float64]) -> tuple[float, ...]:
        """Map the cube to the simplex: exponential spacings give the uniform distribution."""
        return self._close((-np.log(np.clip(point, 1e-9, 1 - 1e-9))).tolist())

    def _close(self, parts: Sequence[float]) -> tuple[float, ...]:
        free, total = 1 - self.floor * len(self.names), sum(parts)
        shares = [round(self.floor + free * (part / total), SIMPLEX_DIGITS) for part in parts]
        largest = shares.index(max(shares))
        rest = sum(share for i, share in enumerate(shares) if i != largest)
        shares[largest] = round(1 - rest, SIMPLEX_DIGITS)
        return tuple(shares)

    def mutate(
        self, value: GeneValue, strength: float, rng: np.random.Generator
    ) -> tuple[float, ...]:
        """Multiply the shares above the floor by log-normal factors and close the sum again."""
        assert isinstance(value, tuple)
        parts = np.maximum([float(share) - self.floor for share in value], 1e-3)
        factors = np.exp(rng.normal(0, 4 * strength, size=len(parts)))
        return self._close((parts * factors).tolist())

    def check(self, value: GeneValue) -> None:
        """Raise ``GenomeError`` if ``value`` does not lie on the simplex."""
        if not isinstance(value, tuple) or len(value) != len(self.names):
            raise GenomeError(f"{self.path} needs {len(self.names)} shares, got {value!r}")
        shares = [_number(self.path, share) for share in value]
        if not math.isclose(sum(shares), 1, abs_tol=1e-4) or min(shares) < self.floor - 1e-6:
            raise GenomeError(
                f"{self.path} must sum to 1 with shares of at least {self.floor}, got {value}"
            )


Gene = FloatGene | IntGene | ChoiceGene | SubsetGene | SimplexGene


def flag(path: str, *, when: Condition | None = None) -> ChoiceGene:
    """Return the gene of a yes-or-no field."""
    return ChoiceGene(path=path, options=(False, True), when=when)


def nearest(gene: Gene, value: GeneValue) -> GeneValue:
    """Return the allowed value closest to ``value``; the first option if none is close."""
    match gene:
        case FloatGene():
            return float(min(gene.high, max(gene.low, _number(gene.path, value))))
        case IntGene():
            return min(gene.high, max(gene.low, round(_number(gene.path, value))))
        case ChoiceGene():
            if value in gene.options:
                return value
            numbers = [o for o in gene.options if isinstance(o, int | float)]
            if isinstance(value, int | float) and len(numbers) == len(gene.options):
                return min(numbers, key=lambda option: abs(option - value))
            return gene.options[0]
        case SubsetGene():
            kept = tuple(n for n in gene.options if isinstance(value, tuple) and n in value)
            return kept if len(kept) >= gene.least else gene.options
        case SimplexGene():
            if not isinstance(value, tuple) or len(value) != len(gene.names):
                return gene._close([1.0] * len(gene.names))
            return gene._close([max(float(share) - gene.floor, 1e-9) for share in value])


def extremes(gene: Gene) -> Sequence[GeneValue]:
    """Return the values at which a plan's invariants are most likely to break."""
    match gene:
        case FloatGene() | IntGene():
            return (gene.low, gene.high)
        case ChoiceGene():
            return gene.options
        case SubsetGene():
            return (gene.options,)
        case SimplexGene():
            return (nearest(gene, ()),)


def _check_range(low: float, high: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise GenomeError(f"low and high must be finite, got low={low}, high={high}")
    if low > high:
        raise GenomeError(f"low <= high must hold, got low={low:g}, high={high:g}")
    if low == high:
        raise GenomeError(f"the range is empty, got low=high={low:g}")
    if log and low <= 0:
        raise GenomeError(f"a log scale needs low > 0, got low={low:g}")


def _number(path: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, NUMBER):
        raise GenomeError(f"{path} must be a number, got {value!r}")
    return value


def _reflect(u: float) -> float:
    """Fold the real line into the unit interval."""
    u = abs(u) % 2
    return 2 - u if u > 1 else u
