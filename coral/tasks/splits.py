"""Splits that data does not bring, for plugins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import Examples, TaskData


def classification_data(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    validation_share: float = 0.1,
    test_share: float = 0.1,
) -> TaskData:
    """Return labelled texts as a task's data: classes sorted by name, splits made by text.

    Each class gives its shares, and texts that are equal, however spaced and capitalized, stay
    together. Which ones go where depends on the texts alone, neither on their order nor on a seed.

    Raises:
        TaskError: texts and labels differ in number, a share is no share, or a split stays empty.
    """
    if len(texts) != len(labels):
        raise TaskError(
            f"there must be one label a text, got {len(texts)} texts and {len(labels)} labels.\n"
            "Correct what the plugin reads."
        )
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise TaskError(
            f"shares must be above 0 and leave something to train on, got {validation_share} to"
            f" validate and {test_share} to test.\nThe usual share is 0.1."
        )
    names = tuple(sorted(set(labels)))
    index = {name: number for number, name in enumerate(names)}
    numbers = np.array([index[label] for label in labels], dtype=np.int64)
    position = _positions(texts, numbers)
    rows = {
        "test": np.flatnonzero(position < test_share),
        "validation": np.flatnonzero(
            (position >= test_share) & (position < test_share + validation_share)
        ),
        "train": np.flatnonzero(position >= test_share + validation_share),
    }
    for split, chosen in rows.items():
        if not len(chosen):
            raise TaskError(
                f"{len(texts)} texts are too few to make a {split} split of.\nBring more, or make"
                " the splits in the plugin."
            )
    parts = {
        split: Examples(texts=tuple(texts[i] for i in chosen.tolist()), labels=numbers[chosen])
        for split, chosen in rows.items()
    }
    return TaskData(
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        label_names=names,
    )


def _positions(texts: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return where each row stands in its class, in [0, 1); rows of the same text stand together.

    The order is that of the texts' hashes. A text of several classes stands in its smallest one's.
    """
    keys = [" ".join(text.split()).casefold() for text in texts]
    home: dict[str, int] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        home[key] = min(label, home.get(key, label))
    place: dict[str, float] = {}
    for label in set(home.values()):
        members = [key for key, own in home.items() if own == label]
        members.sort(key=lambda key: hashlib.sha256(key.encode(errors="replace")).digest())
        place |= {key: number / len(members) for number, key in enumerate(members)}
    return np.array([place[key] for key in keys], dtype=np.float64)
