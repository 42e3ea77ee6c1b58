"""The SQLite file of a run: its layout, its identity, and SQLite's errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from coral.errors import RunError

APPLICATION_ID = int.from_bytes(b"CORL")
"""SQLite's mark of whose database a file is."""

SCHEMA_VERSION = 2
"""Layout of the database; it grows by one whenever an older Coral could misread a newer file.

The views of version 1 know no trials that joined a generation or were derived after it. Such files
are read as they are, and brought up to date before anything is appended.
"""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    recorded_at REAL NOT NULL
);

CREATE TABLE sittings (started_at REAL NOT NULL);
"""

# json_extract, not the newer arrows, which the SQLite 3.37 of some current Linuxes lacks.
_VIEWS = """
CREATE VIEW trials AS
WITH candidates AS (
    SELECT
        json_extract(candidate.value, '$.number') AS number,
        json_extract(candidate.value, '$.generation') AS generation,
        candidate.value AS candidate
    FROM events, json_each(events.payload, '$.candidates') AS candidate
    WHERE events.kind IN ('generation_started', 'candidates_joined')
), places AS (
    SELECT
        ROW_NUMBER() OVER (PARTITION BY generation ORDER BY number) - 1 AS place,
        generation,
        candidate
    FROM candidates
), verdicts AS (
    SELECT
        json_extract(events.payload, '$.generation') AS generation,
        verdict.key AS place,
        verdict.value AS verdict
    FROM events, json_each(events.payload, '$.verdicts') AS verdict
    WHERE events.kind = 'generation_finished'
), judged AS (
    SELECT candidate, verdict
    FROM places
    LEFT JOIN verdicts USING (generation, place)
    UNION ALL
    SELECT json_extract(trial.value, '$.candidate'), json_extract(trial.value, '$.verdict')
    FROM events, json_each(events.payload, '$.trials') AS trial
    WHERE events.kind = 'trials_derived'
)
SELECT
    json_extract(candidate, '$.number') AS number,
    json_extract(candidate, '$.generation') AS generation,
    json_extract(candidate, '$.digest') AS digest,
    json_extract(candidate, '$.lineage.operator') AS operator,
    json_extract(candidate, '$.lineage.parents') AS parents,
    json_extract(candidate, '$.legacy') AS legacy,
    json_extract(candidate, '$.entry') AS entry,
    json_extract(verdict, '$.status') AS status,
    json_extract(verdict, '$.stage') AS stage,
    json_extract(verdict, '$.reason') AS reason,
    json_extract(verdict, '$.rule') AS rule,
    json_extract(verdict, '$.audited') AS audited,
    json_extract(candidate, '$.genome') AS genome
FROM judged
ORDER BY number;

CREATE VIEW outcomes AS
WITH ended AS (
    SELECT
        json_extract(payload, '$.trial') AS trial,
        json_extract(payload, '$.outcome') AS outcome,
        IFNULL('generation_finished' = (
            SELECT kind
            FROM events AS earlier
            WHERE earlier.sequence < events.sequence
                AND kind IN ('generation_started', 'generation_finished')
            ORDER BY earlier.sequence DESC
            LIMIT 1
        ), 0) AS confirmation,
        sequence,
        recorded_at
    FROM events
    WHERE kind = 'stage_finished'
    UNION ALL
    SELECT
        json_extract(trial.value, '$.candidate.number'),
        outcome.value,
        0,
        sequence,
        recorded_at
    FROM events,
        json_each(events.payload, '$.trials') AS trial,
        json_each(trial.value, '$.outcomes') AS outcome
    WHERE kind = 'trials_derived'
)
SELECT
    trial,
    json_extract(outcome, '$.stage') AS stage,
    json_extract(outcome, '$.metrics') AS metrics,
    json_extract(outcome, '$.cost.optimizer_steps') AS optimizer_steps,
    json_extract(outcome, '$.cost.tokens') AS tokens,
    json_extract(outcome, '$.cost.train_seconds') AS train_seconds,
    json_extract(outcome, '$.cumulative_steps') AS cumulative_steps,
    json_extract(outcome, '$.inheritance.retained_energy') AS retained_energy,
    json_extract(outcome, '$.trainable_parameters') AS trainable_parameters,
    json_extract(outcome, '$.attempts') AS attempts,
    json_extract(outcome, '$.checkpoint') AS checkpoint,
    json_extract(outcome, '$.failure.kind') AS failure_kind,
    json_extract(outcome, '$.failure.message') AS failure_message,
    json_extract(outcome, '$.notes') AS notes,
    confirmation,
    sequence,
    recorded_at
