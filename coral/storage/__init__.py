"""Where a run is kept: its events, its checkpoints, its lock, and every path."""

from __future__ import annotations

from coral.storage.checkpoints import FsspecCheckpointStore
from coral.storage.lock import is_locked, run_lock
from coral.storage.paths import (
    CachePaths,
    RunPaths,
    cache_location,
    check_location,
    next_free,
    replace_folder,
    write_bytes_durably,
    write_json_durably,
    write_text_durably,
)
from coral.storage.run_store import Entry, SqliteRunStore

__all__ = [
    "CachePaths",
    "Entry",
    "FsspecCheckpointStore",
    "RunPaths",
    "SqliteRunStore",
    "cache_location",
    "check_location",
    "is_locked",
    "next_free",
    "replace_folder",
    "run_lock",
    "write_bytes_durably",
    "write_json_durably",
    "write_text_durably",
]
