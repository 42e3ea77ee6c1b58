"""Configs as the tests write them: two tasks, and a base model that no test loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coral.errors import ConfigError, Fault
from coral.ports import DataContext, TaskData
from coral.records import Direction
from coral.spec import LoadedConfig
from coral.tasks.registry import Plugin, Registry

Faults = Callable[..., tuple[Fault, ...]]
Load = Callable[..., LoadedConfig]

HEAD = """\
base_model: org/encoder
tasks: [origin, kind]
"""
"""The first two lines, so that a test's own begin at line 3."""


class NamedTask:
    """A task that is never loaded; ``origin`` has a metric of its own."""

    def __init__(self, name: str, *, train_examples: int = 100, shuffle: bool = True) -> None:
        self.name = name
        self.primary_metric = "auroc"
        self.metrics: Mapping[str, Direction] = {"auroc": "max", "log_loss": "min"}
        if name == "origin":
            self.metrics = {**self.metrics, "recall": "max"}

    def load(self, context: DataContext) -> TaskData:
        raise NotImplementedError

    def score(
        self, labels: NDArray[np.int64], probabilities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        raise NotImplementedError


def _origin(**options: Any) -> NamedTask:
    return NamedTask("origin", **options)


def _kind(*, train_examples: int = 100, shuffle: bool = True) -> NamedTask:
    return NamedTask("kind", train_examples=train_examples, shuffle=shuffle)


REGISTRY = Registry(
    plugins=(Plugin(name="test", origin="here", tasks={"origin": _origin, "kind": _kind}),)
)


def faults_of(load: Callable[[], object]) -> tuple[Fault, ...]:
    """Return the faults that keep a config from loading."""
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.exit_code == 2
    return caught.value.faults


def only(faults: tuple[Fault, ...]) -> Fault:
    """Return the one fault."""
    assert len(faults) == 1, "\n".join(map(str, faults))
    return faults[0]