FROM ended
ORDER BY sequence, trial;
"""

REMEDIES = {
    sqlite3.SQLITE_FULL: "Free some space, then resume the run.",
    sqlite3.SQLITE_BUSY: "Another process is writing to it; wait for it or stop it.",
    sqlite3.SQLITE_READONLY: "Open the run for writing, with permission to write in its folder.",
    sqlite3.SQLITE_CANTOPEN: "Check the permissions of the file and of its folder.",
    sqlite3.SQLITE_CORRUPT: "Restore the file from a copy, or start a new run.",
    sqlite3.SQLITE_NOTADB: "Check that the path is a run's folder, or start a new run.",
}


def draw_up(draft: Path, meta: Mapping[str, str]) -> None:
    """Write a database with its ``meta`` and no events."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.executescript(f"BEGIN;{_TABLES}{_VIEWS}")  # one transaction, to be synced once
        connection.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
        connection.execute("COMMIT")
        # The file remembers this mode: writers then never block readers.
        connection.execute("PRAGMA journal_mode = WAL")


def bring_up_to_date(path: Path, connection: sqlite3.Connection) -> None:
    """Give a database of an older version today's views.

    Raises:
        RunError: it can't be written.
    """
    with reported(path, "can't be brought up to date"):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        connection.executescript(
            f"BEGIN IMMEDIATE; DROP VIEW trials; DROP VIEW outcomes; {_VIEWS}"
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
        )


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Connect to a database; every statement is a transaction of its own unless one is begun."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Connect for reading; where the folder can't be written, promise that nobody writes.

    SQLite needs two files beside the database, ``-wal`` and ``-shm``. If they are missing and this
    process may not make them, then nobody has the run open, or else they would be there.
    """
    connection = connect(path, "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        refused = _primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
        if not refused or path.with_name(f"{path.name}-wal").exists():
            raise
        return connect(path, "mode=ro&immutable=1")
    return connection


def check_present(path: Path) -> None:
    """Raise ``RunError`` if there is no database, or an empty one."""
    if not path.is_file():
        raise RunError(
            f"{path.parent}: a run's folder must hold {path.name}, and there is none.\n"
            "Check the path, or start a new run."
        )
    if path.stat().st_size == 0:
        raise RunError(
            f"{path}: the database is empty, so the run is lost.\n"
            f"{REMEDIES[sqlite3.SQLITE_CORRUPT]}"
        )


def check_identity(path: Path, connection: sqlite3.Connection) -> None:
    """Raise ``RunError`` for a database of another application or of a newer Coral."""
    with reported(path, "can't be read"):
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if owner != APPLICATION_ID:
        raise RunError(
            f"{path}: the database must be Coral's (application id {APPLICATION_ID}),"
            f" got {owner}.\n"
            f"{REMEDIES[sqlite3.SQLITE_NOTADB]}"
        )
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{path}: the database's version must be at most {SCHEMA_VERSION}, got {version}.\n"
            "A newer Coral wrote it; upgrade Coral to use this run."
        )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make what is done inside durable at the end, or undo it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after a full disk SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def reported(path: Path, trouble: str) -> Iterator[None]:
    """Turn SQLite's errors into ``RunError``; misuse of the connection stays what it is."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        remedy = REMEDIES.get(_primary_code(error), "Check the disk, then resume the run.")
        raise RunError(f"{path}: the database {trouble}: {error}.\n{remedy}") from error


def _primary_code(error: sqlite3.DatabaseError) -> int:
    """Return SQLite's result code without the detail in its upper bits.

    Python's own complaint, about text that is no UTF-8, has no code; it too means damage.
    """
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
