"""The run's durable log of events, in one SQLite file.

``run.sqlite`` holds ``meta`` (what the run is) and ``events`` (what happened, as JSON). For human
readers and other programs it also holds two views, ``trials`` and ``outcomes``::

    sqlite3 runs/quickstart/run.sqlite 'SELECT number, status, reason FROM trials'
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from coral.errors import RunError
from coral.records import Event
from coral.storage.codec import decode, encode
from coral.storage.paths import RunPaths, sync_folder

APPLICATION_ID = int.from_bytes(b"CORL")
"""SQLite's mark of whose database a file is."""

SCHEMA_VERSION = 1
"""Layout of the database; it grows by one whenever an older Coral could misread a newer file."""

# json_extract, not the newer arrows, which the SQLite 3.37 of some current Linuxes lacks.
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    recorded_at REAL NOT NULL
);

CREATE TABLE sittings (started_at REAL NOT NULL);

CREATE VIEW trials AS
WITH candidates AS (
    SELECT candidate.key AS place, candidate.value AS candidate
    FROM events, json_each(events.payload, '$.candidates') AS candidate
    WHERE events.kind = 'generation_started'
), verdicts AS (
    SELECT
        json_extract(events.payload, '$.generation') AS generation,
        verdict.key AS place,
        verdict.value AS verdict
    FROM events, json_each(events.payload, '$.verdicts') AS verdict
    WHERE events.kind = 'generation_finished'
)
SELECT
    json_extract(candidate, '$.number') AS number,
    json_extract(candidate, '$.generation') AS generation,
    json_extract(candidate, '$.digest') AS digest,
    json_extract(candidate, '$.lineage.operator') AS operator,
    json_extract(candidate, '$.lineage.parents') AS parents,
    json_extract(verdict, '$.status') AS status,
    json_extract(verdict, '$.stage') AS stage,
    json_extract(verdict, '$.reason') AS reason,
    json_extract(verdict, '$.rule') AS rule,
    json_extract(verdict, '$.audited') AS audited,
    json_extract(candidate, '$.genome') AS genome
FROM candidates
LEFT JOIN verdicts
    ON verdicts.generation = json_extract(candidate, '$.generation')
    AND verdicts.place = candidates.place
ORDER BY number;

CREATE VIEW outcomes AS
SELECT
    json_extract(payload, '$.trial') AS trial,
    json_extract(payload, '$.outcome.stage') AS stage,
    json_extract(payload, '$.outcome.metrics') AS metrics,
    json_extract(payload, '$.outcome.cost.optimizer_steps') AS optimizer_steps,
    json_extract(payload, '$.outcome.cost.tokens') AS tokens,
    json_extract(payload, '$.outcome.cost.train_seconds') AS train_seconds,
    json_extract(payload, '$.outcome.cumulative_steps') AS cumulative_steps,
    json_extract(payload, '$.outcome.trainable_parameters') AS trainable_parameters,
    json_extract(payload, '$.outcome.attempts') AS attempts,
    json_extract(payload, '$.outcome.checkpoint') AS checkpoint,
    json_extract(payload, '$.outcome.failure.kind') AS failure_kind,
    json_extract(payload, '$.outcome.failure.message') AS failure_message,
    sequence,
    recorded_at
FROM events
WHERE kind = 'stage_finished'
ORDER BY sequence;
"""

_WALL_SECONDS = """
WITH spans AS (
    SELECT started_at, LEAD(started_at, 1, 1e18) OVER (ORDER BY started_at) AS next
    FROM sittings
)
SELECT SUM(
    (SELECT MAX(recorded_at) FROM events WHERE recorded_at BETWEEN started_at AND next)
    - started_at
) FROM spans
"""

_REMEDIES = {
    sqlite3.SQLITE_FULL: "Free some space, then resume the run.",
    sqlite3.SQLITE_BUSY: "Another process is writing to it; wait for it or stop it.",
    sqlite3.SQLITE_READONLY: "Open the run for writing, with permission to write in its folder.",
    sqlite3.SQLITE_CANTOPEN: "Check the permissions of the file and of its folder.",
    sqlite3.SQLITE_CORRUPT: "Restore the file from a copy, or start a new run.",
    sqlite3.SQLITE_NOTADB: "Check that the path is a run's folder, or start a new run.",
}
_INSERT = "INSERT INTO events (kind, payload, recorded_at) VALUES (?, ?, ?)"
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event with its place in the log.

    Attributes:
        sequence: 1 for the first event, and so on without gaps.
        recorded_at: seconds since 1970, by the store's clock.
    """

    sequence: int
    recorded_at: float
    event: Event


