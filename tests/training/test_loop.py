from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.plan import SchedulePlan, warmup_steps
from coral.plan.schedule import Scheduler
from coral.training.base import BaseModel
from coral.training.encoder import adapted
from coral.training.loop import build_optimizer, learning_rate_factors
from tests.training import golden
from tests.training.conftest import SEED, plan
from tests.training.models import targets

SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)
HORIZON = 100
WARMUP = 10


def factors(scheduler: Scheduler, warmup_ratio: float = 0.1) -> Callable[[int], float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = SchedulePlan(scheduler=scheduler, warmup_ratio=warmup_ratio)
    return learning_rate_factors(schedule, optimizer, HORIZON)


DECAY: dict[Scheduler, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant_with_warmup": lambda progress: 1.0,
    # transformers' power is 1 and its end 1e-7 of an initial 1.0: linear but for that.
    "polynomial": lambda progress: 1 - progress * (1 - 1e-7),
    "inverse_sqrt": lambda progress: math.sqrt(WARMUP / (WARMUP + progress * (HORIZON - WARMUP))),
}


@pytest.mark.parametrize("scheduler", DECAY)
def test_the_learning_rate_warms_up_to_its_peak_and_decays_as_documented(
    scheduler: Scheduler,
) -> None:
    factor = factors(scheduler)
    for step in range(WARMUP):
        assert factor(step) == pytest.approx(step / WARMUP)
    for step in range(WARMUP, HORIZON):
        expected = DECAY[scheduler]((step - WARMUP) / (HORIZON - WARMUP))
        assert factor(step) == pytest.approx(expected, abs=1e-6), step


def test_a_constant_learning_rate_has_no_warmup() -> None:
    assert {factors("constant")(step) for step in range(HORIZON)} == {1.0}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@given(warmup_ratio=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_the_learning_rate_never_exceeds_its_peak(
    scheduler: Scheduler, warmup_ratio: float
) -> None:
    factor = factors(scheduler, warmup_ratio)
    values = [factor(step) for step in range(HORIZON)]
    assert all(0 <= value <= 1 for value in values)
    rising = (
        warmup_steps(SchedulePlan(warmup_ratio=warmup_ratio), HORIZON)
        if scheduler != "constant"
        else 0
    )
    assert values[:rising] == sorted(values[:rising])
    assert values[rising:] == sorted(values[rising:], reverse=True)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_learning_rate_at_a_step_depends_on_no_other_step(scheduler: Scheduler) -> None:
    factor = factors(scheduler)
    forward = [factor(step) for step in range(HORIZON)]
    assert [factor(step) for step in reversed(range(HORIZON))] == forward[::-1]


def test_adapter_and_heads_have_their_own_learning_rates(base: BaseModel) -> None:
    schedule = SchedulePlan(learning_rate=1e-3, head_lr_multiplier=8, weight_decay=0.25)
    with adapted(base, plan(), targets({"one": 2, "two": 3}), SEED) as encoder:
        optimizer = build_optimizer(encoder, schedule)
        adapter, heads = optimizer.param_groups
        assert (adapter["lr"], heads["lr"]) == (1e-3, 8e-3)
        assert (adapter["weight_decay"], heads["weight_decay"]) == (0.25, 0.25)
        trained = {id(p) for p in encoder.parameters() if p.requires_grad}
        optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert len(optimized) == len(set(optimized))
        assert set(optimized) == trained
        assert {id(p) for p in heads["params"]} == {id(p) for p in encoder.heads.parameters()}


def test_a_tiny_real_run_follows_its_golden_curve(base: BaseModel) -> None:
    """Regenerate with ``golden.COMMAND`` after a change that is meant to change training."""
    expected = json.loads(golden.PATH.read_text())
    assert expected["command"] == golden.COMMAND
    curves = golden.train(base)
    for name, values in curves.items():
        assert values == pytest.approx(expected[name], abs=expected["tolerance"]), name
    assert sum(curves["loss"][-10:]) < 0.7 * sum(curves["loss"][:10])
