"""What ``import coral`` offers, and what it costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import coral


def test_the_public_names_are_these() -> None:
    functions = {
        "calibrate",
        "compare",
        "evolve",
        "gc",
        "lineage",
        "predict",
        "record",
        "resume",
        "show",
    }
    names = {"CoralError", "__version__", *functions}
    assert set(coral.__all__) == names == set(dir(coral))
    assert all(getattr(coral, name) is not None for name in names)


def test_the_version_is_that_of_the_installed_distribution() -> None:
    try:
        expected = metadata.version("coral-lora")
    except metadata.PackageNotFoundError:
        expected = "0+unknown"
    assert coral.__version__ == expected


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'evolv'"):
        coral.evolv  # noqa: B018


def test_importing_coral_loads_no_heavy_library() -> None:
    code = (
        "import sys, coral; coral.CoralError;"
        "heavy = {'torch', 'deap', 'pydantic', 'numpy', 'yaml', 'typer', 'rich',"
        " 'importlib.metadata'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    root = Path(coral.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


def test_no_submodule_hides_a_public_function() -> None:
    for module in pkgutil.walk_packages(coral.__path__, "coral."):
        if not module.name.startswith(("coral.training", "coral.__main__", "coral.testing")):
            importlib.import_module(module.name)
    assert all(callable(getattr(coral, name)) for name in coral.__all__ if name[0] != "_")
