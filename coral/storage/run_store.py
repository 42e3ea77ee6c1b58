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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from coral.errors import RunError
from coral.records import Event
from coral.storage.codec import decode, encode
from coral.storage.database import (
    REMEDIES,
    bring_up_to_date,
    check_identity,
    check_present,
    connect,
    connect_reader,
    draw_up,
    reported,
    transaction,
)
from coral.storage.paths import RunPaths, sync_folder

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
                with reported(path, "can't be created"):
                    draw_up(draft, meta)
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
        check_present(path)
        with reported(path, "can't be opened"):
            connection = connect(path, "mode=rw")
        try:
            check_identity(path, connection)
            bring_up_to_date(path, connection)
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
        check_present(path)
        with reported(path, "can't be opened"):
            connection = connect_reader(path)
        try:
            check_identity(path, connection)
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
        with reported(self._path, "can't be written"):
            self._connection.execute(_INSERT, row)  # a transaction of its own

    def append_many(self, events: Sequence[Event]) -> None:
        """Store events, all of them or none; they are durable when this returns.

        Raises:
            RunError: they can't be written, as on a full disk.
        """
        recorded_at = self._clock()
        rows = [(*encode(event), recorded_at) for event in events]
        with reported(self._path, "can't be written"), transaction(self._connection):
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
        with reported(self._path, "can't be read"):
            return dict(self._connection.execute("SELECT key, value FROM meta ORDER BY key"))

    def set_meta(self, key: str, value: str) -> None:
        """Replace what ``meta`` says under one key.

        Raises:
            RunError: it can't be written.
        """
        with reported(self._path, "can't be written"):
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def begin_sitting(self) -> None:
        """Note that a process begins to work on the run, for ``wall_seconds``.

        Raises:
            RunError: it can't be written.
        """
        with reported(self._path, "can't be written"):
            self._connection.execute("INSERT INTO sittings VALUES (?)", (self._clock(),))

    def wall_seconds(self) -> float:
        """Return the time from each sitting's start to its last event, added up.

        Raises:
            RunError: the database is damaged.
        """
        with reported(self._path, "can't be read"):
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
        with reported(self._path, "can't be read"):
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
                f"{REMEDIES[sqlite3.SQLITE_CORRUPT]}"
            ) from error
        return Entry(sequence=sequence, recorded_at=recorded_at, event=event)
