"""Where the bundled plugins and configs lie, in a wheel and in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def bundled_folder(kind: Literal["plugins", "config"]) -> Path:
    """Return the folder of the bundled ``kind``: inside a wheel's package, else beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "bundled" / kind
    return inside if inside.is_dir() else package.parent / kind
