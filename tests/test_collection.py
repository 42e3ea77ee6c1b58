"""``coral gc`` on stored runs: their checkpoints are real files, their training plays a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import coral
from coral import compose
from coral.cli.app import app
from coral.errors import CheckpointError, RunError
from coral.storage import FsspecCheckpointStore, run_lock
from tests.stored_runs import Scripted

SMALL = {"evolution.population_size": "6", "evolution.generations": "3", "soup.candidates": "2"}


def files(cache: Path) -> dict[str, int]:
    found = (cache / "checkpoints").rglob("*")
    return {file.name: file.stat().st_size for file in found if file.is_file()}


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.chdir(tmp_path)
    made = Scripted(tmp_path, monkeypatch)
    made.start(SMALL)
    return made


def gc(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["gc", "run", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def addresses(rows: list[dict[str, Any]]) -> set[str]:
    return {row["address"] for row in rows}


def test_what_nobody_needs_goes_and_the_rest_stays(scripted: Scripted) -> None:
    before = files(scripted.cache)
    facts = coral.gc("run")
    assert facts["removed"]
    assert facts["kept"]
    assert {row["use"] for row in facts["removed"]} == {"unused"}
    assert "unused" not in {row["use"] for row in facts["kept"]}
    assert addresses(facts["removed"]) | addresses(facts["kept"]) == before.keys()
    after = files(scripted.cache)
    assert after.keys() == addresses(facts["kept"])
    assert facts["kept_bytes"] == sum(after.values())
    assert facts["removed_bytes"] == sum(before.values()) - sum(after.values())
    assert facts["location"] == str(scripted.cache / "checkpoints")
    assert coral.gc("run")["removed"] == []


def test_a_dry_run_says_the_same_and_changes_nothing(scripted: Scripted) -> None:
    before = files(scripted.cache)
    told = json.loads(gc("--dry-run", "--json")[1])
    assert files(scripted.cache) == before
    assert told == {**coral.gc("run"), "dry_run": True}


def test_a_limit_takes_more_down_to_what_is_handed_over(scripted: Scripted) -> None:
    total = sum(files(scripted.cache).values())
    facts = coral.gc("run", limit=total)
    assert facts["removed"] == []
    code, _, _ = gc("--bytes", f"{total // 3 / 1000}kB")
    assert code == 0
    assert sum(files(scripted.cache).values()) <= total // 3
    coral.gc("run", limit=0)
    left = coral.gc("run")["kept"]
    assert {row["use"] for row in left} == {"queued"}
    assert files(scripted.cache).keys() == addresses(left)


def test_a_run_goes_on_after_it(scripted: Scripted) -> None:
    coral.gc("run", limit=0)
    scripted.resume(generations=1)
    facts = coral.show("run")
    assert (facts["status"], facts["generation"]) == ("finished", 4)


def test_rematches_of_an_earlier_confirmation_are_found(scripted: Scripted) -> None:
    scripted.resume(generations=3)  # by then another genome is ahead
    facts = coral.gc("run", dry_run=True)
    assert files(scripted.cache).keys() == addresses([*facts["removed"], *facts["kept"]])
    earlier = [row for row in facts["removed"] if row["reason"] == "of an earlier confirmation"]
    assert {row["stage"] for row in earlier} == {None}


def test_the_screen_tells_what_goes_why_and_what_stays(scripted: Scripted) -> None:
    facts = coral.gc("run", dry_run=True)
    code, out, _ = gc("--dry-run")
    assert code == 0
    rows = [line for line in out.splitlines() if "in nothing that is left" in line]
    assert len(rows) == sum("in nothing" in row["reason"] for row in facts["removed"])
    assert f"would go  {len(facts['removed'])} checkpoints, " in out
    assert f"stay  {len(facts['kept'])} checkpoints, " in out
    assert "of the population" in out
    assert out.splitlines()[-1] == "next: coral gc run"
    assert f"removed  {len(facts['removed'])} checkpoints, " in gc()[1]


def test_a_run_that_another_process_works_on_is_refused(scripted: Scripted) -> None:
    before = files(scripted.cache)
    with run_lock(scripted.folder):
        code, out, errors = gc()
        assert (code, out) == (4, "")
        assert "one process at a time" in errors
        assert gc("--dry-run")[0] == 0
    assert files(scripted.cache) == before


def test_a_simulated_run_has_nothing_to_collect(tmp_path: Path) -> None:
    source = compose.Source(path=compose.find_config("quickstart"))
    folder = {"output_dir": str(tmp_path / "run"), "mode": "simulate", "cache_bytes": "1"}
    config = compose.load(source, SMALL | folder)
    compose.start_run(config, source, compose.SilentObserver())
    facts = coral.gc(tmp_path / "run")
    assert (facts["simulated"], facts["removed"], facts["kept"]) == (True, [], [])
    out = CliRunner().invoke(app, ["gc", str(tmp_path / "run")]).stdout
    assert "was simulated: it wrote no checkpoints" in out


@pytest.mark.parametrize("size", ["50x", "-1", "much"])
def test_a_size_that_is_none_is_refused(size: str, scripted: Scripted) -> None:
    code, _, errors = gc("--bytes", size)
    assert code == 2
    assert "must be a number of bytes" in errors


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        coral.gc(tmp_path / "nowhere")


def test_a_cache_that_cannot_be_reached_is_reported(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CheckpointError("the cache can't be looked up.")

    monkeypatch.setattr(FsspecCheckpointStore, "size", refuse)
    code, _, errors = gc()
    assert code == 1
    assert errors == "coral: the cache can't be looked up.\n"
