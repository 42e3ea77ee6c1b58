"""What a model's files tell without loading it: its size, and what an adapter on it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path

from coral.errors import ModelError

IN_A_LAYER = re.compile(r"(^|\.)\d+\..*weight$")


def weight_shapes(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every tensor in a model's safetensors files; only headers are read.

    Raises:
        ModelError: there are none, or one can't be read.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder} must hold weights as .safetensors; it holds none.\nSave the model with"
            " `save_pretrained`, or name one that has them."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as opened:
                names = opened.keys()
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{file} must be a safetensors file; it can't be read: {error}\n"
                "Copy or download it again."
            ) from error
    return shapes


def parameters_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many parameters a model has."""
    return sum(map(prod, shapes.values()))


def adapter_parameters(shapes: Mapping[str, tuple[int, ...]], rank: int) -> int:
    """Return the parameters of an adapter on every linear map of the layers."""
    linear = [
        shape for name, shape in shapes.items() if len(shape) == 2 and IN_A_LAYER.search(name)
    ]
    return sum(rank * sum(shape) for shape in linear)
