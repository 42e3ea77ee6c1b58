"""Loading a config from its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from coral.spec import LoadedConfig, load_config
from tests.spec.configs import HEAD, REGISTRY, Faults, Load, faults_of


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
def faults(load: Load) -> Faults:
    """The faults of a config whose first two lines are given."""
    return lambda body="", **overrides: faults_of(lambda: load(body, **overrides))


@pytest.fixture
def faults_in_text(load_text: Load) -> Faults:
    """The faults of a whole config."""
    return lambda text, **overrides: faults_of(lambda: load_text(text, **overrides))
