"""Splits that the data does not have."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of the rows that go to splits which have to be made; 0 for one that is there."""

    validation: float
    test: float

    def check(self, task: str) -> None:
        """Check the shares that a user gave.

        Raises:
            TaskError: one is not above 0, or too little is left to train on.
        """
        for name, share in (("validation_share", self.validation), ("test_share", self.test)):
            if not 0 < share <= 0.5:
                raise TaskError(
                    f"task {task!r}: {name} must be above 0 and at most 0.5, got {share}.\n"
                    "The usual share is 0.1."
                )


def split(
    task: str,
    texts: Sequence[str],
    labels: NDArray[np.int64],
    groups: Sequence[str] | None,
    shares: Shares,
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each split that is made, and those that are left to train on.

    Classes keep their shares as far as rows that belong together allow: those of one group, and
    those of one text.

    Raises:
        TaskError: there are too few rows.
    """
    together = _together(texts, groups)
    rows = np.arange(len(texts))
    made: dict[str, NDArray[np.int64]] = {}
    wanted = [
        (name, share)
        for name, share in (("test", shares.test), ("validation", shares.validation))
        if share
    ]
    for name, share in wanted:
        chosen = _fold(labels[rows], together[rows], share * len(texts) / len(rows), seed)
        if not 0 < len(chosen) < len(rows):
            raise TaskError(
                f"task {task!r}: {len(texts)} rows in {len(set(together.tolist()))} groups are too"
                f" few to make a {name} split of.\nAdd data, or bring splits of your own."
            )
        made[name] = rows[chosen]
        rows = np.delete(rows, chosen)
    return {**made, "train": rows}


def _fold(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.int64]:
    """Return about a share of the rows, stratified by label, no group divided."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(max(2, round(1 / share)), len(labels), len(set(groups.tolist())))
    if folds < 2:
        return np.empty(0, dtype=np.int64)
    cut = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes smaller than the folds are many
        try:
            _, chosen = next(iter(cut.split(labels, labels, groups)))
        except ValueError:  # every class is smaller than that
            return np.empty(0, dtype=np.int64)
    found: NDArray[np.int64] = chosen
    return found


def _together(texts: Sequence[str], groups: Sequence[str] | None) -> NDArray[np.int64]:
    """Return a number for each row: rows that share a text or a group, however far, share it."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(texts)
    keys = [[plain(text) for text in texts]]
    if groups is not None:
        keys.append(list(groups))
    first = np.concatenate([_first_of_each(own) for own in keys])
    rows = np.tile(np.arange(count), len(keys))
    links = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, first)), shape=(count, count))
    _, component = connected_components(links, directed=False)
    found: NDArray[np.int64] = component.astype(np.int64)
    return found


def plain(text: str) -> str:
    """Return what texts share that differ in spaces and capitals alone."""
    return " ".join(text.split()).casefold()


def _first_of_each(values: Sequence[str]) -> NDArray[np.int64]:
    """Return for each value where it stands first."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(value, i) for i, value in enumerate(values)], np.int64)
