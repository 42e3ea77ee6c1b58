"""Profiles on disk: the bundled ones, and those that ``coral calibrate`` writes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from coral.errors import ConfigError, Fault
from coral.simulation.profile import Profile, TaskProfile
from coral.spec.document import dump_yaml, read_document
from coral.spec.fields import Reader, suggestion

BUNDLED = Path(__file__).parent / "profiles"


def find_profile(name: str) -> Path:
    """Return the path of a profile: a file, or a bundled one by its name.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name)
    bundled = BUNDLED / f"{name}.yaml"
    if path.is_file() or bundled.is_file():
        return path if path.is_file() else bundled
    names = tuple(sorted(file.stem for file in BUNDLED.glob("*.yaml")))
    title = "Name a file that `coral calibrate` wrote, or a bundled profile"
    fault = Fault(
        where=name,
        key="simulation.profile",
        rule=f"there is no such profile, got {name}.",
        remedy=suggestion(name, names, title),
    )
    raise ConfigError([fault])


def read_profile(path: Path) -> Profile:
    """Read and check a profile.

    Raises:
        ConfigError: with every fault at once.
    """
    reader = Reader(read_document(path, "profile"))
    profile = reader.record(Profile, reader.document.data, ())
    if profile is None:
        raise ConfigError(reader.faults)
    return profile


def dump_profile(profile: Profile) -> str:
    """Return a profile as YAML that ``read_profile`` reads back."""
    return dump_yaml(_plain(asdict(profile)))


def _plain(value: Any) -> Any:
    """Turn tuples into lists, and shorten floats to six significant digits."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value


def read_task_profile(path: Path) -> TaskProfile:
    """Read the profile that a task plugin ships. Raises as ``read_profile`` does."""
    reader = Reader(read_document(path, "profile"))
    profile = reader.record(TaskProfile, reader.document.data, ())
    if profile is None:
        raise ConfigError(reader.faults)
    return profile
