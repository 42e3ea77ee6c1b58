"""What a run takes from the Hugging Face hub, and whether this machine has it or can reach it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coral.errors import ModelError, TaskError
from coral.settings import RunSpec
from coral.spec import locate
from coral.storage import cache_location

Kind = Literal["model", "data"]
State = Literal["here", "reachable", "refused", "out of reach"]

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
HUB_FILE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(@[^/]*)?/.+")
DATA_FILES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".txt")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
SECONDS = 5.0
"""Longest that the hub is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubNeed:
    """Something that a config names by its hub id.

    Attributes:
        name: the hub id.
        key: of the config that names it.
    """

    kind: Kind
    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a hub id stands.

    Attributes:
        state: ``here`` on this machine; ``reachable`` over the network; ``refused`` by the hub,
            which knows no such name, or asks for permission; else ``out of reach``.
        told: what the hub or the network answered.
        parameters: of a reachable model, if the hub tells.
    """

    state: State
    told: str = ""
    parameters: int | None = None


def hub_needs(spec: RunSpec) -> tuple[HubNeed, ...]:
    """Return what a run takes from the hub: its base model, and data that a task names by path.

    A base model that isn't where the config says is none of the hub's.
    """
    needs = []
    try:
        if locate(spec.base_model) is None:
            needs.append(HubNeed(kind="model", name=spec.base_model, key="base_model"))
    except ModelError:
        pass
    for i, task in enumerate(spec.tasks):
        name = hub_data(str(task.options.get("path", "")))
        if name is not None:
            needs.append(HubNeed(kind="data", name=name, key=f"tasks[{i}].path"))
    return tuple(needs)


def out_of_reach(spec: RunSpec) -> dict[HubNeed, Standing]:
    """Return what a run takes from the hub that is neither here nor to be had at the moment."""
    found = {need: standing(need, spec.cache) for need in hub_needs(spec)}
    return {need: told for need, told in found.items() if told.state == "out of reach"}


def require_within_reach(spec: RunSpec) -> None:
    """Check that what a run takes from the hub is here or can be had.

    Raises:
        ModelError: the model is out of reach.
        TaskError: so are data.
    """
    for need, found in out_of_reach(spec).items():
        error = ModelError if need.kind == "model" else TaskError
        raise error(
            f"{need.key}: {need.name} is not on this machine, and the hub is out of reach:"
            f" {found.told}.\nConnect, fetch it into the Hugging Face cache, or name a local folder"
            " or file."
        )


def hub_data(path: str) -> str | None:
    """Return the hub id of a task's data; None where they lie elsewhere.

    >>> hub_data("ag_news"), hub_data("hf://datasets/org/data/train.jsonl"), hub_data("data.csv")
    ('ag_news', 'org/data', None)
    """
    if inside := HUB_FILE.fullmatch(path):
        return inside.group(1)
    if not HUB_ID.fullmatch(path) or Path(path).suffix in DATA_FILES or Path(path).exists():
        return None
    return path


def standing(need: HubNeed, cache: str = "") -> Standing:
    """Return whether something of the hub is on this machine, or can be reached.

    Args:
        cache: the config's ``cache``, in which data are kept once they were read.
    """
    if need.kind == "model" and model_folder(need.name) is not None:
        return Standing(state="here")
    if need.kind == "data":
        kept = cache_location(cache).tasks / "datasets" / need.name.replace("/", "___")
        if kept.is_dir():
            return Standing(state="here")
    return _asked(need)


def model_folder(name: str) -> Path | None:
    """Return the folder of a hub model in the Hugging Face cache; None if it isn't there whole."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found: Mapping[str, object] = {
            file: try_to_load_from_cache(name, file) for file in ("config.json", *WEIGHTS)
        }
    except HFValidationError:
        return None
    config = found["config.json"]
    if isinstance(config, str) and any(isinstance(found[file], str) for file in WEIGHTS):
        return Path(config).parent
    return None


def _asked(need: HubNeed) -> Standing:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if need.kind == "data":
            HfApi().dataset_info(need.name, timeout=SECONDS)
            return Standing(state="reachable")
        weights = HfApi().model_info(need.name, timeout=SECONDS).safetensors
        return Standing(state="reachable", parameters=weights.total if weights else None)
    except HFValidationError as error:
        return Standing(state="refused", told=_first_line(error))
    except HfHubHTTPError as error:
        answered = 400 <= error.response.status_code < 500
        return Standing(state="refused" if answered else "out of reach", told=_first_line(error))
    except Exception as error:  # the classes of what networks do differ by the client's version
        return Standing(state="out of reach", told=_first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
