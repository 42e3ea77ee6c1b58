from __future__ import annotations

import threading
from pathlib import Path

from coral.execution.progress import ProgressReceiver, ProgressSender
from coral.ports import Progress
from tests.execution.conftest import wait_until


def progress(step: int) -> Progress:
    return Progress(key="a", trial=1, stage="S0", step=step, end_step=9, loss=0.5)


def test_progress_arrives_in_order_and_unchanged(tmp_path: Path) -> None:
    seen: list[Progress] = []
    address = tmp_path / "progress"
    with ProgressReceiver(address, seen.append):
        sender = ProgressSender(address)
        for step in range(3):
            sender.send(progress(step))
        assert wait_until(lambda: len(seen) == 3, seconds=2)
        sender.close()
    assert seen == [progress(step) for step in range(3)]
    assert not address.exists()


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    ProgressSender(tmp_path / "nowhere").send(progress(1))


def test_a_listener_that_hangs_holds_no_sender_up(tmp_path: Path) -> None:
    release = threading.Event()
    address = tmp_path / "progress"

    def hang(_: Progress) -> None:
        release.wait()

    def send_many() -> None:
        for _ in range(5000):
            sender.send(progress(1))

    with ProgressReceiver(address, hang):
        sender = ProgressSender(address)
        flood = threading.Thread(target=send_many)
        flood.start()
        flood.join(timeout=5)
        held_up = flood.is_alive()
        release.set()
    assert not held_up
