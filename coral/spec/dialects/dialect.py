"""What a dialect is: the config language of another trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from coral.errors import Fault
from coral.spec.aliases import BASE_MODEL_NAMES, EPOCH_NAMES, TRAINING_SHORTHANDS
from coral.spec.document import Document
from coral.spec.sections import SECTIONS

OWN_KEYS = (*SECTIONS, *TRAINING_SHORTHANDS, *BASE_MODEL_NAMES, *EPOCH_NAMES)
"""Keys at the top level of a config in Coral's own words."""
EMPTY: tuple[Any, ...] = (None, "", [], {})
"""Values that say nothing, whatever the key."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A key that would change what is learned, in a way that Coral does not train.

    Attributes:
        asks: what the key asks for, as in "asks for 8-bit weights".
        remedy: what to do instead.
        harmless: values that ask for nothing, besides the empty ones.
    """

    asks: str
    remedy: str = "Remove it; the result will then differ from what the other trainer gives."
    harmless: tuple[Any, ...] = (False,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The config language of another trainer.

    Attributes:
        name: of the trainer.
        article: that goes before the name.
        signs: keys that make a config one of this dialect.
        mapped: keys that ``translate`` reads, with what becomes of them.
        ignored: what is of no use to Coral to its keys; a key may be a pattern such as ``wandb_*``.
        refused: keys that would change the result.
        defaults: own key to the value that the other trainer takes where there is none.
        translate: puts what ``mapped`` says into a ``Translation``.
    """

    name: str
    article: str
    signs: tuple[str, ...]
    mapped: Mapping[str, str] = field(repr=False)
    ignored: Mapping[str, tuple[str, ...]] = field(repr=False)
    refused: Mapping[str, Refusal] = field(repr=False)
    defaults: Mapping[str, Any]
    translate: Callable[[Any], None]

    def knows(self, key: str) -> bool:
        """Return whether a key is one of this dialect's own."""
        return key in self.mapped or key in self.refused or self.ignores(key)

    def ignores(self, key: str) -> bool:
        """Return whether a key is of no use to Coral."""
        patterns = (pattern for keys in self.ignored.values() for pattern in keys)
        return any(fnmatchcase(key, pattern) for pattern in patterns)

    def plain_keys(self) -> Iterator[str]:
        """Yield every key that is known by name."""
        yield from self.mapped
        yield from self.refused
        for keys in self.ignored.values():
            yield from (key for key in keys if "*" not in key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A config in Coral's own keys.

    Attributes:
        notes: what the user should know of how it was read, a line each.
        faults: what could not be read.
    """

    document: Document
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
