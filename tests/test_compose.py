"""Runs from configs: what is refused before one begins, and where its checkpoints are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import coral
from coral import compose
from coral.backends import trainer_payload
from coral.errors import ConfigError, Fault, TaskError
from coral.storage import SqliteRunStore
from tests.stored_runs import Scripted

SMALL = {"evolution.population_size": "4", "evolution.generations": "2", "soup.candidates": "0"}
SECRET = "s3://key:hush-hush@bucket/coral"


def faults(folder: Path, cache: str, overrides: dict[str, str]) -> tuple[Fault, ...]:
    text = compose.find_config("quickstart").read_text(encoding="utf-8")
    config = folder / "mine.yaml"
    config.write_text(f"cache: {cache}\n{text}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        compose.load(compose.Source(path=config), overrides)
    assert "hush" not in str(caught.value)
    return caught.value.faults


class TestACacheThatCannotBeOne:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CORAL_CACHE", raising=False)

    @pytest.mark.parametrize("mode", ["real", "simulate"])
    def test_a_secret_in_its_url_is_refused_with_its_line(self, mode: str, tmp_path: Path) -> None:
        [fault] = faults(tmp_path, SECRET, {"mode": mode})
        assert (fault.where, fault.key) == (f"{tmp_path / 'mine.yaml'}:1", "cache")

    def test_it_is_refused_where_the_environment_takes_its_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CORAL_CACHE", str(tmp_path))
        assert faults(tmp_path, SECRET, {})[0].key == "cache"

    def test_one_of_the_command_line_says_so(self, tmp_path: Path) -> None:
        [fault] = faults(tmp_path, "cache", {"cache": SECRET})
        assert (fault.where, fault.key) == ("command line", "cache")

    def test_one_of_the_environment_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CORAL_CACHE", SECRET)
        [fault] = faults(tmp_path, "cache", {})
        assert (fault.where, fault.key) == ("environment", "CORAL_CACHE")


class TestAFreshRun:
    @pytest.fixture
    def scripted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
        return Scripted(tmp_path, monkeypatch)

    def place(self, scripted: Scripted) -> Path:
        with SqliteRunStore.read_only(scripted.folder) as store:
            return scripted.cache / "checkpoints" / "fresh" / store.meta()["fresh"]

    def test_one_that_starts_keeps_its_checkpoints_apart(self, scripted: Scripted) -> None:
        scripted.start(SMALL, force_fresh=True)
        held = [file for file in self.place(scripted).rglob("*") if file.is_file()]
        assert held
        assert set(held) == {f for f in scripted.cache.rglob("*") if f.is_file()}

    def test_what_it_left_is_collected_there(self, scripted: Scripted) -> None:
        scripted.start(SMALL, force_fresh=True)
        facts = coral.gc(scripted.folder)
        assert facts["location"] == str(self.place(scripted))
        assert facts["kept"]

    def test_later_sittings_use_the_same_place(self, scripted: Scripted) -> None:
        scripted.start(SMALL, force_fresh=True)
        place = self.place(scripted)
        before = {file for file in place.rglob("*") if file.is_file()}
        scripted.resume(generations=1)
        assert self.place(scripted) == place
        assert {file for file in place.rglob("*") if file.is_file()} > before

    def test_one_that_goes_on_finds_nothing_and_deletes_nothing(self, scripted: Scripted) -> None:
        scripted.start(SMALL)
        before = {file for file in scripted.cache.rglob("*") if file.is_file()}
        scripted.resume(generations=1, force_fresh=True)
        known = {file.name for file in before}
        heirs = [j for j in scripted.jobs if {item.address for item in j.inherits} & known]
        assert heirs
        assert all(job.ancestors for job in heirs)
        held = {file for file in scripted.cache.rglob("*") if file.is_file()}
        assert before < held
        assert {file.is_relative_to(self.place(scripted)) for file in held - before} == {True}

    def test_a_run_that_may_look_finds_what_it_left(self, scripted: Scripted) -> None:
        scripted.start(SMALL)
        scripted.resume(generations=1)
        heirs = [job for job in scripted.jobs if job.inherits]
        assert heirs
        assert not any(job.ancestors for job in heirs)
        shutil.rmtree(scripted.cache)
        scripted.resume(generations=1)
        assert any(job.ancestors for job in scripted.jobs)

    def test_workers_put_where_the_run_looks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CORAL_CACHE", str(tmp_path))
        spec = compose.load(compose.Source(path=compose.find_config("quickstart")), {}).spec
        payload = trainer_payload(spec, [], "mine")
        assert payload["checkpoints"] == f"{tmp_path}/checkpoints/fresh/mine"
        assert trainer_payload(spec, [])["checkpoints"] == f"{tmp_path}/checkpoints"


def test_data_that_a_resumed_run_does_not_find_may_lie_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = "The run began in /elsewhere: resume it there"
    with pytest.raises(TaskError, match=told), compose._told_where_it_began("/elsewhere"):
        raise TaskError("no file")
    with pytest.raises(TaskError) as here, compose._told_where_it_began(str(tmp_path)):
        raise TaskError("no file")
    assert str(here.value) == "no file"
