from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from coral.errors import RunError
from coral.records import Event, GenerationFinished, GenerationStarted, Outcome, StageFinished
from coral.storage import RunPaths, SqliteRunStore

Limit = Callable[[int], AbstractContextManager[None]]
Denial = Callable[[], AbstractContextManager[None]]

WRITER = """
import sys
from pathlib import Path
from coral.records import Outcome, StageFinished
from coral.storage import SqliteRunStore

def event(number):
    return StageFinished(trial=number, outcome=Outcome(key="k" * 64, stage=0))

folder, batch, total = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with SqliteRunStore.open(folder) as store:
    for first in range(0, total, batch):
        store.append_many([event(first + place) for place in range(batch)])
        print(first + batch, flush=True)
"""


def start_writer(folder: Path, *, batch: int, total: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(batch), str(total)],
        stdout=subprocess.PIPE,
        text=True,
    )


def stage_finished(trial: int) -> StageFinished:
    return StageFinished(trial=trial, outcome=Outcome(key="k", stage=0))


def trials_of(store: SqliteRunStore) -> list[int]:
    return [event.trial for event in store.events() if isinstance(event, StageFinished)]


def raw(folder: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(RunPaths(folder).database, isolation_level=None))


def test_events_and_meta_come_back_after_reopening(folder: Path, events: tuple[Event, ...]) -> None:
    with SqliteRunStore.open(folder) as store:
        for event in events:
            store.append(event)
    with SqliteRunStore.open(folder) as store:
        assert repr(list(store.events())) == repr(list(events))
        assert store.meta() == {"coral": "1.0", "name": "quickstart"}


def test_entries_carry_sequence_and_time_and_begin_after_a_given_one(tmp_path: Path) -> None:
    times = iter([10.0, 20.0])
    with SqliteRunStore.create(tmp_path, {}, clock=lambda: next(times)) as store:
        store.append(stage_finished(5))
        store.append_many([stage_finished(6), stage_finished(7)])
        assert [(entry.sequence, entry.recorded_at) for entry in store.entries()] == [
            (1, 10.0),
            (2, 20.0),
            (3, 20.0),
        ]
        assert [entry.event for entry in store.entries(after=2)] == [stage_finished(7)]


def test_a_log_longer_than_a_page_comes_back_whole_and_in_order(folder: Path) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append_many([stage_finished(number) for number in range(1234)])
        assert trials_of(store) == list(range(1234))


def test_a_run_is_never_created_over_another(folder: Path) -> None:
    with pytest.raises(RunError, match=r"needs a folder without one.\nResume this run"):
        SqliteRunStore.create(folder, {})


def test_creating_leaves_the_database_alone_in_its_folder(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["run.sqlite"]


def test_creating_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="can't be created"):
        SqliteRunStore.create(tmp_path / "runs" / "quickstart", {})


def test_acknowledged_events_survive_a_kill(folder: Path) -> None:
    with start_writer(folder, batch=1, total=1_000_000) as writer:
        assert writer.stdout is not None
        for _ in range(100):
            writer.stdout.readline()
        writer.kill()
        acknowledged = max([100, *map(int, writer.stdout.read().split("\n")[:-1])])
    with SqliteRunStore.open(folder) as store:
        trials = trials_of(store)
        store.append(stage_finished(len(trials)))
        assert trials_of(store) == list(range(len(trials) + 1))
    assert len(trials) >= acknowledged


def test_a_batch_is_stored_whole_or_not_at_all_when_killed(folder: Path) -> None:
    with start_writer(folder, batch=200, total=1_000_000) as writer:
        assert writer.stdout is not None
        for _ in range(5):
            writer.stdout.readline()
        writer.kill()
    with SqliteRunStore.open(folder) as store:
        assert len(trials_of(store)) % 200 == 0
        assert len(trials_of(store)) >= 1000


def test_a_reader_follows_a_writer_without_stopping_it(folder: Path) -> None:
    total = 300
    with start_writer(folder, batch=1, total=total) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with SqliteRunStore.read_only(folder) as store:
            seen: list[int] = []
            looks = 0
            while len(seen) < total:
                assert writer.poll() in (None, 0)
                seen += [entry.event.trial for entry in store.entries(after=len(seen))]  # type: ignore[union-attr]
                looks += 1
    assert seen == list(range(total))
    assert looks > 1
    assert writer.returncode == 0


def test_a_reader_that_dawdles_does_not_stop_the_writer(folder: Path) -> None:
    with SqliteRunStore.open(folder) as store, raw(folder) as reader:
        store.append(stage_finished(0))
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        store.append(stage_finished(1))
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_a_reader_needs_no_permission_to_write_in_a_closed_run(
    shared_folder: Path, without_write_permission: Denial
) -> None:
    with SqliteRunStore.create(shared_folder, {}) as store:
        store.append(stage_finished(4))
    with without_write_permission(), SqliteRunStore.read_only(shared_folder) as reader:
        assert trials_of(reader) == [4]


