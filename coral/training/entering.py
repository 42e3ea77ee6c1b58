"""Forward passes that begin at a layer, with what is known there instead of what lies below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from coral.flops import Start
from coral.training.base import BaseModel
from coral.training.entries import entry_maps


class _EnteredError(Exception):
    """Stops a forward pass where a layer is entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of some texts where they enter a layer.

    Attributes:
        hidden: what enters, ``(texts, longest, hidden)``, zeros where texts are padded.
        products: what the layer's first maps give, ``(texts, longest, out)`` each.
    """

    hidden: Tensor
    products: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Known:
        return cls(hidden=parts[0], products=tuple(parts[1:]))

    @property
    def parts(self) -> list[Tensor]:
        return [self.hidden, *self.products]

    def each(self, change: Callable[[Tensor], Tensor]) -> Known:
        """Return it with all parts changed in the same way."""
        return Known.of([change(part) for part in self.parts])


@contextmanager
def entering(base: BaseModel, start: Start, known: Known) -> Iterator[None]:
    """Let forward passes of the scope begin at a start, with what is known there.

    What surrounds the stack runs as always, for it makes masks and positions.
    """

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (known.hidden, *inputs[1:])

    passed = list(base.stack)[: start.layer]
    maps = entry_maps(base.model, base.linear_modules, start)
    handle = base.stack[start.layer].register_forward_pre_hook(enter)
    try:
        for below in passed:
            below.forward = _pass_on
        for first, product in zip(maps, known.products, strict=True):
            first.forward = lambda _, product=product: product.clone()  # updates are added in place
        yield
    finally:
        handle.remove()
        for module in (*passed, *maps):
            vars(module).pop("forward", None)


def _pass_on(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


def known_before(base: BaseModel, start: Start, **inputs: Tensor) -> Known:
    """Return what is known at a start; nothing above it is computed."""
    hidden: list[Tensor] = []
    products: dict[int, Tensor] = {}
    maps = entry_maps(base.model, base.linear_modules, start)

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        hidden.append(inputs[0])
        if not maps:
            raise _EnteredError

    def keep(number: int, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        products[number] = forward(x)
        if len(products) == len(maps):
            raise _EnteredError
        return products[number].clone()

    handle = base.stack[start.layer].register_forward_pre_hook(enter)
    try:
        for number, first in enumerate(maps):
            first.forward = partial(keep, number, first.forward)
        base.model(**inputs)
    except _EnteredError:
        pass
    finally:
        handle.remove()
        for first in maps:
            vars(first).pop("forward", None)
    return Known.of([hidden[0], *(products[number] for number in range(len(maps)))])
