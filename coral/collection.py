"""Collecting what a run left in the cache and nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from coral.backends import FRESH, checkpoints_at
from coral.evolution import NEEDED_BY_NOBODY, Claim, claims, spare
from coral.records import Event, Outcome, StageFinished
from coral.reporting import Facts
from coral.settings import RunSpec
from coral.storage import FsspecCheckpointStore, SqliteRunStore, run_lock
from coral.stored_run import open_run


def collect(folder: Path, *, limit: int | None = None, dry_run: bool = False) -> Facts:
    """Remove checkpoints of a run and return the facts of what went and what stays.

    Without a limit these are the ones that no part of the run asks for any more. What is removed
    costs the training of it if it is needed after all.

    Args:
        limit: bytes that may stay. What goes is chosen in the order of ``claims``, and what the
            run would go on from, or hand over, stays in any case.
        dry_run: only tell.

    Raises:
        RunError: the folder holds no run.
        RunLockedError: another process works on it; a dry run doesn't mind.
        CheckpointError: the cache can't be reached.
    """
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(run_lock(folder))
        store = stack.enter_context(SqliteRunStore.read_only(folder))
        run = open_run(folder, store)
        facts: Facts = {
            "run": str(folder),
            "simulated": run.spec.simulated,
            "dry_run": dry_run,
            "location": "",
            "removed": [],
            "removed_bytes": 0,
            "kept": [],
            "kept_bytes": 0,
        }
        if run.spec.simulated:
            return facts
        location = checkpoints_at(run.spec, store.meta().get(FRESH, ""))
        checkpoints = FsspecCheckpointStore(location)
        asked = claims(run.state(), run.spec, _outcomes(store.events()))
        sizes = {claim.address: checkpoints.size(claim.address) or 0 for claim in asked}
        found = [claim for claim in asked if sizes[claim.address]]
        useless = [claim for claim in found if claim.use <= NEEDED_BY_NOBODY]
        removed = useless if limit is None else spare(found, sizes, limit)
        if not dry_run:
            checkpoints.discard([claim.address for claim in removed])
    kept = [claim for claim in found if claim not in removed]
    for name, part in (("removed", removed), ("kept", kept)):
        facts[name] = [_row(claim, sizes[claim.address], run.spec) for claim in part]
        facts[f"{name}_bytes"] = sum(row["bytes"] for row in facts[name])
    return {**facts, "location": location}


def _outcomes(events: Iterable[Event]) -> Iterator[tuple[int, Outcome]]:
    """Yield every outcome that was ever stored, with its trial's number."""
    for event in events:
        if isinstance(event, StageFinished):
            yield event.trial, event.outcome


def _row(claim: Claim, size: int, spec: RunSpec) -> dict[str, Any]:
    stage = None if claim.stage is None else spec.training_stages[claim.stage].name
    return {
        "trial": claim.trial,
        "stage": stage,
        "address": claim.address,
        "bytes": size,
        "use": claim.use.name.lower(),
        "reason": claim.reason,
    }