def test_a_reader_needs_no_permission_to_write_in_an_open_run(
    shared_folder: Path, without_write_permission: Denial
) -> None:
    with SqliteRunStore.create(shared_folder, {}) as store:
        store.append(stage_finished(4))
        with without_write_permission(), SqliteRunStore.read_only(shared_folder) as reader:
            assert trials_of(reader) == [4]
        store.append(stage_finished(5))


def test_a_reader_cannot_append(folder: Path) -> None:
    with (
        SqliteRunStore.read_only(folder) as store,
        pytest.raises(RunError, match=r"readonly database.\nOpen the run for writing"),
    ):
        store.append(stage_finished(0))


def test_a_write_that_fails_is_reported_and_leaves_the_events_before_it(
    folder: Path, file_size_limit: Limit
) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append(stage_finished(0))
        with (
            file_size_limit(100_000),
            pytest.raises(RunError, match=r"run.sqlite: the database can't be written: .*\n"),
        ):
            store.append_many([stage_finished(number) for number in range(1000)])
        assert trials_of(store) == [0]
        store.append(stage_finished(1))
        assert trials_of(store) == [0, 1]


def leave_missing(database: Path) -> None:
    database.unlink()


def leave_empty(database: Path) -> None:
    database.write_bytes(b"")


def leave_text(database: Path) -> None:
    database.write_text("trial,auroc\n0,0.9\n" * 100)


def leave_foreign(database: Path) -> None:
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE events (sequence INTEGER)")
        connection.execute("PRAGMA application_id = 7")


def leave_newer(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("opening", [SqliteRunStore.open, SqliteRunStore.read_only])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (leave_missing, r"must hold run.sqlite, and there is none.\nCheck the path"),
        (leave_empty, r"database is empty, so the run is lost.\nRestore the file"),
        (leave_text, r"file is not a database.\nCheck that the path is a run's folder"),
        (leave_foreign, r"must be Coral's \(application id \d+\), got 7.\nCheck that the path"),
        (leave_newer, r"version must be at most 2, got 99.\nA newer Coral wrote it; upgrade"),
    ],
)
def test_a_file_that_is_no_run_of_ours_is_refused_with_a_remedy(
    folder: Path,
    opening: Callable[[Path], SqliteRunStore],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    database = RunPaths(folder).database
    damage(database)
    before = database.read_bytes() if database.exists() else None
    with pytest.raises(RunError, match=message):
        opening(folder)
    assert (database.read_bytes() if database.exists() else None) == before


def test_a_truncated_database_is_reported_as_damaged(folder: Path) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append_many([stage_finished(number) for number in range(500)])
    database = RunPaths(folder).database
    database.write_bytes(database.read_bytes()[:20_000])
    with (
        pytest.raises(RunError, match=r"malformed.\nRestore the file from a copy"),
        SqliteRunStore.open(folder) as store,
    ):
        list(store.events())


@pytest.mark.parametrize(
    "change",
    ["payload = '{'", "payload = '{}'", "payload = CAST(x'ff' AS TEXT)", "kind = 'party'"],
)
def test_a_damaged_event_is_reported_with_a_remedy(folder: Path, change: str) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append_many([stage_finished(0), stage_finished(1)])
    with raw(folder) as connection:
        connection.execute(f"UPDATE events SET {change} WHERE sequence = 2")
    with (
        SqliteRunStore.open(folder) as store,
        pytest.raises(RunError, match=r"(?s)run.sqlite: .* can't be read: .*\nRestore the file"),
    ):
        list(store.events())


def test_every_append_is_synced_to_the_disk(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from coral.storage import SqliteRunStore\n"
        "from coral.records import Outcome, StageFinished\n"
        "store = SqliteRunStore.open(pathlib.Path(sys.argv[1]))\n"
        "for trial in range(20):\n"
        "    store.append(StageFinished(trial=trial, outcome=Outcome(key='k', stage=0)))\n"
    )
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
    try:
        subprocess.run([*strace, sys.executable, "-c", script, str(folder)], check=True)
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    assert trace.read_text().count("sync(") >= 20


def test_wall_time_leaves_out_the_pauses_between_sittings(tmp_path: Path) -> None:
    times = iter([100.0, 103.0, 110.0, 500.0, 504.0])
    with SqliteRunStore.create(tmp_path, {}, clock=lambda: next(times)) as store:
        assert store.wall_seconds() == 0
        store.begin_sitting()
        store.append(GenerationStarted(generation=0, candidates=()))
        store.append(GenerationFinished(generation=0, verdicts=()))
        store.begin_sitting()
        store.append(GenerationStarted(generation=1, candidates=()))
        assert store.wall_seconds() == 10 + 4
