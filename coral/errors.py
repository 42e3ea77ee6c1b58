"""Every error that Coral raises on purpose.

CoralError
├── ConfigError          exit 2   one or more faults in a config, each with its remedy
├── PlanError            exit 2   a training plan that breaks an invariant (also a ValueError)
├── GenomeError          exit 2   a gene, genome or search space that breaks one (also a ValueError)
├── TaskError            exit 2   a task plugin that can't be found, loaded or used
├── StrategyError        exit 2   a plugin's strategy that can't be found, or breaks its rules
├── ModelError           exit 2   a base model that can't be found, verified or adapted
├── NoSurvivorsError     exit 3   no trial of the first generation survived
├── RunError             exit 2   a run folder that is missing, foreign or damaged
│   └── RunLockedError   exit 4   another process works on the run
├── CheckpointError      exit 1   a checkpoint that is missing or damaged (a cache miss, normally)
└── WorkersError         exit 1   the worker processes can't be kept alive

A failing trial raises none of them: it is an ``Outcome`` with a ``Failure``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CoralError(Exception):
    """Base of all errors that Coral raises on purpose."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong in a config.

    Attributes:
        where: file and line, such as ``config/agnews.yaml:14``.
        key: dotted key as the user wrote it; empty for a fault of the whole file.
        rule: the invariant, and the value that breaks it.
        remedy: what to do about it.
    """

    where: str
    key: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{self.where}:{key} {self.rule}\n  {self.remedy}"


class ConfigError(CoralError):
    """A config with faults; all of them are reported at once."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class PlanError(CoralError, ValueError):
    """A training plan breaks an invariant."""

    exit_code = 2


class GenomeError(CoralError, ValueError):
    """A gene, genome or search space breaks an invariant."""

    exit_code = 2


class TaskError(CoralError):
    """A task plugin can't be found, loaded or used."""

    exit_code = 2


class StrategyError(CoralError):
    """A plugin's strategy can't be found, or does not keep to the rules of its kind."""

    exit_code = 2


class ModelError(CoralError):
    """A base model can't be found, verified or adapted."""

    exit_code = 2


class NoSurvivorsError(CoralError):
    """No trial of the first generation survived, so there is nothing to evolve."""

    exit_code = 3


class RunError(CoralError):
    """A run folder is missing, foreign or damaged."""

    exit_code = 2


class RunLockedError(RunError):
    """Another process works on the run."""

    exit_code = 4


class CheckpointError(CoralError):
    """A checkpoint is missing or damaged."""


class WorkersError(CoralError):
    """The worker processes can't be kept alive."""
