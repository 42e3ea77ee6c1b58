from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from coral.errors import RunError, RunLockedError
from coral.storage import RunPaths, is_locked, run_lock

HOLDER = """
import sys, time
from pathlib import Path
from coral.storage import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that holds the run in ``tmp_path``; whoever asks for it ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_at_once_who_holds_the_run(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with holder:
        start = time.monotonic()
        with (
            pytest.raises(RunLockedError, match=rf"process {holder.pid} does.\nWait for it"),
            run_lock(tmp_path),
        ):
            pass
        assert time.monotonic() - start < 1
        holder.kill()


def test_a_kill_frees_the_run(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with holder:
        holder.kill()
    assert RunPaths(tmp_path).pid.read_text() == f"{holder.pid}\n"
    with run_lock(tmp_path):
        assert RunPaths(tmp_path).pid.read_text() == f"{os.getpid()}\n"


def test_a_holder_that_left_no_readable_pid_is_reported_without_it(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with holder:
        RunPaths(tmp_path).pid.write_text("")
        with pytest.raises(RunLockedError, match="another one does"), run_lock(tmp_path):
            pass
        holder.kill()


def test_the_run_is_free_again_after_the_block_even_if_it_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    assert not RunPaths(tmp_path).pid.exists()
    with run_lock(tmp_path):
        pass


def test_a_second_lock_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(RunLockedError, match=f"process {os.getpid()} does"),
        run_lock(tmp_path),
    ):
        pass


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is none"), run_lock(tmp_path / "typo"):
        pass
    assert not (tmp_path / "typo").exists()


def test_a_folder_that_cannot_be_written_is_reported(
    shared_folder: Path, without_write_permission: Callable[[], AbstractContextManager[None]]
) -> None:
    with (
        without_write_permission(),
        pytest.raises(RunError, match="Permission denied"),
        run_lock(shared_folder),
    ):
        pass


def test_asking_whether_a_run_is_locked_changes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert not any(tmp_path.iterdir())
    with run_lock(tmp_path):
        held = RunPaths(tmp_path).pid.read_text()
        assert is_locked(tmp_path)
        assert RunPaths(tmp_path).pid.read_text() == held
    assert not is_locked(tmp_path)
