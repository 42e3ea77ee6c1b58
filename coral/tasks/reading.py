"""Rows from files and from the hub, through ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coral.errors import TaskError

READERS = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
    ".txt": ("text", {}),
}
"""By a file's ending: the builder of ``datasets`` that reads it, and its options."""

SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
"""Names of splits, and what they are here."""


class Rows(Mapping[str, list[Any]]):
    """One split as columns; each is read when it is asked for."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, column: str) -> list[Any]:
        """Return a column; images and the like as the bytes and paths that they are stored as."""
        feature = self._dataset.features[column]
        if getattr(feature, "decode", False):
            stored = replace(feature, decode=False)
            return list(self._dataset.cast_column(column, stored)[column])
        return list(self._dataset[column])

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.column_names)

    def __contains__(self, column: object) -> bool:
        return column in self._dataset.column_names

    def __len__(self) -> int:
        return len(self._dataset.column_names)

    def first(self, count: int) -> Rows:
        """Return the first rows, or all if there are fewer."""
        return Rows(self._dataset.select(range(min(count, len(self._dataset)))))

    def names_of(self, column: str) -> tuple[str, ...]:
        """Return the class names that the data itself declares; nothing if it doesn't."""
        return tuple(getattr(self._dataset.features[column], "names", None) or ())


def read(
    task: str,
    path: str,
    subset: str | None,
    revision: str | None,
    cache_dir: Path,
    only: str | None = None,
) -> dict[str, Rows]:
    """Return the splits that the data has; all of it is ``train`` if it names none.

    Args:
        only: split that is taken for ``train``, and no other is read.

    Raises:
        TaskError: it isn't there, or can't be read.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    datasets.disable_progress_bars()
    cache = str(cache_dir / "datasets")
    try:
        if (Path(path) / "dataset_dict.json").exists() or (Path(path) / "state.json").exists():
            found = datasets.load_from_disk(path)
        elif files := files_at(task, path):
            builder, options = data_reader(task, files)
            found = datasets.load_dataset(
                builder, data_files=by_split(files), cache_dir=cache, **options
            )
        else:
            found = datasets.load_dataset(path, subset, revision=revision, cache_dir=cache)
    except DatasetGenerationError as error:
        raise TaskError(
            f"task {task!r}: {path} can't be read: {first_line(error.__cause__ or error)}\n"
            "Correct the file at that place."
        ) from error
    except (ConnectionError, DatasetNotFoundError, FileNotFoundError) as error:
        raise TaskError(
            f"task {task!r}: no data at {path!r}: {first_line(error)}\nName a file, a folder, a"
            " glob, a URL, or a hub id that this machine can reach or has in its cache."
        ) from error
    except (OSError, ValueError) as error:
        raise TaskError(
            f"task {task!r}: {path} can't be read: {first_line(error)}\nCorrect it, or name other"
            " data."
        ) from error
    splits = found if isinstance(found, Mapping) else {"train": found}
    if only is not None:
        if only not in splits:
            raise TaskError(
                f"task {task!r}: {path} has no split {only!r}.\nName one of {', '.join(splits)}"
                " with `split:`."
            )
        splits = {"train": splits[only]}
    parts = {SPLITS[name]: Rows(rows) for name, rows in splits.items() if name in SPLITS}
    if "train" not in parts:
        raise TaskError(
            f"task {task!r}: {path} must have a train split; it has {', '.join(splits)}.\n"
            "Name other data."
        )
    for name, rows in splits.items():
        if not len(rows):
            raise TaskError(f"task {task!r}: the split {name} of {path} is empty.\nFill it.")
    return parts


def files_at(task: str, path: str) -> list[str]:
    """Return the files at a path; none if it is a hub id."""
    if "://" in path:
        return [path]
    place = Path(path).expanduser()
    if place.is_file():
        return [str(place)]
    if place.is_dir():
        found = sorted(str(file) for file in place.rglob("*") if file.suffix in READERS)
        if not found:
            raise TaskError(
                f"task {task!r}: the folder {path} must hold data files.\n"
                f"Their names end in {', '.join(READERS)}."
            )
        return found
    if any(sign in path for sign in "*?["):
        anchor = Path(place.anchor)
        found = sorted(str(file) for file in anchor.glob(str(place.relative_to(anchor))))
        if found:
            return found
        raise TaskError(f"task {task!r}: no file matches {path!r}.\nCorrect the pattern.")
    if place.suffix in READERS or place.is_absolute() or path.startswith("."):
        raise TaskError(
            f"task {task!r}: the file {path} doesn't exist.\n"
            f"Correct the path; it was looked for at {place.absolute()}."
        )
    return []


def by_split(files: Sequence[str]) -> dict[str, list[str]]:
    """Return files by the split that their names begin with, or that their folder is called.

    They are all ``train`` unless each of them names a split, and one of them ``train``.
    """
    found: dict[str, list[str]] = {}
    for file in files:
        place = Path(file.partition("?")[0])
        names = (re.split(r"[^a-z]", place.stem.lower())[0], place.parent.name.lower())
        split = next((SPLITS[name] for name in names if name in SPLITS), None)
        if split is None:
            return {"train": list(files)}
        found.setdefault(split, []).append(file)
    return found if "train" in found else {"train": list(files)}


def data_reader(task: str, files: list[str]) -> tuple[str, dict[str, Any]]:
    """Return which builder of ``datasets`` reads some files, and its options.

    Raises:
        TaskError: they are of several kinds, or of none that Coral reads.
    """
    endings = {Path(file.partition("?")[0]).suffix.lower() for file in files}
    readers = {READERS.get(ending, ("", {}))[0]: ending for ending in endings}
    if len(readers) > 1 or "" in readers:
        raise TaskError(
            f"task {task!r}: data files must be of one kind that Coral reads, got"
            f" {', '.join(sorted(endings))}.\nTheir names end in {', '.join(READERS)}."
        )
    return READERS[endings.pop()]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
