"""Calls that nobody has to wait for to their end."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


class OverdueError(Exception):
    """A call took too long. The message is where it stands: ``function (file:line)``."""


def within(seconds: float | None, function: Callable[[], Result], name: str) -> Result:
    """Return what a function returns.

    Args:
        seconds: longest that it may take; None for no limit.
        name: of the thread in which it runs.

    Raises:
        OverdueError: it takes longer. It is left to itself, in a thread that ends with the process.
        BaseException: what it raises.
    """
    call = _Call(function)
    thread = threading.Thread(target=call.run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise OverdueError(_place_of(thread))
    if call.error is not None:
        raise call.error
    return call.value  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Call:
    """A call and what came of it."""

    function: Callable[[], Any]
    value: Any = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)

    def run(self) -> None:
        try:
            self.value = self.function()
        except BaseException as error:  # it is raised again by the thread that waits
            self.error = error


def _place_of(thread: threading.Thread) -> str:
    """Return the line in which a thread stands; "?" if it just ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    frames = traceback.extract_stack(frame) if frame else []
    return f"{frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else "?"
