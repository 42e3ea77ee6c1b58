"""Rows one after another, from data of any size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from coral.errors import TaskError
from coral.tasks.reading import SPLITS, by_split, data_reader, files_at, first_line

ROWS_AT_ONCE = 1000
"""Rows of a table that are read together."""
TOLD_BY = ("size", "mtime", "ETag", "etag", "LastModified", "last_modified")
"""What storage says of a file from which a change is seen."""

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, for messages, and its values by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """A split that can be read again and again, from its beginning.

    Attributes:
        digest: identity of the data, told without reading them.
        names: class names that the data themselves declare, by column.
    """

    digest: str
    read: Callable[[], Iterator[Row]]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def row_sources(
    task: str, path: str, subset: str | None, revision: str | None
) -> dict[str, RowSource]:
    """Return the splits that the data has; all of it is ``train`` if it names none.

    CSV, TSV and JSON Lines are read here: a broken line is named, and nothing beyond it is read.

    Raises:
        TaskError: it isn't there, or can't be read row by row.
    """
    if (Path(path) / "dataset_dict.json").exists() or (Path(path) / "state.json").exists():
        return _stored(task, path)
    files = files_at(task, path)
    if not files:
        return _published(task, path, path, (path, subset), {"revision": revision})
    builder, options = data_reader(task, files)
    if builder in ("csv", "json"):
        rows = _lines if builder == "json" else _table

        def read(own: Sequence[str]) -> Iterator[Row]:
            for file in own:
                yield from rows(task, file, **options)

        return {
            split: RowSource(digest=_told_of(task, own), read=partial(read, own))
            for split, own in by_split(files).items()
        }
    if builder == "parquet":
        told = _told_of(task, files)
        return _published(task, path, told, (builder,), {"data_files": by_split(files)})
    raise TaskError(
        f"task {task!r}: {path} can't be read row by row, as `streaming: true` asks.\nStream CSV,"
        " TSV, JSON Lines or Parquet files, or what datasets holds; or leave streaming out."
    )


def _lines(task: str, file: str) -> Iterator[Row]:
    """Yield the objects of a file that holds one in each line."""
    with _opened(task, file) as lines:
        if lines.read(4096).lstrip()[:1] == b"[":
            raise TaskError(
                f"task {task!r}: {file} is one list, which can't be read row by row.\n"
                "Write one object in each line, or leave streaming out."
            )
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"line {number:,} of {file}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                told = ValueError(f"{error.msg}, column {error.colno}")
                raise _broken(task, place, told) from error
            except ValueError as error:
                raise _broken(task, place, error) from error
            if not isinstance(row, dict):
                raise _broken(task, place, TypeError("it isn't an object"))
            yield place, row


def _table(task: str, file: str, sep: str = ",") -> Iterator[Row]:
    """Yield the rows of a table as ``datasets`` reads them: through pandas."""
    import pandas as pd

    number = 0
    with _opened(task, file) as content:
        try:
            for part in pd.read_csv(content, sep=sep, chunksize=ROWS_AT_ONCE):
                columns = list(map(str, part.columns))
                values = part.astype(object).where(part.notna(), None)
                for row in values.itertuples(index=False, name=None):
                    place = f"row {number:,} of {file}"
                    yield place, dict(zip(columns, row, strict=True))
                    number += 1
        except ValueError as error:
            raise _broken(task, f"{file}, after row {number:,},", error) from error


@contextmanager
def _opened(task: str, file: str) -> Iterator[IO[bytes]]:
    """Lend a file of bytes.

    Raises:
        TaskError: it isn't there, or reading it fails.
    """
    import fsspec

    try:
        with fsspec.open(file, "rb") as content:
            yield content
    except OSError as error:
        raise TaskError(
            f"task {task!r}: {file} can't be read: {first_line(error)}\nCorrect it, or name other"
            " data."
        ) from error


def _told_of(task: str, files: Sequence[str]) -> str:
    """Return a digest of files' names and what tells that they changed; they aren't read."""
    import fsspec

    facts = []
    for file in files:
        try:
            system, place = fsspec.core.url_to_fs(file)
            info = system.info(place)
        except OSError as error:
            raise TaskError(
                f"task {task!r}: no data at {file!r}: {first_line(error)}\nName a file that this"
                " machine can reach."
            ) from error
        facts.append([Path(file).name, {key: str(info[key]) for key in TOLD_BY if key in info}])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _published(
    task: str, path: str, told: str, named: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, RowSource]:
    """Return what ``datasets`` streams: Parquet files, and data sets of the hub."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(*named, **options)
        splits = builder.as_streaming_dataset()
    except (OSError, ValueError) as error:
        raise TaskError(
            f"task {task!r}: no data that can be streamed at {path!r}: {first_line(error)}\nName"
            " files, or a hub id that this machine can reach."
        ) from error
    return _splits(task, path, splits, f"{told} {builder.hash}")


def _stored(task: str, path: str) -> dict[str, RowSource]:
    """Return what ``save_to_disk`` wrote; it is mapped into memory."""
    import datasets

    found = datasets.load_from_disk(path)
    files = sorted(str(file) for file in Path(path).rglob("*.arrow"))
    splits = found if isinstance(found, Mapping) else {"train": found}
    return _splits(task, path, splits, _told_of(task, files))


def _splits(task: str, path: str, splits: Mapping[str, Any], told: str) -> dict[str, RowSource]:
    found = {SPLITS[name]: rows for name, rows in splits.items() if name in SPLITS}
    if "train" not in found:
        raise TaskError(
            f"task {task!r}: {path} must have a train split; it has {', '.join(splits)}.\n"
            "Name other data."
        )
    return {
        name: RowSource(
            digest=f"{name} {told}", read=_reader_of(task, path, rows), names=_names_in(rows)
        )
        for name, rows in found.items()
    }


def _reader_of(task: str, path: str, rows: Any) -> Callable[[], Iterator[Row]]:
    def read() -> Iterator[Row]:
        number = 0
        try:
            for part in rows.iter(batch_size=ROWS_AT_ONCE):
                for row in zip(*part.values(), strict=True):
                    yield f"row {number:,} of {path}", dict(zip(part, row, strict=True))
                    number += 1
        except (OSError, ValueError) as error:
            raise _broken(task, f"{path}, after row {number:,},", error) from error

    return read


def _names_in(rows: Any) -> dict[str, tuple[str, ...]]:
    declared = {name: getattr(kind, "names", None) for name, kind in (rows.features or {}).items()}
    return {name: tuple(names) for name, names in declared.items() if names}


def _broken(task: str, place: str, error: Exception) -> TaskError:
    return TaskError(
        f"task {task!r}: {place} can't be read: {first_line(error)}. Correct the data at that"
        " place, or remove it."
    )
