from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coral.errors import ConfigError, CoralError, Fault, ModelError, RunLockedError, WorkersError
from coral.execution.worker import claim_slot, raised


def travelled(error: BaseException) -> CoralError:
    try:
        raise error
    except BaseException as caught:
        answer = raised(caught)
    arrived: CoralError = pickle.loads(pickle.dumps(answer)).as_error()
    return arrived


FAULT = Fault(where="a.yaml:3", key="lora_r", rule="low <= high, got 2, 1", remedy="Swap them.")


@pytest.mark.parametrize(
    "error", [ConfigError([FAULT, FAULT]), ModelError("no such model"), RunLockedError("locked")]
)
def test_corals_errors_come_out_of_a_worker_as_they_were(error: CoralError) -> None:
    arrived = travelled(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.__dict__.items() >= error.__dict__.items()
    assert "test_worker.py" in arrived.__notes__[0]


class ForeignError(ModelError):
    """An error of a plugin's own, with a value that does not travel."""

    def __init__(self) -> None:
        super().__init__("nothing to load")
        self.callback = lambda: None


@pytest.mark.parametrize("error", [ForeignError(), ValueError("nothing to load")])
def test_a_foreign_error_arrives_as_words_with_its_traceback(error: Exception) -> None:
    arrived = travelled(error)
    assert type(arrived) is WorkersError
    assert f"{type(error).__name__}: nothing to load" in str(arrived)
    assert "test_worker.py" in str(arrived)


def hold_slot(folder: Path, answers: multiprocessing.Queue[int]) -> None:
    slot, file = claim_slot(folder, 2)
    answers.put(slot)
    with file:
        signal.pause()


def test_a_killed_worker_frees_its_slot_and_no_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[int] = context.Queue()
    first, second, third = (
        context.Process(target=hold_slot, args=(tmp_path, answers), daemon=True) for _ in range(3)
    )
    first.start()
    assert answers.get(timeout=5) == 0
    second.start()
    assert answers.get(timeout=5) == 1
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    third.start()
    assert answers.get(timeout=5) == 0
    for process in (second, third):
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from coral.execution import InlineExecutor, PoolExecutor", "torch"),
        ("import coral.execution.worker", "numpy"),
    ],
)
def test_importing_stays_light(statement: str, absent: str) -> None:
    code = f"{statement}\nimport sys; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


STARTED_WORKER = """
import os, pathlib, signal, sys
from coral.execution.worker import WorkerSettings, start

start(WorkerSettings(
    factory="coral.testing.trainers:scripted_trainer",
    payload={},
    devices=("cpu",),
    threads=3,
    environment=dict(os.environ),
    folder=pathlib.Path(sys.argv[1]),
))
assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"
assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_started_worker_limits_its_threads_and_ignores_control_c(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", STARTED_WORKER, str(tmp_path)]
    assert subprocess.run(arguments, check=False).returncode == 0
