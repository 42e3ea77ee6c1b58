"""Checkpoints as bytes: weights, optimizer moments and position, in one safetensors file.

Random and strategy state need no place here: every draw and every batch is derived from the plan,
the seed and the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from coral.errors import CheckpointError
from coral.training.encoder import MultiTaskEncoder, factors_of
from coral.training.transfer import Moments, Parent

FORMAT = 2
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of one parameter; each has its own steps: a head rests without its task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where training stands.

    Attributes:
        plan: digest of what the plan trains; training goes on from no other's checkpoint.
        model: digest of the base model and its tokenizer.
        heads: task to number of classes.
        scaling: effective scaling of every update.
        stage: index of the last stage finished.
        step: position in the plan's schedule.
        cumulative_steps: optimizer steps that the weights have seen, see ``Outcome``.
        teraflops: spent on these weights so far, along the same line.
        rewarms: the moments were lost when the weights were inherited.
        seen: by stage, the examples of each task that the weights have drawn in it.
    """

    plan: str
    model: str
    heads: Mapping[str, int] = field(default_factory=dict)
    scaling: float
    stage: int
    step: int
    cumulative_steps: int
    teraflops: float
    rewarms: bool = False
    seen: tuple[tuple[int, ...], ...] = ()
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Attributes:
    tensors: named as in ``MultiTaskEncoder.state``; moments as ``<moment>.<parameter>``.
    """

    tensors: Mapping[str, Tensor]
    position: Position

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights alone."""
        return {name: t for name, t in self.tensors.items() if not name.startswith(_PREFIXES)}

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each adapted module."""
        return {name: f.rank for name, f in factors_of(self.state, self.position.scaling).items()}


_PREFIXES = tuple(f"{moment}." for moment in _MOMENTS)


def dump(encoder: MultiTaskEncoder, optimizer: torch.optim.Optimizer, position: Position) -> bytes:
    """Return a checkpoint."""
    return dump_tensors(encoder.state(), moments_in(encoder, optimizer), position)


def moments_in(encoder: MultiTaskEncoder, optimizer: torch.optim.Optimizer) -> dict[str, Moments]:
    """Return an optimizer's moments by parameter, of those that had a gradient."""
    return {
        name: Moments(**{moment: optimizer.state[parameter][moment] for moment in _MOMENTS})
        for name, parameter in encoder.parameters_by_name().items()
        if parameter in optimizer.state
    }


def dump_tensors(
    state: Mapping[str, Tensor], moments: Mapping[str, Moments], position: Position
) -> bytes:
    """Return a checkpoint.

    Args:
        state: as ``MultiTaskEncoder.state`` gives it.
    """
    tensors = dict(state)
    for name, own in moments.items():
        tensors |= {f"{moment}.{name}": getattr(own, moment) for moment in _MOMENTS}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(on_cpu, metadata={"coral": json.dumps(asdict(position), sort_keys=True)})


def read(content: bytes, model: str, heads: Mapping[str, int]) -> Checkpoint:
    """Return a checkpoint of this base model and these tasks.

    Args:
        model: digest of the base model and its tokenizer.
        heads: task to number of classes.

    Raises:
        CheckpointError: it is damaged, of another format, base model or tokenizer, or its heads
            have other shapes.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        said = json.loads(header["__metadata__"]["coral"])
        found = said["format"]
        position = _position(said) if found == FORMAT else None
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint can't be read: {error}") from error
    if position is None:
        raise CheckpointError(f"the checkpoint's format must be {FORMAT}, it is {found}")
    if position.model != model:
        raise CheckpointError(
            f"the checkpoint must be of base model and tokenizer {model[:12]}, it is of"
            f" {position.model[:12]}"
        )
    if dict(position.heads) != dict(heads):
        raise CheckpointError(
            f"the checkpoint's heads must be {dict(heads)} (task: classes), they are"
            f" {dict(position.heads)}"
        )
    return Checkpoint(tensors=tensors, position=position)


def _position(said: dict[str, Any]) -> Position:
    seen = tuple(tuple(int(count) for count in by_task) for by_task in said["seen"])
    return Position(**{**said, "seen": seen})


def restore(
    checkpoint: Checkpoint, encoder: MultiTaskEncoder, optimizer: torch.optim.Optimizer
) -> None:
    """Load weights and moments; learning rate and weight decay stay those of ``optimizer``.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape.
    """
    encoder.load_state(checkpoint.state)
    load_moments(moments_of(checkpoint), encoder, optimizer)


def moments_of(checkpoint: Checkpoint) -> dict[str, Moments]:
    """Return the optimizer's moments by parameter.

    Raises:
        CheckpointError: some of a parameter's are missing.
    """
    found: dict[str, Moments] = {}
    for name in checkpoint.state:
        own = {m: checkpoint.tensors.get(f"{m}.{name}") for m in _MOMENTS}
        given = {m: tensor for m, tensor in own.items() if tensor is not None}
        if not given:  # it had no gradient yet
            continue
        if len(given) < len(_MOMENTS):
            raise CheckpointError(f"the checkpoint holds only a part of the moments of {name}")
        found[name] = Moments(**given)
    return found


def load_moments(
    moments: Mapping[str, Moments], encoder: MultiTaskEncoder, optimizer: torch.optim.Optimizer
) -> None:
    """Give the optimizer moments by parameter; the others start without."""
    parameters = encoder.parameters_by_name()
    for name, own in moments.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            moment: getattr(own, moment).to(parameter.device) for moment in _MOMENTS
        }


def parent_of(checkpoint: Checkpoint) -> Parent:
    """Return a checkpoint's weights and moments as those of a parent."""
    return Parent(
        modules=factors_of(checkpoint.state, checkpoint.position.scaling),
        heads={name: t for name, t in checkpoint.state.items() if name.startswith("head.")},
        moments=moments_of(checkpoint),
    )
