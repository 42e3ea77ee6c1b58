"""Configs of other trainers, read in Coral's own keys.

A dialect is told by the keys that only its configs have; Coral's own blocks may stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coral.spec.aliases import BASE_MODEL_NAMES
from coral.spec.dialects.axolotl import AXOLOTL
from coral.spec.dialects.dialect import OWN_KEYS, Dialect, Understood
from coral.spec.dialects.llama_factory import LLAMA_FACTORY
from coral.spec.dialects.shared import make_search_space
from coral.spec.dialects.translation import Translation
from coral.spec.document import Document

__all__ = ["AXOLOTL", "DIALECTS", "LLAMA_FACTORY", "Understood", "dialect_of", "understand"]

DIALECTS = (AXOLOTL, LLAMA_FACTORY)
"""Every dialect that is understood."""


def dialect_of(document: Document) -> Dialect | None:
    """Return the dialect that a config is written in; None for Coral's own.

    A sign settles it. Without one a config that has tasks is Coral's own, and of another the
    dialect that knows most of its keys, if it knows one that Coral does not.
    """
    keys = [key for key in document.data if key not in OWN_KEYS]
    known = {dialect.name: sum(map(dialect.knows, keys)) for dialect in DIALECTS}
    signed = [d for d in DIALECTS if any(sign in document.data for sign in d.signs)]
    found = signed or ([] if "tasks" in document.data else DIALECTS)
    best = max(found, key=lambda dialect: known[dialect.name], default=None)
    return best if best is not None and known[best.name] else None


def understand(
    document: Document,
    read: Callable[[Path], str],
    layers_of: Callable[[str], int | None],
) -> Understood:
    """Return a config in Coral's own keys; one that is written in them is returned as it is.

    Args:
        read: returns a file's text; LLaMA-Factory describes data sets in a file of their own.
        layers_of: returns how many layers a base model has; None if that can't be told.
    """
    dialect = dialect_of(document)
    if dialect is None:
        return Understood(document=document)
    translation = Translation(document, dialect, read)
    reasons = [key for key in document.data if key in dialect.signs] or [
        key for key in document.data if key not in OWN_KEYS and dialect.knows(key)
    ]
    told = " and ".join(filter(None, (", ".join(reasons[:3][:-1]), reasons[:3][-1])))
    translation.notes.append(
        f"read as {dialect.article} {dialect.name} config: {told} {_are(reasons)} of its keys"
    )
    translation.translate()
    model = next(
        (translation.data[name] for name in BASE_MODEL_NAMES if name in translation.data), ""
    )
    make_search_space(translation, layers_of(model) if isinstance(model, str) else None)
    return translation.result()


def _are(keys: list[str]) -> str:
    return "are some" if len(keys) > 1 else "is one"
