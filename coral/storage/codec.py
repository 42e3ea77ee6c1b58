"""Events to JSON and back.

The bytes are the same in every process: fields come in the order of their record, mappings in their
own order. Sorting the keys would make a replayed genome iterate differently from the live one.
Infinities and NaN, which JSON lacks, are written as the strings ``"Infinity"``, ``"-Infinity"`` and
``"NaN"``, so that SQLite's JSON functions can read every payload.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError

from coral.errors import GenomeError
from coral.records import (
    CandidatesJoined,
    Event,
    GenerationFinished,
    GenerationStarted,
    GeneValue,
    ParentsSelected,
    RunConfirmed,
    StageFinished,
    TrialsDerived,
)

_RECORDS: dict[str, type[Event]] = {
    "generation_started": GenerationStarted,
    "candidates_joined": CandidatesJoined,
    "stage_finished": StageFinished,
    "generation_finished": GenerationFinished,
    "trials_derived": TrialsDerived,
    "parents_selected": ParentsSelected,
    "run_confirmed": RunConfirmed,
}
_KINDS = {record: kind for kind, record in _RECORDS.items()}


def encode(event: Event) -> tuple[str, str]:
    """Return an event's kind and its JSON.

    Text that UTF-8 can't hold (lone surrogates, from a file name in a traceback) is written with
    backslash escapes: an odd failure message must not end the run.

    Raises:
        GenomeError: a gene is not finite, and would come back as text.
        TypeError: a field holds another type than its record declares.
    """
    if isinstance(event, GenerationStarted | CandidatesJoined):
        _check_genes(event)
    kind = _KINDS[type(event)]
    try:
        return kind, _dumped(event)
    except PydanticSerializationError:
        pass  # rare, and dear to look for beforehand
    try:
        return kind, _dumped(_plain(event))
    except PydanticSerializationError as error:
        raise TypeError(
            f"a {type(event).__name__} event must hold the types that its record declares:"
            f" {error}\nConvert the value before it enters the record."
        ) from error


def decode(kind: str, payload: str) -> Event:
    """Return the event that ``encode`` wrote.

    Raises:
        ValueError: the kind is unknown, or the payload is no JSON of that kind.
    """
    if kind not in _RECORDS:
        raise ValueError(f"kind must be one of {', '.join(_RECORDS)}, got {kind!r}")
    return _reader(kind).validate_json(payload)


@cache
def _writer() -> TypeAdapter[Event]:
    # A config can't be given for a bare dataclass, but one given for their union reaches them all.
    return TypeAdapter(Event, config=ConfigDict(ser_json_inf_nan="strings"))


@cache
def _reader(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(_RECORDS[kind])


def _check_genes(event: GenerationStarted | CandidatesJoined) -> None:
    for candidate in event.candidates:
        for path, value in candidate.genome.items():
            if not _is_finite(value):
                raise GenomeError(
                    f"trial {candidate.number}: gene {path} must be finite, got {value}.\n"
                    "Bound the gene's range in search_space."
                )


def _is_finite(value: GeneValue) -> bool:
    if isinstance(value, tuple):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _dumped(event: Event) -> str:
    return _writer().dump_json(event, warnings="error").decode()


def _plain(value: Any) -> Any:
    """Return a copy whose text is UTF-8 and whose mappings, of any type, are dicts."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        )
    return value
