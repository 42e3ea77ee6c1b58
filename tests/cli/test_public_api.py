"""What ``import coral`` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import coral


def test_the_public_names_are_these() -> None:
    names = {"CoralError", "__version__", "evolve", "predict", "resume", "show"}
    assert set(coral.__all__) == names == set(dir(coral))
    assert all(getattr(coral, name) is not None for name in names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'evolv'"):
        coral.evolv  # noqa: B018


def test_importing_coral_loads_no_heavy_library() -> None:
    code = (
        "import sys, coral; coral.CoralError;"
        "heavy = {'torch', 'deap', 'pydantic', 'numpy', 'yaml', 'typer', 'rich'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    root = Path(coral.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
