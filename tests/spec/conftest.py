"""Configs as the tests write them: two tasks, and a base model that no test loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coral.errors import Fault
from coral.ports import DataContext, TaskData
from coral.records import Direction
from coral.spec import LoadedConfig, load_config
from coral.tasks.registry import Plugin, Registry
from tests.spec.configs import HEAD, faults_of


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

Load = Callable[..., LoadedConfig]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a whole config, ``agnews.yaml`` in the current folder."""
    monkeypatch.chdir(tmp_path)

    def load(text: str | bytes, **overrides: str) -> LoadedConfig:
        content = text if isinstance(text, bytes) else text.encode()
        Path("agnews.yaml").write_bytes(content)
        return load_config(Path("agnews.yaml"), REGISTRY, overrides)

    return load


@pytest.fixture
def load(load_text: Load) -> Load:
    """Load a config whose first two lines, base model and tasks, are given."""
    return lambda body="", **overrides: load_text(HEAD + body, **overrides)


@pytest.fixture
def faults(load: Load) -> Callable[..., tuple[Fault, ...]]:
    """The faults of a config whose first two lines are given."""
    return lambda body="", **overrides: faults_of(lambda: load(body, **overrides))


@pytest.fixture
def faults_in_text(load_text: Load) -> Callable[..., tuple[Fault, ...]]:
    """The faults of a whole config."""
    return lambda text, **overrides: faults_of(lambda: load_text(text, **overrides))
