"""Several genomes' adapters and heads, stacked on one base, and their AdamW.

A pass over the genomes' rows, one genome's after another's, adds to every row the update of its own
genome. Nothing crosses from one genome to another: a row, a gradient or a moment that is not finite
stays with its genome.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coral.training.base import BaseModel
from coral.training.dropout import dropout_mask
from coral.training.loop import BETAS, EPSILON
from coral.training.texts import on_device
from coral.training.transfer import Moments


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """One genome's adapter and heads.

    Attributes:
        tensors: named as in ``MultiTaskEncoder.state``.
        moments: by the same names; those that had no gradient yet lack them.
        scaling: effective scaling of every update.
        dropout: on the adapter's input.
    """

    tensors: Mapping[str, Tensor]
    moments: Mapping[str, Moments]
    scaling: float
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Where one tensor of every genome lies in ``(genomes, size)``; smaller ones fill a corner."""

    name: str
    shape: tuple[int, ...]
    start: int

    def of(self, flat: Tensor) -> Tensor:
        """Return this part of all genomes, ``(genomes, *shape)``, in the memory of ``flat``."""
        part = flat[:, self.start : self.start + prod(self.shape)]
        return part.view(len(flat), *self.shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Whose rows a forward pass goes over, one genome's after another's.

    Attributes:
        counts, lengths: rows of each genome, and the tokens of its longest.
        longest: tokens of the longest of all.
        lane_rows: rows of a lane; every genome has a whole number of lanes.
        owner: ``(lanes,)`` genome of each lane; None if every genome has one.
        generators: of each genome's dropout; None for a genome that drops nothing.
    """

    counts: Sequence[int]
    lengths: Sequence[int]
    longest: int
    lane_rows: int
    owner: Tensor | None
    generators: Sequence[torch.Generator | None]

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        lengths: Sequence[int],
        device: torch.device,
        generators: Sequence[torch.Generator | None] | None = None,
    ) -> Rows:
        """Return rows in lanes as long as their counts allow."""
        size = gcd(*counts)
        lanes = [count // size for count in counts]
        owner = None
        if any(count != 1 for count in lanes):
            owner = torch.from_numpy(np.repeat(np.arange(len(counts)), lanes)).to(device)
        return cls(
            counts=counts,
            lengths=lengths,
            longest=max(lengths),
            lane_rows=size,
            owner=owner,
            generators=generators or [None] * len(counts),
        )

    @property
    def lanes(self) -> int:
        return sum(self.counts) // self.lane_rows

    def by_lane(self, stacked: Tensor) -> Tensor:
        """Return ``(lanes, ...)`` of what is given for genomes, ``(genomes, ...)``."""
        return stacked if self.owner is None else stacked.index_select(0, self.owner)


class StackedAdapters:
    """Adapters and heads of several genomes, ``(genomes, ...)`` each.

    Smaller ranks, and modules that a genome doesn't adapt, are filled up with zeros in both
    factors; their gradients are zero, so they stay zero.

    Attributes:
        values: all of it, ``(genomes, size)``.
        parameters: views of ``values`` by name: ``(genomes, rank, in)`` for ``<module>.a``,
            ``(genomes, out, rank)`` for ``<module>.b``.
        parts: where they lie.
    """

    def __init__(self, base: BaseModel, genomes: Sequence[Weights]) -> None:
        self._base = base
        self._genomes = genomes
        self.parts = _layout(genomes)
        size = self.parts[-1].start + prod(self.parts[-1].shape)
        self.values = torch.zeros(len(genomes), size, device=base.device)
        for part in self.parts:
            for k, genome in enumerate(genomes):
                if part.name in genome.tensors:
                    put(part.of(self.values)[k], genome.tensors[part.name])
        self.parameters = {
            part.name: part.of(self.values).detach().requires_grad_() for part in self.parts
        }
        scalings = [genome.scaling for genome in genomes]
        self._scaling = torch.tensor(scalings, device=base.device).view(-1, 1, 1)
        self._rows: Rows | None = None

    def state(self, k: int) -> dict[str, Tensor]:
        """Return a copy of one genome's tensors, as they were given."""
        return {
            part.name: corner(part.of(self.values)[k], own.shape).clone()
            for part in self.parts
            if (own := self._genomes[k].tensors.get(part.name)) is not None
        }

    def logits(self, task: str, vectors: Tensor, rows: Rows) -> Tensor:
        """Return ``(rows, classes)`` of ``(rows, hidden)``, each row by its genome's head."""
        weight = rows.by_lane(self.parameters[f"head.{task}.weight"])
        bias = rows.by_lane(self.parameters[f"head.{task}.bias"])
        by_lane = vectors.view(rows.lanes, rows.lane_rows, -1)
        return torch.baddbmm(bias.unsqueeze(1), by_lane, weight.transpose(1, 2)).flatten(0, 1)

    @contextmanager
    def applied_to(self, rows: Rows) -> Iterator[None]:
        """Let the base's forward passes of the scope adapt every row by its own genome."""
        self._rows = rows
        with ExitStack() as stack:
            for name in self.parameters:
                module = name.removesuffix(".a")
                if module != name:
                    hook = partial(self._adapt, module)
                    target = self._base.model.get_submodule(module)
                    stack.callback(target.register_forward_hook(hook).remove)
            yield

    def _adapt(self, name: str, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Add its genome's update to every row of a linear map's output."""
        rows = self._rows
        assert rows is not None
        x: Tensor = inputs[0]
        a = rows.by_lane(self.parameters[f"{name}.a"])
        b = rows.by_lane(self.parameters[f"{name}.b"])
        x = x.to(a.dtype)
        if any(rows.generators):
            x = x * self._dropout(name, x, rows).view_as(x)
        by_lane = x.reshape(rows.lanes, -1, x.shape[-1])
        inner = torch.bmm(by_lane, a.transpose(1, 2)) * rows.by_lane(self._scaling)
        update = torch.bmm(inner, b.transpose(1, 2)).reshape(output.shape)
        return (output + update).to(output.dtype)

    def _dropout(self, name: str, x: Tensor, rows: Rows) -> Tensor:
        """Return factors for ``x``: each genome's are those that it draws when it is alone.

        ``x`` has a vector for each token, or one for each text, as poolers have.
        """
        features, total = x.shape[-1], sum(rows.counts)
        positions = x.numel() // (total * features)
        mask = x.new_ones(total, positions, features)
        start = 0
        for k, (count, length) in enumerate(zip(rows.counts, rows.lengths, strict=True)):
            genome, generator = self._genomes[k], rows.generators[k]
            if generator is not None and f"{name}.a" in genome.tensors:
                own = (count, min(length, positions), features)
                drawn = dropout_mask(own, genome.dropout, like=x, generator=generator)
                mask[start : start + count, : own[1]] = drawn
            start += count
        return mask


class StackedAdamW:
    """AdamW for stacked genomes, each with its own learning rates, decay, clipping and steps.

    A step works on all of ``(genomes, size)`` at once, so that it takes few operations, however
    many genomes and tensors there are.

    Source: Loshchilov and Hutter 2019, as ``torch.optim.AdamW`` has it.
    """

    def __init__(
        self,
        stacked: StackedAdapters,
        genomes: Sequence[Weights],
        *,
        weight_decay: Sequence[float],
        gradient_clip: Sequence[float],
    ) -> None:
        values = stacked.values
        self._stacked = stacked
        self._genomes = genomes
        self._exp_avg, self._exp_avg_sq = torch.zeros_like(values), torch.zeros_like(values)
        parts = stacked.parts
        self._steps = np.zeros((len(genomes), len(parts)))
        self._owned = np.zeros((len(genomes), len(parts)), dtype=bool)
        for i, part in enumerate(parts):
            for k, genome in enumerate(genomes):
                self._owned[k, i] = part.name in genome.tensors
                if (moments := genome.moments.get(part.name)) is not None:
                    self._steps[k, i] = float(moments.step)
                    put(part.of(self._exp_avg)[k], moments.exp_avg)
                    put(part.of(self._exp_avg_sq)[k], moments.exp_avg_sq)
        self._is_head = np.array([part.name.startswith("head.") for part in parts])
        self._weight_decay = np.array(weight_decay)[:, None]
        self._gradient_clip = torch.tensor(gradient_clip, device=values.device)
        part_of_column = np.repeat(np.arange(len(parts)), [prod(part.shape) for part in parts])
        self._part_of_column = torch.from_numpy(part_of_column).to(values.device)

    def step(
        self,
        losses: Tensor,
        learning_rates: Sequence[tuple[float, float]],
        resting: Sequence[Collection[str]],
    ) -> Tensor:
        """Take a step down the gradients of losses, clipped.

        Args:
            losses: ``(genomes,)``.
            learning_rates: of each genome's adapter, and of its heads.
            resting: tasks without examples, for each genome; their heads stay as they are.

        Returns:
            ``(genomes,)`` gradient norms before clipping.
        """
        parameters = list(self._stacked.parameters.values())
        found = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        used = np.array([gradient is not None for gradient in found])
        with torch.no_grad():
            by_part = [
                torch.zeros_like(parameter) if gradient is None else gradient
                for parameter, gradient in zip(parameters, found, strict=True)
            ]
            gradients = torch.cat([gradient.flatten(1) for gradient in by_part], dim=1)
            norms: Tensor = gradients.norm(dim=1)
            shares = (self._gradient_clip / (norms + 1e-6)).clamp(max=1.0)
            gradients.mul_(shares.unsqueeze(1))
            decay, active, root, size = self._coefficients(learning_rates, resting, used)
            self._stacked.values.mul_(decay)
            self._exp_avg.lerp_(gradients, (1 - BETAS[0]) * active)
            self._exp_avg_sq.lerp_(gradients.square(), (1 - BETAS[1]) * active)
            denominator = self._exp_avg_sq.sqrt().div_(root).add_(EPSILON)
            self._stacked.values.addcdiv_(self._exp_avg * size, denominator, value=-1)
        return norms

    def moments(self, k: int) -> dict[str, Moments]:
        """Return a copy of one genome's moments, of what had a gradient yet."""
        found: dict[str, Moments] = {}
        for i, part in enumerate(self._stacked.parts):
            own = self._genomes[k].tensors.get(part.name)
            if own is not None and self._steps[k, i]:
                found[part.name] = Moments(
                    step=torch.tensor(self._steps[k, i], dtype=torch.float32),
                    exp_avg=corner(part.of(self._exp_avg)[k], own.shape).clone(),
                    exp_avg_sq=corner(part.of(self._exp_avg_sq)[k], own.shape).clone(),
                )
        return found

    def _coefficients(
        self,
        learning_rates: Sequence[tuple[float, float]],
        resting: Sequence[Collection[str]],
        used: NDArray[np.bool_],
    ) -> Tensor:
        """Return weight decay's factor, activity, root of the second bias correction, step size.

        Args:
            used: ``(parts,)``; what no loss depends on stays as it is.

        Returns:
            ``(4, genomes, size)``.
        """
        active = self._owned & used
        for k, tasks in enumerate(resting):
            for task in tasks:
                for i, part in enumerate(self._stacked.parts):
                    active[k, i] &= not part.name.startswith(f"head.{task}.")
        self._steps += active
        counted = np.maximum(self._steps, 1)
        first, second = (1 - beta**counted for beta in BETAS)
        adapter, heads = np.array(learning_rates).T[:, :, None]
        rates = np.where(self._is_head, heads, adapter) * active
        table = np.stack([1 - rates * self._weight_decay, active, np.sqrt(second), rates / first])
        columns = self._part_of_column
        by_part = on_device(torch.from_numpy(table.astype(np.float32)), columns.device)
        by_column: Tensor = by_part.index_select(2, columns)
        return by_column


def put(room: Tensor, tensor: Tensor) -> None:
    """Copy a tensor into the corner of a larger one."""
    corner(room, tensor.shape).copy_(tensor)


def corner(room: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the first ``shape`` of a larger tensor, in its memory."""
    for dimension, size in enumerate(shape):
        room = room.narrow(dimension, 0, size)
    return room


def _layout(genomes: Sequence[Weights]) -> list[_Part]:
    """Return the parts that some genome has, each as large as the largest."""
    shapes: dict[str, tuple[int, ...]] = {}
    for genome in genomes:
        for name, tensor in genome.tensors.items():
            known = shapes.get(name, tuple(tensor.shape))
            shapes[name] = tuple(max(pair) for pair in zip(known, tensor.shape, strict=True))
    parts: list[_Part] = []
    start = 0
    for name, shape in shapes.items():
        parts.append(_Part(name=name, shape=shape, start=start))
        start += prod(shape)
    return parts
