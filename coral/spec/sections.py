"""The sections of a config, those of older ones included."""

from __future__ import annotations

from collections.abc import Mapping

from coral.settings import (
    ConfirmSettings,
    ExploitSettings,
    SoupSettings,
    SqueezeSettings,
    WarmStartSettings,
)
from coral.spec.document import KeyPath

SECTIONS = (
    "mode",
    "base_model",
    "tasks",
    "training",
    "search_space",
    "evolution",
    "warm_start",
    "exploit",
    "soup",
    "squeeze",
    "confirm",
    "training_stages",
    "prune",
    "objectives",
    "budget",
    "execution",
    "simulation",
    "cache",
    "cache_bytes",
    "prefix_bytes",
    "output_dir",
    "seed",
)
INHERITANCE: Mapping[str, type] = {
    "warm_start": WarmStartSettings,
    "exploit": ExploitSettings,
    "soup": SoupSettings,
    "squeeze": SqueezeSettings,
    "confirm": ConfirmSettings,
}
"""Sections on what is inherited and derived, read as they are."""
BYTE_COUNTS = ("cache_bytes", "prefix_bytes")
"""Keys whose value is a number of bytes, alone or with a unit."""
BYTES = r"\d+(\.\d+)? ?[kKMGT]?B"
"""How a number of bytes is written with its unit, a power of 1000."""
RETIRED: Mapping[KeyPath, str] = {
    ("evolution", "warm_start"): "It is a section now: `warm_start: {mode: crossover}`, or none.",
}
"""Keys of older configs, and what to write in their place."""