class SqliteRunStore:
    """A ``RunStore`` in ``<folder>/run.sqlite``; ``create``, ``open`` and ``read_only`` make one.

    One process writes (see ``run_lock``), any number may read meanwhile.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._connection = connection
        self._clock = clock

    @classmethod
    def create(
        cls, folder: Path, meta: Mapping[str, str], *, clock: Callable[[], float] = time.time
    ) -> Self:
        """Start a run's log in ``folder``, which is made if it is missing.

        The file appears whole, with its ``meta``, or not at all.

        Raises:
            RunError: the folder holds a run already, or can't be written.
        """
        path = RunPaths(folder).database
        if path.exists():
            raise RunError(
                f"{path}: a new run needs a folder without one.\n"
                "Resume this run, or choose another folder."
            )
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with _reported(path, "can't be created"):
                    _draw_up(draft, meta)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
            sync_folder(folder)
        except OSError as error:
            raise RunError(
                f"{path}: the database can't be created: {error.strerror}.\n"
                "Check the path and the permissions, or choose another folder."
            ) from error
        return cls.open(folder, clock=clock)

    @classmethod
    def open(cls, folder: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """Open a run's log for reading and appending.

        Raises:
            RunError: it is missing, damaged, of another application or of a newer Coral.
        """
        path = RunPaths(folder).database
        _check_present(path)
        with _reported(path, "can't be opened"):
            connection = _connect(path, "mode=rw")
        try:
            _check_identity(path, connection)
            # FULL syncs the log at every commit: an event survives a power cut once append returns.
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, clock)

    @classmethod
    def read_only(cls, folder: Path) -> Self:
        """Open a run's log for reading, also while another process appends to it.

        Raises:
            RunError: it is missing, damaged, of another application or of a newer Coral.
        """
        path = RunPaths(folder).database
        _check_present(path)
        with _reported(path, "can't be opened"):
            connection = _connect_reader(path)
        try:
            _check_identity(path, connection)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, time.time)

    @property
    def path(self) -> Path:
        return self._path

    def append(self, event: Event) -> None:
        """Store an event; it is durable when this returns.

        Raises:
            RunError: it can't be written, as on a full disk.
        """
        row = (*encode(event), self._clock())
        with _reported(self._path, "can't be written"):
            self._connection.execute(_INSERT, row)  # a transaction of its own

    def append_many(self, events: Sequence[Event]) -> None:
        """Store events, all of them or none; they are durable when this returns.

        Raises:
            RunError: they can't be written, as on a full disk.
        """
        recorded_at = self._clock()
        rows = [(*encode(event), recorded_at) for event in events]
        with _reported(self._path, "can't be written"), _transaction(self._connection):
            self._connection.executemany(_INSERT, rows)

    def events(self) -> Iterator[Event]:
        """Yield every event in the order of appending.

        Raises:
            RunError: the database is damaged.
        """
        return (entry.event for entry in self.entries())

    def entries(self, *, after: int = 0) -> Iterator[Entry]:
        """Yield the entries whose sequence is greater than ``after``, in order.

        They are read a page at a time, so that a slow reader never keeps the writer's log from
        being folded into the database.

        Raises:
            RunError: the database is damaged.
        """
        while page := self._page(after):
            yield from page
            after = page[-1].sequence

    def meta(self) -> dict[str, str]:
        """Return what was given to ``create``, keys sorted.

        Raises:
            RunError: the database is damaged.
        """
        with _reported(self._path, "can't be read"):
            return dict(self._connection.execute("SELECT key, value FROM meta ORDER BY key"))

    def set_meta(self, key: str, value: str) -> None:
        """Replace what ``meta`` says under one key.

        Raises:
            RunError: it can't be written.
        """
        with _reported(self._path, "can't be written"):
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def begin_sitting(self) -> None:
        """Note that a process begins to work on the run, for ``wall_seconds``.

        Raises:
            RunError: it can't be written.
        """
        with _reported(self._path, "can't be written"):
            self._connection.execute("INSERT INTO sittings VALUES (?)", (self._clock(),))

    def wall_seconds(self) -> float:
        """Return the time from each sitting's start to its last event, added up.

        Raises:
            RunError: the database is damaged.
        """
        with _reported(self._path, "can't be read"):
            (seconds,) = self._connection.execute(_WALL_SECONDS).fetchone()
        return float(seconds or 0.0)

    def sync_rarely(self) -> None:
        """Leave syncing to checkpoints from now on, for work that costs nothing to repeat.

        What was appended then survives the end of the process, but the last of it no power cut.
        """
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _page(self, after: int) -> list[Entry]:
        with _reported(self._path, "can't be read"):
            rows = self._connection.execute(
                "SELECT sequence, kind, payload, recorded_at FROM events"
                " WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, _PAGE),
            ).fetchall()
        return [self._entry(*row) for row in rows]

    def _entry(self, sequence: int, kind: str, payload: str, recorded_at: float) -> Entry:
        try:
            event = decode(kind, payload)
        except ValueError as error:
            raise RunError(
                f"{self._path}: event {sequence} can't be read: {error}\n"
                f"{_REMEDIES[sqlite3.SQLITE_CORRUPT]}"
            ) from error
        return Entry(sequence=sequence, recorded_at=recorded_at, event=event)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)


def _connect_reader(path: Path) -> sqlite3.Connection:
    """Connect for reading; where the folder can't be written, promise that nobody writes.

    SQLite needs two files beside the database, ``-wal`` and ``-shm``. If they are missing and this
    process may not make them, then nobody has the run open, or else they would be there.
    """
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        refused = _primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
        if not refused or path.with_name(f"{path.name}-wal").exists():
            raise
        return _connect(path, "mode=ro&immutable=1")
    return connection


def _draw_up(draft: Path, meta: Mapping[str, str]) -> None:
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.executescript(f"BEGIN;{_SCHEMA}")  # one transaction, to be synced once
        connection.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
        connection.execute("COMMIT")
        # The file remembers this mode: writers then never block readers.
        connection.execute("PRAGMA journal_mode = WAL")


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise RunError(
            f"{path.parent}: a run's folder must hold {path.name}, and there is none.\n"
            "Check the path, or start a new run."
        )
    if path.stat().st_size == 0:
        raise RunError(
            f"{path}: the database is empty, so the run is lost.\n"
            f"{_REMEDIES[sqlite3.SQLITE_CORRUPT]}"
        )


def _check_identity(path: Path, connection: sqlite3.Connection) -> None:
    with _reported(path, "can't be read"):
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if owner != APPLICATION_ID:
        raise RunError(
            f"{path}: the database must be Coral's (application id {APPLICATION_ID}),"
            f" got {owner}.\n"
            f"{_REMEDIES[sqlite3.SQLITE_NOTADB]}"
        )
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{path}: the database's version must be at most {SCHEMA_VERSION}, got {version}.\n"
            "A newer Coral wrote it; upgrade Coral to use this run."
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after a full disk SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _reported(path: Path, trouble: str) -> Iterator[None]:
    """Turn SQLite's errors into ``RunError``; misuse of the connection stays what it is."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        remedy = _REMEDIES.get(_primary_code(error), "Check the disk, then resume the run.")
        raise RunError(f"{path}: the database {trouble}: {error}.\n{remedy}") from error


def _primary_code(error: sqlite3.DatabaseError) -> int:
    """Return SQLite's result code without the detail in its upper bits.

    Python's own complaint, about text that is no UTF-8, has no code; it too means damage.
    """
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
