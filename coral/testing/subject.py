"""A task under test: how it is found, its data, predictions of several qualities.

As a program it builds and loads a task in a process of its own, and prints the data's digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.ports import DataContext, Examples, ExampleStream, Task, TaskData
from coral.rng import stream
from coral.tasks import TaskCalls, discover, task_calls

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How another process finds a task.

    Attributes:
        name: under which a plugin provides it.
        folders: of plugins; the bundled and installed ones are found without.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()

    def calls(self, timeout_seconds: float | None = None) -> TaskCalls:
        """Build the task. Raises what ``Registry.build`` does."""
        return task_calls(discover(self.folders), self.name, self.options, timeout_seconds)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A task under test; its data is loaded once.

    Attributes:
        cache_dir: an empty folder at first.
        source: None if the task can't be built by name.
    """

    calls: TaskCalls
    cache_dir: Path
    source: Source | None = None

    @property
    def task(self) -> Task:
        return self.calls.task

    @cached_property
    def data(self) -> TaskData:
        return self.calls.load(DataContext(cache_dir=self.cache_dir))

    @property
    def splits(self) -> dict[str, Examples]:
        return {name: getattr(self.data, name) for name in SPLITS}


def predictions_of(data: TaskData) -> Mapping[str, NDArray[np.float64]]:
    """Return predictions for the validation split as ``Task.score`` takes them.

    They are of three qualities: perfect, random, and constant.
    """
    labels, count = data.validation.labels, len(data.label_names)
    rng, shape = stream(0, "conformance"), (len(data.validation), count)
    match data.problem:
        case "single_label":
            return {
                "perfect": np.eye(count)[labels],
                "random": rng.dirichlet(np.ones(count), shape[0]),
                "constant": np.full(shape, 1 / count),
            }
        case "multi_label":
            return {
                "perfect": labels.astype(np.float64),
                "random": rng.random(shape),
                "constant": np.full(shape, 0.5),
            }
        case "regression":
            center, spread = labels.mean(axis=0), labels.std(axis=0)
            return {
                "perfect": labels.astype(np.float64),
                "random": center + spread * rng.normal(size=shape),
                "constant": np.broadcast_to(center, shape).copy(),
            }
        case "causal_lm":
            generates = data.causal is not None and data.causal.generate_examples > 0
            return _statistics(shape[0], rng, generates=generates)


def _statistics(
    count: int, rng: np.random.Generator, *, generates: bool
) -> Mapping[str, NDArray[np.float64]]:
    """Return statistics of written answers: log loss, tokens, right ones, and two shares."""
    tokens = np.full(count, 10.0)
    columns = {
        "perfect": [np.zeros(count), tokens, tokens, np.ones(count), np.ones(count)],
        "random": [
            tokens * rng.uniform(1, 9, count),
            tokens,
            np.floor(tokens * rng.random(count)),
            np.round(rng.random(count) / 2),
            rng.random(count),
        ],
        "constant": [3 * tokens, tokens, tokens / 2, np.zeros(count), np.full(count, 0.5)],
    }
    return {
        quality: np.stack(own if generates else own[:3], axis=1) for quality, own in columns.items()
    }


def digest_of(data: object) -> str:
    """Return the identity of a task's data, whatever its records hold."""
    digest = hashlib.sha256()
    for part in _parts(data):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, ExampleStream):
        yield from _parts((value.digest, value.examples, value.buffer))
        yield from _parts(next(iter(value.read()), None))
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            if each.compare:
                yield each.name.encode()
                yield from _parts(getattr(value, each.name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield repr(name).encode()
            yield from _parts(item)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, tuple | list):
        yield str(len(value)).encode()
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode()


def _answer() -> None:
    """Build and load the task that standard input asks for, and print the digest of its data."""
    request = json.loads(sys.stdin.read())
    folders = tuple(Path(folder) for folder in request["folders"])
    source = Source(name=request["name"], options=request["options"], folders=folders)
    data = source.calls().load(DataContext(cache_dir=Path(request["cache_dir"])))
    sys.stdout.write(f"{digest_of(data)}\n")


if __name__ == "__main__":
    _answer()
