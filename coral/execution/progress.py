"""Signs of life from the workers to the parent.

JSON datagrams over a Unix socket: no lock is shared and no send ever waits, so that a worker killed
in the middle of anything can't hold up the others. A full queue drops datagrams; progress is only
for the eyes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coral.ports import Progress

_LARGEST_DATAGRAM_BYTES = 4096
_POLL_SECONDS = 0.2


class ProgressReceiver:
    """Hands each progress record that arrives at ``address`` to ``on_progress``.

    The callback runs in a thread of this object's own, from ``__enter__`` to ``__exit__``.
    """

    def __init__(self, address: Path, on_progress: Callable[[Progress], None]) -> None:
        """Name the socket; it is bound on entry.

        Args:
            address: a file that does not exist yet. The path must fit in about 100 bytes.
        """
        self._address = address
        self._on_progress = on_progress
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="coral-progress", daemon=True)

    def __enter__(self) -> ProgressReceiver:
        self._socket.settimeout(_POLL_SECONDS)
        self._socket.bind(str(self._address))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()
        self._address.unlink(missing_ok=True)

    def _receive(self) -> None:
        from coral.ports import Progress

        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                datagram = self._socket.recv(_LARGEST_DATAGRAM_BYTES)
                self._on_progress(Progress(**json.loads(datagram)))


class ProgressSender:
    """Sends progress records to a receiver, which need not be there."""

    def __init__(self, address: Path) -> None:
        self._address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, progress: Progress) -> None:
        """Send without waiting; a record that can't be delivered at once is lost."""
        with contextlib.suppress(OSError):
            self._socket.sendto(json.dumps(asdict(progress)).encode(), self._address)

    def close(self) -> None:
        self._socket.close()
