from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from coral.flops import Start
from coral.plan import TrainingPlan
from coral.ports import LinearModule
from coral.training.base import BaseModel, load_base
from coral.training.encoder import adapted
from coral.training.entries import entry_maps, with_entries
from tests.training.models import save_model, targets

FIRST_OF_LAYER_1 = Start(layer=1, products=True)
FIRST = {
    "bert": {"query", "key", "value"},
    "distilbert": {"q_lin", "k_lin", "v_lin"},
    "modernbert": {"Wqkv"},
    "llama": {"q_proj", "k_proj", "v_proj"},
    "qwen3": {"q_proj", "k_proj", "v_proj"},
    "gpt2": {"c_attn"},
}


@pytest.mark.parametrize("family", FIRST)
def test_the_first_maps_of_a_layer_are_those_of_queries_keys_and_values(
    family: str, tmp_path: Path
) -> None:
    base = load_base(str(save_model(tmp_path, family)), device="cpu", trust_remote_code=False)
    for layer in range(base.depth):
        inside = [module for module in base.linear_modules if module.layer == layer]
        assert {m.name.rpartition(".")[2] for m in inside if m.entry} == FIRST[family]
    assert not any(module.entry for module in base.linear_modules if module.layer is None)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_they_are_found_under_an_adapter_too(base: BaseModel) -> None:
    plain = entry_maps(base.model, base.linear_modules, FIRST_OF_LAYER_1)
    with adapted(base, TrainingPlan(), targets({"one": 2}), seed=0):
        assert entry_maps(base.model, base.linear_modules, FIRST_OF_LAYER_1) == plain
    assert len(plain) == 3


def test_a_model_that_does_not_take_tokens_has_none() -> None:
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])[0])
    module = LinearModule(name="0", layer=0, in_features=2, out_features=2)
    assert with_entries(model, nn.ModuleList(model), [module]) == (module,)
    assert not model[0]._forward_hooks
    torch.testing.assert_close(model(torch.zeros(1, 2)).shape, torch.Size([1, 2]))
