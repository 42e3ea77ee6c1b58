"""Checkpoints as bytes: weights, optimizer moments and position, in one safetensors file.

Random state needs no place here: every draw is derived from the seed and the step.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from coral.errors import CheckpointError
from coral.training.encoder import MultiTaskEncoder

FORMAT = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of one parameter; each has its own steps: a head rests without its task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where training stands.

    Attributes:
        plan: digest of the plan; a checkpoint fits no other.
        model: digest of the base model.
        stage: index of the last stage finished.
        step: optimizer steps done.
        teraflops: spent on these weights so far.
    """

    plan: str
    model: str
    stage: int
    step: int
    teraflops: float
    format: int = FORMAT


def dump(encoder: MultiTaskEncoder, optimizer: torch.optim.Optimizer, position: Position) -> bytes:
    """Return a checkpoint."""
    tensors = encoder.state()
    for name, parameter in _trained(encoder):
        for moment in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].detach().cpu()
    metadata = {"coral": json.dumps(asdict(position), sort_keys=True)}
    return save({k: v.contiguous() for k, v in tensors.items()}, metadata=metadata)


def read(content: bytes, plan: str, model: str) -> tuple[dict[str, Tensor], Position]:
    """Return the tensors and position of a checkpoint.

    Raises:
        CheckpointError: it is damaged, of another format, or of another plan or base model.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        position = Position(**json.loads(header["__metadata__"]["coral"]))
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint can't be read: {error}") from error
    if position.format != FORMAT:
        raise CheckpointError(f"checkpoint format {position.format} is not {FORMAT}")
    if (position.plan, position.model) != (plan, model):
        raise CheckpointError("the checkpoint is of another plan or base model")
    return tensors, position


def restore(
    tensors: dict[str, Tensor],
    encoder: MultiTaskEncoder,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load weights and moments; learning rate and weight decay stay those of ``optimizer``.

    Raises:
        CheckpointError: tensors are missing or left over.
    """
    encoder.load_state({k: v for k, v in tensors.items() if k.startswith(("adapter.", "head."))})
    for name, parameter in _trained(encoder):
        moments = {m: tensors[f"{m}.{name}"] for m in _MOMENTS if f"{m}.{name}" in tensors}
        if not moments:  # it had no gradient yet
            continue
        if len(moments) < len(_MOMENTS):
            raise CheckpointError(f"the checkpoint holds only a part of the moments of {name}")
        optimizer.state[parameter] = {m: v.to(parameter.device) for m, v in moments.items()}


def _trained(encoder: MultiTaskEncoder) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in encoder.named_parameters() if p.requires_grad]
