from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from coral.errors import ConfigError
from coral.storage import (
    RunPaths,
    cache_location,
    check_location,
    next_free,
    replace_folder,
    write_json_durably,
    write_text_durably,
)


def test_everything_of_a_run_has_its_own_place_in_the_runs_folder(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    names = [name for name, item in vars(RunPaths).items() if isinstance(item, property)]
    places = [getattr(paths, name) for name in names]
    assert {place.parent for place in places} == {tmp_path}
    assert len(set(places)) == len(names) == 6
    assert [field.name for field in dataclasses.fields(paths)] == ["folder"]


def test_the_first_free_sibling_is_numbered(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "agnews-2024.1"
    names = []
    for _ in range(3):
        free = next_free(folder)
        free.mkdir(parents=True)
        names.append(free.name)
    assert names == ["agnews-2024.1", "agnews-2024.1-2", "agnews-2024.1-3"]


def test_a_file_or_a_dangling_link_takes_a_name_too(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    (tmp_path / "run-2").write_text("")
    assert next_free(tmp_path / "run") == tmp_path / "run-3"


@pytest.mark.parametrize(
    ("environment", "configured", "root"),
    [
        (None, "", "cache"),
        ("", "", "cache"),
        (None, "scratch", "scratch"),
        ("fast", "scratch", "fast"),
        ("fast", "s3://bucket/coral", "fast"),
        ("/scratch/coral", "", "/scratch/coral"),
    ],
)
def test_the_cache_is_where_the_environment_says_else_the_config(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: str | None,
    configured: str,
    root: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CORAL_CACHE", raising=False)
    if environment is not None:
        monkeypatch.setenv("CORAL_CACHE", environment)
    cache = cache_location(configured)
    assert cache.checkpoints == str(tmp_path / root / "checkpoints")
    assert cache.tasks == tmp_path / root / "tasks"
    assert cache.tokens == tmp_path / root / "tokens"


@pytest.mark.parametrize("root", ["s3://bucket", "gs://bucket/coral/", "az://container/coral"])
def test_a_remote_cache_keeps_what_tasks_collect_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CORAL_CACHE", raising=False)
    in_config = cache_location(root)
    monkeypatch.setenv("CORAL_CACHE", root)
    for cache in (in_config, cache_location("scratch")):
        assert cache.checkpoints == root.rstrip("/") + "/checkpoints"
        assert cache.tasks == tmp_path / "cache" / "tasks"
        assert cache.tokens == tmp_path / "cache" / "tokens"


def test_a_cache_may_lie_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CORAL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_location("~/coral").root == str(tmp_path / "coral")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://AKIA:SECRET@bucket/x", "s3://***@bucket/x"),
        ("s3://AKIA:SEC/RET@bucket/x", "s3://***@bucket/x"),
        ("s3://AKIA:SEC?RET@bucket/x", "s3://***@bucket/x"),
        ("s3://SECRET@bucket?token=SECRET", "s3://***@bucket?***"),
        ("az://container/x?sig=SECRET", "az://container/x?***"),
        ("gs://bucket/x#SECRET", "gs://bucket/x?***"),
        ("ftp://me:SECRET@host/x", "***@host/x"),
        ("SECRET@s3://bucket", "***@s3://bucket"),
        ("s3://AKIA:SEC\nRET@bucket", "s3://***@bucket"),
    ],
)
@pytest.mark.parametrize("where", ["config", "environment"])
def test_a_url_with_more_than_a_bucket_and_a_folder_is_refused_and_its_secret_masked(
    monkeypatch: pytest.MonkeyPatch, location: str, shown: str, where: str
) -> None:
    monkeypatch.setenv("CORAL_CACHE", location if where == "environment" else "elsewhere")
    with pytest.raises(ConfigError) as caught:
        cache_location(location if where == "config" else "")
    key = {"config": "cache", "environment": "CORAL_CACHE"}[where]
    assert str(caught.value) == (
        f"{where}: {key}: a cache's URL must hold no user name, password, query or fragment,"
        f" got {shown}.\n"
        "  Leave them out; credentials come from the environment (docs/checkpoints.md)."
    )


@pytest.mark.parametrize(
    "location", ["ftp://host/x", "S3://bucket", "file:///scratch", "simplecache::s3://bucket"]
)
def test_an_unknown_scheme_is_refused_with_those_that_work(location: str) -> None:
    with pytest.raises(ConfigError, match=r"starts with s3://, gs:// or az://, got"):
        cache_location(location)


@pytest.mark.parametrize("location", ["s3://", "s3:///", "gs:///folder"])
def test_a_url_without_a_bucket_is_refused(location: str) -> None:
    with pytest.raises(ConfigError, match="must name a bucket"):
        cache_location(location)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    check_location(str(tmp_path / "a@b?c#d"), where="test")


def test_text_and_json_are_written_as_they_are(tmp_path: Path) -> None:
    write_text_durably(tmp_path / "deep" / "a.txt", "naïve\n")
    write_json_durably(tmp_path / "a.json", {"b": [1, "ü"], "a": None})
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "naïve\n".encode()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "b": [1, "ü"],
        "a": None,
    }
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_durably(tmp_path / "a.json", math.nan)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    write_text_durably(tmp_path / "a.txt", "old")
    with file_size_limit(10), pytest.raises(OSError, match="too large"):
        write_text_durably(tmp_path / "a.txt", "new" * 1000)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text_durably(tmp_path / "a.txt", "shared")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_finished_draft_takes_the_folders_place_whole(tmp_path: Path) -> None:
    draft, folder = tmp_path / ".champion.tmp", tmp_path / "champion"
    for place, text in ((draft, "new"), (folder, "old")):
        (place / "inner").mkdir(parents=True)
        (place / "inner" / "a.txt").write_text(text)
    (folder / "left.txt").write_text("over")
    replace_folder(draft, folder)
    assert not draft.exists()
    assert [path.name for path in folder.rglob("*")] == ["inner", "a.txt"]
    assert (folder / "inner" / "a.txt").read_text() == "new"
