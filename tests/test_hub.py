"""What a run takes from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coral.errors import ModelError, TaskError
from coral.hub import (
    HubNeed,
    hub_data,
    hub_needs,
    model_folder,
    out_of_reach,
    require_within_reach,
    standing,
)
from coral.settings import RunSpec, TaskSettings
from tests.hubs import NOWHERE, PARAMETERS, point_at, serving

MODEL = HubNeed(kind="model", name="org/model", key="base_model")
DATA = HubNeed(kind="data", name="org/data", key="tasks[0].path")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with serving() as address:
        point_at(address, tmp_path, monkeypatch)
        yield


def spec(base_model: str, *paths: str) -> RunSpec:
    tasks = [TaskSettings(name=f"t{i}", options={"path": p}) for i, p in enumerate(paths)]
    return RunSpec(
        name="run", base_model=base_model, tasks=(*tasks, TaskSettings(name="docstring_kind"))
    )


def test_what_a_run_takes_from_the_hub_is_named_with_its_key() -> None:
    found = hub_needs(spec("org/model", "data.csv", "org/data", "https://host/a.csv"))
    assert [(need.kind, need.name, need.key) for need in found] == [
        ("model", "org/model", "base_model"),
        ("data", "org/data", "tasks[1].path"),
    ]


@pytest.mark.parametrize(
    "path", ["./data", "/data", "~/data", "a/b/c", "data/*.csv", "data.jsonl", "s3://a/b", ""]
)
def test_data_that_lie_elsewhere_are_none_of_the_hubs(path: str) -> None:
    assert hub_data(path) is None


def test_a_folder_on_this_machine_is_none_of_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "data").mkdir(parents=True)
    assert hub_data("org/data") is None


def test_a_model_that_isnt_where_the_config_says_is_none_of_the_hubs() -> None:
    assert hub_needs(spec("./nowhere")) == ()


@pytest.mark.usefixtures("hub")
def test_the_hub_tells_of_what_it_has_and_what_it_has_not() -> None:
    found = standing(MODEL)
    assert (found.state, found.parameters) == ("reachable", PARAMETERS)
    assert standing(DATA).state == "reachable"
    assert standing(HubNeed(kind="model", name="org/none", key="base_model")).state == "refused"
    assert out_of_reach(spec("org/model", "org/none")) == {}


def test_without_a_network_a_hub_id_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(NOWHERE, tmp_path, monkeypatch)
    away = out_of_reach(spec("org/model", "org/data"))
    assert list(away) == [MODEL, DATA]
    assert all(found.told for found in away.values())


def test_what_is_in_a_cache_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(NOWHERE, tmp_path, monkeypatch)
    snapshot = tmp_path / "hub" / "models--org--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "hub" / "models--org--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert model_folder("org/model") is None  # without weights
    (snapshot / "model.safetensors").touch()
    assert model_folder("org/model") == snapshot
    assert standing(MODEL).state == "here"
    (tmp_path / "cache" / "tasks" / "datasets" / "org___data").mkdir(parents=True)
    assert standing(DATA).state == "here"


@pytest.mark.parametrize(
    ("model", "path", "error", "told"),
    [
        ("org/model", "data.csv", ModelError, "base_model: org/model is not on this machine"),
        (".", "org/data", TaskError, r"tasks\[0\].path: org/data is not on this machine"),
    ],
)
def test_what_is_needed_and_out_of_reach_is_one_clear_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    path: str,
    error: type[Exception],
    told: str,
) -> None:
    point_at(NOWHERE, tmp_path, monkeypatch)
    with pytest.raises(error, match=told):
        require_within_reach(spec(model, path))
