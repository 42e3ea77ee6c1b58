"""A plugin with a strategy of every kind, written as an outsider would."""

from __future__ import annotations

from pathlib import Path

THRIFTY = Path(__file__).parent / "testing" / "plugins" / "thrifty"
