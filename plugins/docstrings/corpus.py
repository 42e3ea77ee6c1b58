"""The corpus: collected once, kept as JSON lines, split by module."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from coral.rng import derive_seed

from .reading import Docstring, fingerprint, installed_version, read_library

Split = Literal["train", "validation", "test"]

CACHE_FORMAT = 1
"""Raise it whenever the same sources would give other texts."""

_LOGGER = logging.getLogger("coral.plugins.docstrings")


def load_corpus(cache_dir: Path, libraries: Sequence[str]) -> tuple[Docstring, ...]:
    """Return the texts of ``libraries``, collecting those that the cache doesn't hold.

    A text that two of them share tells nothing about its author: it is left out. Processes that
    collect at the same time collect different libraries, then read each other's.

    Raises:
        TaskError: a library isn't installed.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    texts: dict[str, tuple[Docstring, ...]] = {}
    for seconds in (0, -1):  # at first, what another process collects is left to it
        for library in libraries:
            if library not in texts:
                with (
                    suppress(Timeout),
                    FileLock(cache_dir / f"{library}.lock", timeout=seconds),
                ):
                    texts[library] = _cached_library(cache_dir, library)
    found = [docstring for library in libraries for docstring in texts[library]]
    prints = [fingerprint(docstring.text) for docstring in found]
    authors = Counter(prints)
    return tuple(
        docstring for docstring, key in zip(found, prints, strict=True) if authors[key] == 1
    )


@cache
def split_of(module: str) -> Split:
    """Return the split that all texts of ``module`` belong to: 70, 15 and 15 % of the modules.

    A module's texts resemble each other, so they stay together. The name alone decides: what is
    added to a library moves nothing else.
    """
    position = derive_seed(0, "split", module) / 2**63
    if position < 0.7:
        return "train"
    return "validation" if position < 0.85 else "test"


def _cached_library(cache_dir: Path, library: str) -> tuple[Docstring, ...]:
    source = {
        "format": CACHE_FORMAT,
        "library": library,
        "version": installed_version(library),
        "python": platform.python_version(),
    }
    key = hashlib.sha256(json.dumps(source).encode()).hexdigest()[:12]
    path = cache_dir / f"{library}-{key}.jsonl"
    try:
        return _decode(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _LOGGER.info("Collecting the docstrings of %s.", library)
    except (ValueError, TypeError):
        _LOGGER.warning("%s is damaged; collecting the docstrings anew.", path)
    docstrings = read_library(library)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(_encode(docstrings), encoding="utf-8")
    temporary.replace(path)
    return docstrings


def _encode(docstrings: Sequence[Docstring]) -> str:
    """Return a line with the digest of the rest, then a line a text."""
    body = "".join(json.dumps(asdict(docstring)) + "\n" for docstring in docstrings)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest()}) + "\n" + body


def _decode(content: str) -> tuple[Docstring, ...]:
    """Return the texts.

    Raises:
        ValueError: the digest doesn't match, or there is none.
    """
    header, _, body = content.partition("\n")
    if json.loads(header) != {"sha256": hashlib.sha256(body.encode()).hexdigest()}:
        raise ValueError("the digest doesn't match the texts")
    return tuple(Docstring(**json.loads(line)) for line in body.splitlines())
