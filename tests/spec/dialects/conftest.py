"""Loading a config of another trainer from its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from coral.spec import LoadedConfig, load_config
from tests.spec.configs import Faults, Load, faults_of
from tests.spec.dialects.configs import DATASET_INFO, REGISTRY


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a whole config, ``config.yml`` in the current folder, beside described data sets."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(DATASET_INFO)

    def load(text: str, **overrides: str) -> LoadedConfig:
        Path("config.yml").write_text(text)
        return load_config(Path("config.yml"), REGISTRY, overrides)

    return load


@pytest.fixture
def faults(read: Load) -> Faults:
    """The faults of a whole config."""
    return lambda text, **overrides: faults_of(lambda: read(text, **overrides))
