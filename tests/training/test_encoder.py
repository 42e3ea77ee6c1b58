from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from coral.errors import CheckpointError, PlanError
from coral.plan import with_values
from coral.training.base import BaseModel
from coral.training.dropout import SeededDropout
from coral.training.encoder import MultiTaskEncoder, adapted, lora_config, pool
from coral.training.failures import DivergedError
from coral.training.texts import tokenize
from tests.training.conftest import SEED, plan
from tests.training.models import targets

CLASSES = {"one": 2, "two": 3}
TEXTS = ("red w1 w2 w3 w4 w5", "blue w6", "green w7 w8 w9")


@pytest.fixture
def encoder(base: BaseModel) -> Iterator[MultiTaskEncoder]:
    with adapted(base, plan(), targets(CLASSES), SEED) as encoder:
        yield perturbed(encoder)


def perturbed(encoder: MultiTaskEncoder) -> MultiTaskEncoder:
    """Give the adapter's zero matrices values, so that it does something."""
    torch.manual_seed(1)
    for name, parameter in encoder.adapter.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def batch(base: BaseModel, texts: tuple[str, ...] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask, _ = tokenize(base.tokenizer, texts, 16).pad(np.arange(len(texts)))
    return ids, mask


class TestPooling:
    HIDDEN = torch.tensor(
        [[[1.0, 10], [2, 20], [6, 60], [99, 99]], [[4, 40], [8, 80], [9, 9], [9, 9]]]
    )
    MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])

    @pytest.mark.parametrize(
        ("pooling", "expected"),
        [
            ("mean", [[3.0, 30], [6, 60]]),
            ("cls", [[1.0, 10], [4, 40]]),
            ("last", [[6.0, 60], [8, 80]]),
        ],
    )
    def test_it_reads_real_tokens_alone(self, pooling: str, expected: list[list[float]]) -> None:
        assert pool(self.HIDDEN, self.MASK, pooling).tolist() == expected

    @pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
    def test_padding_on_the_right_changes_nothing(self, pooling: str) -> None:
        longer = nn.functional.pad(self.HIDDEN, (0, 0, 0, 3), value=float("1e9"))
        mask = nn.functional.pad(self.MASK, (0, 3))
        assert torch.equal(pool(longer, mask, pooling), pool(self.HIDDEN, self.MASK, pooling))


class TestLoading:
    def test_a_state_comes_back(self, base: BaseModel) -> None:
        with adapted(base, plan(), targets(CLASSES), SEED) as encoder:
            state = {name: tensor.clone() for name, tensor in perturbed(encoder).state().items()}
        with adapted(base, plan(), targets(CLASSES), SEED + 1) as encoder:
            assert not torch.equal(encoder.state()["head.one.weight"], state["head.one.weight"])
            encoder.load_state(state)
            for name, tensor in encoder.state().items():
                assert torch.equal(tensor, state[name])

    @pytest.mark.parametrize("part", ["encoder.", "head."])
    def test_a_missing_tensor_is_an_error(self, encoder: MultiTaskEncoder, part: str) -> None:
        state = encoder.state()
        lost = next(name for name in state if name.startswith(part))
        del state[lost]
        with pytest.raises(CheckpointError, match="missing") as caught:
            encoder.load_state(state)
        assert lost in str(caught.value)

    @pytest.mark.parametrize("surplus", ["encoder.layer.9.x.a", "head.three.bias"])
    def test_a_tensor_left_over_is_an_error(self, encoder: MultiTaskEncoder, surplus: str) -> None:
        with pytest.raises(CheckpointError, match="left over") as caught:
            encoder.load_state({**encoder.state(), surplus: torch.zeros(1)})
        assert surplus in str(caught.value)

    def test_a_tensor_of_another_shape_is_an_error(self, encoder: MultiTaskEncoder) -> None:
        with pytest.raises(CheckpointError, match=r"head\.one\.bias is \(7,\), must be \(2,\)"):
            encoder.load_state({**encoder.state(), "head.one.bias": torch.zeros(7)})

    def test_an_adapter_of_fewer_layers_is_an_error_for_one_of_all(self, base: BaseModel) -> None:
        top = with_values(plan(), {"adapter.layers": "top-1"})
        with adapted(base, top, targets(CLASSES), SEED) as encoder:
            part = encoder.state()
        with (
            adapted(base, plan(), targets(CLASSES), SEED) as encoder,
            pytest.raises(CheckpointError, match="does not cover the model"),
        ):
            encoder.load_state(part)


