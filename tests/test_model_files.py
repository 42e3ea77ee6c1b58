"""What a model's files tell without loading it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from coral.errors import ModelError
from coral.model_files import adapter_parameters, parameters_of, weight_shapes


def save(folder: Path, name: str, **shapes: tuple[int, ...]) -> None:
    tensors = {key: np.zeros(shape, dtype=np.float32) for key, shape in shapes.items()}
    save_file(tensors, folder / name)


def test_parameters_are_counted_over_all_shards(tmp_path: Path) -> None:
    save(tmp_path, "model-00001-of-00002.safetensors", **{"embed.weight": (10, 4)})
    save(tmp_path, "model-00002-of-00002.safetensors", **{"layers.0.q.weight": (4, 6), "b": (6,)})
    assert parameters_of(weight_shapes(tmp_path)) == 40 + 24 + 6


def test_an_adapter_takes_its_rank_times_both_sides_of_each_map_in_a_layer() -> None:
    shapes = {
        "embed_tokens.weight": (10, 4),
        "layers.0.q.weight": (4, 6),
        "model.layers.11.v.weight": (2, 3),
        "layers.0.norm.weight": (4,),
        "layers.0.q.bias": (4,),
    }
    assert adapter_parameters(shapes, 8) == 8 * (10 + 5)


def test_a_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must hold weights as \.safetensors.*\nSave"):
        weight_shapes(tmp_path)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"model\.safetensors must be a safetensors file"):
        weight_shapes(tmp_path)
