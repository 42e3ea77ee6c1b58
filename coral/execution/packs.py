"""Which jobs go to a worker together."""

from __future__ import annotations

from collections.abc import Sequence

from coral.ports import TrainingJob

ROUNDS = 8
"""Packs that there are at least before one gets more jobs than train at once."""


def packs(jobs: Sequence[TrainingJob], slots: int) -> list[tuple[TrainingJob, ...]]:
    """Return jobs in packs, those that are alike together; the pack of the first job comes first.

    Which they are depends on the jobs alone, not on how many workers there are: with whom a genome
    trains decides how its numbers are rounded.

    Args:
        slots: jobs that train side by side. Packs are of so many, and of more where there are many
            jobs, so that slots that become free are filled again.
    """
    if slots == 1:
        return [(job,) for job in jobs]
    size = slots * max(1, len(jobs) // (ROUNDS * slots))
    alike = sorted(range(len(jobs)), key=lambda i: (_shape(jobs[i]), i))
    groups = [alike[start : start + size] for start in range(0, len(alike), size)]
    return [tuple(jobs[i] for i in group) for group in sorted(groups, key=min)]


def _shape(job: TrainingJob) -> tuple[int, str, int]:
    """Return what makes jobs alike: how long texts are, where the adapter begins, how many rows."""
    plan = job.plan
    return plan.encoding.sequence_len, plan.adapter.layers, plan.schedule.batch_size