def test_the_state_holds_trained_tensors_alone(encoder: MultiTaskEncoder) -> None:
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert sum(tensor.numel() for tensor in encoder.state().values()) == trained


def test_reading_the_state_asks_no_hub(
    encoder: MultiTaskEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", refuse)
    encoder.adapter.peft_config["default"].base_model_name_or_path = "someone/some-model"
    assert encoder.state()


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha / r", "alpha / sqrt(r)"])
def test_merging_changes_no_vector(base: BaseModel, *, dora: bool, rslora: bool) -> None:
    values = {"adapter.dora": dora, "adapter.rslora": rslora}
    with (
        adapted(base, with_values(plan(), values), targets(CLASSES), SEED) as encoder,
        torch.no_grad(),
    ):
        apart = perturbed(encoder).encode(*batch(base))
        with encoder.merged():
            merged = encoder.encode(*batch(base))
        again = encoder.encode(*batch(base))
    torch.testing.assert_close(merged, apart, atol=1e-5, rtol=0)
    assert torch.equal(again, apart)
    assert not torch.equal(merged, plain_vectors(base))


def plain_vectors(base: BaseModel) -> torch.Tensor:
    ids, mask = batch(base)
    with torch.no_grad():
        hidden = base.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return pool(hidden, mask, "mean")


def test_merging_an_update_that_is_not_finite_is_divergence_and_leaves_the_base_alone(
    base: BaseModel,
) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    with adapted(base, plan(), targets(CLASSES), SEED) as encoder:
        last = [p for n, p in encoder.adapter.named_parameters() if "lora_B" in n][-1]
        nn.init.constant_(last, float("inf"))
        with pytest.raises(DivergedError, match="finite"), encoder.merged():
            pass
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_fresh_adapter_changes_no_vector(base: BaseModel) -> None:
    with adapted(base, plan(), targets(CLASSES), SEED) as encoder, torch.no_grad():
        torch.testing.assert_close(encoder.encode(*batch(base)), plain_vectors(base))


def test_the_update_has_the_effective_scaling_of_the_plan(base: BaseModel) -> None:
    for rslora in (False, True):
        values = {"adapter.scaling": 3.0, "adapter.rslora": rslora, "adapter.rank": 5}
        with adapted(base, with_values(plan(), values), targets(CLASSES), SEED) as encoder:
            module = next(m for m in encoder.adapter.modules() if hasattr(m, "lora_A"))
            assert module.scaling["default"] == pytest.approx(3.0)


def test_initial_weights_follow_from_the_seed_alone(base: BaseModel) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(states))
        with adapted(base, plan(), targets(CLASSES), seed) as encoder:
            states.append({name: tensor.clone() for name, tensor in encoder.state().items()})
    name = next(name for name in states[0] if name.endswith(".a"))
    assert torch.equal(states[0][name], states[1][name])
    assert torch.equal(states[0]["head.one.weight"], states[1]["head.one.weight"])
    assert not torch.equal(states[0][name], states[2][name])


def test_a_head_starts_alike_whatever_other_tasks_there_are(base: BaseModel) -> None:
    with adapted(base, plan(), targets({"two": 3}), SEED) as encoder:
        alone = encoder.heads["two"].weight.detach().clone()
    with adapted(base, plan(), targets(CLASSES), SEED) as encoder:
        assert torch.equal(encoder.heads["two"].weight, alone)


def test_dropout_is_switched_in_the_adapter_alone(base: BaseModel) -> None:
    kinds = nn.Dropout, SeededDropout
    dropout = with_values(plan(), {"adapter.dropout": 0.5})
    with adapted(base, dropout, targets(CLASSES), SEED) as encoder:
        encoder.train_adapter(True)
        training = {name for name, module in encoder.named_modules() if module.training}
        active = {name for name in training if isinstance(encoder.get_submodule(name), kinds)}
        assert active
        assert all(".lora_dropout" in name for name in active)
        encoder.train_adapter(False)
        assert not any(m.training for m in encoder.adapter.modules() if isinstance(m, kinds))


def test_targets_that_match_nothing_are_named(base: BaseModel) -> None:
    nowhere = replace(plan().adapter, target_modules=("query", "gate"))
    with pytest.raises(PlanError, match="gate"):
        lora_config(nowhere, base)
