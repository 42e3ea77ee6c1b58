from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from coral.errors import CheckpointError, StrategyError, TaskError
from coral.training.failures import DivergedError, failure_of

ABSURD = 1 << 60


def raised_by(function: object, *arguments: object) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the library raises
        function(*arguments)
    return caught.value


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda: torch.empty(ABSURD, dtype=torch.uint8), id="torch"),
        pytest.param(lambda: torch.zeros(2, 2).repeat(1 << 28, 1 << 28), id="torch operator"),
        pytest.param(lambda: np.ones(ABSURD, dtype=np.uint8), id="numpy"),
        pytest.param(lambda: bytearray(ABSURD), id="python"),
    ],
)
def test_what_an_allocator_raises_is_out_of_memory(function: object) -> None:
    failure = failure_of(raised_by(function))
    assert failure.kind == "oom"
    assert "Traceback" in failure.traceback


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("could not create a primitive"),
    ],
    ids=["GPU", "oneDNN"],
)
def test_what_other_allocators_raise_is_out_of_memory(error: Exception) -> None:
    assert failure_of(error).kind == "oom"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DivergedError("loss nan must be finite"), "diverged"),
        (TaskError("task colour raised in score()"), "plugin"),
        (StrategyError("sampler 'mine' raised"), "plugin"),
        (CheckpointError("the disk is full"), "crashed"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "crashed"),
        (KeyError("memory"), "crashed"),
        (ValueError(), "crashed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_error_has_a_kind(error: Exception, kind: str) -> None:
    failure = failure_of(error)
    assert failure.kind == kind
    assert failure.message


def test_a_message_is_one_line_and_names_the_error() -> None:
    failure = failure_of(RuntimeError("first\nsecond"))
    assert failure.message == "RuntimeError: first"
    assert "second" in failure.traceback


def test_divergence_needs_no_traceback() -> None:
    assert failure_of(DivergedError("loss nan must be finite")).traceback == ""


def test_a_task_out_of_memory_is_the_tasks_own_failure() -> None:
    error = TaskError("task colour raised in score(): MemoryError()")
    error.__cause__ = MemoryError()
    assert failure_of(error).kind == "plugin"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_a_batch_that_does_not_fit_in_memory_is_trained_in_micro_batches() -> None:
    command = [sys.executable, "-m", "tests.training.out_of_memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    *failures, last = report["kinds"]
    assert failures
    assert set(failures) == {"oom"}
    assert last is None
    assert report["attempts"] == len(report["kinds"])
    sizes = report["micro_batch_sizes"]
    assert sizes == [None, *(256 >> halvings for halvings in range(1, len(sizes)))]
    assert report["loss"] == pytest.approx(report["unlimited_loss"], abs=1e-5)
