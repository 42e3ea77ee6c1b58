"""From exceptions to failures: what went wrong with a trial, as a value."""

from __future__ import annotations

import traceback

import torch

from coral.errors import StrategyError, TaskError
from coral.records import Failure, FailureKind

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "could not create a primitive",  # oneDNN, when it gets no memory for a kernel
)


class DivergedError(Exception):
    """Loss, gradients or weights are not finite. A trial's failure: it never leaves this room."""


class LostWeightsError(Exception):
    """Weights to inherit can't be read. A trial's failure: it never leaves this room."""


def failure_of(error: Exception) -> Failure:
    """Return what ``error`` means for the trial that raised it."""
    kind = _kind(error)
    text = str(error).strip() or type(error).__name__
    told = text if kind == "diverged" else f"{type(error).__name__}: {text.splitlines()[0]}"
    trace = "" if kind == "diverged" else "".join(traceback.format_exception(error))
    return Failure(kind=kind, message=told, traceback=trace)


def _kind(error: Exception) -> FailureKind:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, LostWeightsError):
        return "lost"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    if isinstance(error, RuntimeError) and any(t in str(error).lower() for t in _OUT_OF_MEMORY):
        return "oom"
    return "plugin" if isinstance(error, TaskError | StrategyError) else "crashed"
