"""How many jobs train side by side is measured, remembered and kept to what is worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coral.training import slots as slots_module
from coral.training.base import BaseModel
from coral.training.slots import MOST, WORTH, best
from coral.training.trainer import LoraTrainer
from tests.training.conftest import BuildTrainer, MemoryCheckpoints, make_job
from tests.training.models import colours, load


def trainer_of(base: BaseModel, folder: Path | None, slots: int | None = None) -> LoraTrainer:
    store = MemoryCheckpoints()
    tasks = load(colours())
    return LoraTrainer(base, tasks, store, lambda progress: None, slots=slots, remembered=folder)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({}, 1),
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 119.0}, 1),
        ({1: 100.0, 2: 180.0, 4: 300.0, 8: 310.0}, 4),
        ({1: 100.0, 2: 200.0, 4: 400.0, 8: 800.0, 16: 1600.0}, 16),
    ],
)
def test_more_side_by_side_must_be_worth_it(rates: dict[int, float], expected: int) -> None:
    assert best(rates) == expected


def test_the_device_is_timed_with_real_steps(base: BaseModel) -> None:
    trainer = trainer_of(base, None)
    rates = trainer.slot_rates
    counts = list(rates)
    assert counts == [2**i for i in range(len(counts))]
    assert all(rate > 0 for rate in rates.values())
    last = counts[-1]
    assert last == MOST or rates[last] < WORTH * rates[last // 2]
    assert trainer.survey().slots == best(rates)
    assert trainer.survey().slot_rates == tuple(rates.items())


def test_another_process_remembers(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "MOST", 1)
    first = trainer_of(base, tmp_path).slot_rates

    def fail(*_: Any) -> None:
        raise AssertionError("timed again")

    with monkeypatch.context() as patch:
        patch.setattr(slots_module, "_seconds", fail)
        assert trainer_of(base, tmp_path).slot_rates == first
    (file,) = tmp_path.iterdir()
    for damaged in ("", "[1]", '{"1": "fast"}', "{"):
        file.write_text(damaged)
        assert trainer_of(base, tmp_path).slot_rates


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room"), RuntimeError("a layer that takes rows apart")]
)
def test_where_several_can_not_train_at_once_one_does(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(slots_module.Pack, "train", fail)
    trainer = trainer_of(base, None)
    assert list(trainer.slot_rates) == [1]
    assert trainer.slots == 1


def test_a_fixed_number_is_not_timed(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_seconds", pytest.fail)
    assert trainer_of(base, None, slots=3).survey().slots == 3
    assert trainer_of(base, None, slots=3).survey().slot_rates == ()


def test_what_was_timed_leaves_no_trace_in_what_is_trained(
    base: BaseModel, build_trainer: BuildTrainer
) -> None:
    timed = trainer_of(base, None)
    assert timed.slots
    (one,), (two,) = build_trainer().train([make_job()]), timed.train([make_job()])
    assert one.checkpoint == two.checkpoint
