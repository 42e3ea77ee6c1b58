from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from coral.storage import (
    CachePaths,
    RunPaths,
    cache_root,
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
    ("value", "root"), [(None, "cache"), ("", "cache"), ("/scratch/coral", "/scratch/coral")]
)
def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, value: str | None, root: str
) -> None:
    monkeypatch.delenv("CORAL_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("CORAL_CACHE", value)
    assert cache_root() == Path(root)


def test_checkpoints_and_tasks_have_a_folder_each_in_the_cache() -> None:
    cache = CachePaths(Path("cache"))
    assert cache.checkpoints == Path("cache/checkpoints")
    assert cache.tasks == Path("cache/tasks")


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
