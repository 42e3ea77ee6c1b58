from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from coral.errors import CheckpointError
from coral.plan import SchedulePlan, with_values
from coral.training import checkpoint
from coral.training.base import BaseModel
from coral.training.checkpoint import Position
from coral.training.encoder import MultiTaskEncoder, adapted
from coral.training.loop import build_optimizer, learning_rate_factors
from tests.training.conftest import SEED, plan
from tests.training.models import targets

HEADS = {"one": 2, "two": 3}
POSITION = Position(
    plan="the plan",
    model="the model",
    heads=HEADS,
    scaling=2.0,
    stage=1,
    step=3,
    cumulative_steps=7,
    teraflops=0.5,
)
PARENT = SchedulePlan(learning_rate=0.5, weight_decay=0.5, head_lr_multiplier=2)
CHILD = SchedulePlan(learning_rate=1e-3, weight_decay=0.125, head_lr_multiplier=4)


@pytest.fixture
def encoder(base: BaseModel) -> Iterator[MultiTaskEncoder]:
    with adapted(base, plan(), targets(HEADS), SEED) as encoder:
        yield encoder


def step(encoder: MultiTaskEncoder, optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step in which the task ``two`` rests."""
    ids = torch.tensor([[2, 4, 10, 3]])
    encoder.heads["one"](encoder.encode(ids, torch.ones_like(ids))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def dump_after_steps(encoder: MultiTaskEncoder, steps: int) -> bytes:
    optimizer = build_optimizer(encoder, PARENT)
    for _ in range(steps):
        step(encoder, optimizer)
    return checkpoint.dump(encoder, optimizer, POSITION)


def test_what_is_dumped_is_read(encoder: MultiTaskEncoder) -> None:
    found = checkpoint.read(dump_after_steps(encoder, 3), "the model", HEADS)
    assert found.position == POSITION
    expected = encoder.state()
    for name, tensor in expected.items():
        assert torch.equal(found.state[name], tensor)
    assert found.state.keys() == expected.keys()


def test_restoring_keeps_the_learning_rate_and_weight_decay_of_the_plan(
    encoder: MultiTaskEncoder,
) -> None:
    found = checkpoint.read(dump_after_steps(encoder, 3), "the model", HEADS)
    optimizer = build_optimizer(encoder, CHILD)
    learning_rate_factors(CHILD, optimizer, 10)
    before = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    checkpoint.restore(found, encoder, optimizer)
    after = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    assert after == before
    assert [group["weight_decay"] for group in after] == [0.125, 0.125]
    assert [group["initial_lr"] for group in after] == [1e-3, 4e-3]


def test_a_head_that_rested_keeps_its_own_count_of_steps(encoder: MultiTaskEncoder) -> None:
    """Adam's bias correction counts the steps of each parameter."""
    found = checkpoint.read(dump_after_steps(encoder, 3), "the model", HEADS)
    optimizer = build_optimizer(encoder, CHILD)
    checkpoint.restore(found, encoder, optimizer)
    assert optimizer.state[encoder.heads["one"].weight]["step"] == 3
    assert encoder.heads["two"].weight not in optimizer.state


def test_the_next_step_is_that_of_an_optimizer_that_was_never_stored(
    encoder: MultiTaskEncoder,
) -> None:
    optimizer = build_optimizer(encoder, PARENT)
    step(encoder, optimizer)
    found = checkpoint.read(checkpoint.dump(encoder, optimizer, POSITION), "the model", HEADS)
    step(encoder, optimizer)
    expected = {name: tensor.clone() for name, tensor in encoder.state().items()}
    restored = build_optimizer(encoder, PARENT)
    checkpoint.restore(found, encoder, restored)
    step(encoder, restored)
    for name, tensor in encoder.state().items():
        assert torch.equal(tensor, expected[name]), name


def test_moments_that_are_there_in_part_are_an_error(encoder: MultiTaskEncoder) -> None:
    found = checkpoint.read(dump_after_steps(encoder, 1), "the model", HEADS)
    tensors = {k: v for k, v in found.tensors.items() if k != "exp_avg_sq.head.one.weight"}
    with pytest.raises(CheckpointError, match=r"head\.one\.weight"):
        checkpoint.restore(
            replace(found, tensors=tensors), encoder, build_optimizer(encoder, CHILD)
        )


def test_a_checkpoint_of_another_base_model_or_tokenizer_is_refused(
    encoder: MultiTaskEncoder,
) -> None:
    with pytest.raises(CheckpointError, match="base model and tokenizer another mode"):
        checkpoint.read(dump_after_steps(encoder, 1), "another model", HEADS)


@pytest.mark.parametrize("heads", [{"one": 2}, {"one": 2, "two": 4}, {"one": 2, "three": 3}])
def test_a_checkpoint_whose_heads_have_other_shapes_is_refused(
    encoder: MultiTaskEncoder, heads: dict[str, int]
) -> None:
    with pytest.raises(CheckpointError, match="heads must be"):
        checkpoint.read(dump_after_steps(encoder, 1), "the model", heads)


def test_a_checkpoint_of_another_format_is_refused(encoder: MultiTaskEncoder) -> None:
    newer = checkpoint.dump(
        encoder, build_optimizer(encoder, CHILD), replace(POSITION, format=checkpoint.FORMAT + 1)
    )
    with pytest.raises(CheckpointError, match="format"):
        checkpoint.read(newer, "the model", HEADS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        b"\x80\x05pickle",
        save({"weight": torch.zeros(2)}),
        save({"weight": torch.zeros(2)}, metadata={"coral": "[]"}),
        save({"weight": torch.zeros(2)}, metadata={"coral": '{"surprise": 1}'}),
    ],
    ids=["empty", "noise", "pickle", "no metadata", "a list", "other fields"],
)
def test_what_is_no_checkpoint_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="can't be read"):
        checkpoint.read(content, "the model", HEADS)


def test_equal_weights_make_equal_bytes(base: BaseModel) -> None:
    contents = []
    for _ in range(2):
        with adapted(
            base, with_values(plan(), {"adapter.dora": True}), targets({"one": 2}), SEED
        ) as made:
            contents.append(dump_after_steps(made, 2))
    assert contents[0] == contents[1]
