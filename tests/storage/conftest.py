"""Sample events, and real ways to make the file system refuse."""

from __future__ import annotations

import math
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from coral.records import (
    Candidate,
    Cost,
    Curve,
    Event,
    Failure,
    GenerationFinished,
    GenerationStarted,
    Interval,
    Lineage,
    Outcome,
    RunConfirmed,
    StageFinished,
    TestScore,
    Verdict,
)

NOBODY = 65534


@pytest.fixture
def events() -> tuple[Event, ...]:
    """A tiny run: trial 0 completes, trial 1 runs out of memory."""
    candidates = tuple(
        Candidate(
            number=number,
            generation=0,
            genome={"schedule.learning_rate": 2e-4, "adapter.rank": 8, "adapter.rslora": False},
            digest=f"digest-{number}",
            lineage=Lineage(operator="mutation", parents=(number,), changed=("adapter.rank",)),
        )
        for number in (0, 1)
    )
    interval = Interval(estimate=0.9, low=0.85, high=math.inf)
    return (
        GenerationStarted(generation=0, candidates=candidates),
        StageFinished(
            trial=0,
            outcome=Outcome(
                key="a",
                stage=0,
                metrics={"kind.auroc": 0.9, "auroc": 0.9, "loss_slope": math.nan},
                cost=Cost(optimizer_steps=12, teraflops=1.5),
                curve=Curve(step=(1, 2), loss=(0.7, math.inf), gradient_norm=(1.0, -math.inf)),
                cumulative_steps=30,
                checkpoint="c" * 64,
            ),
        ),
        StageFinished(
            trial=1,
            outcome=Outcome(
                key="b", stage=0, failure=Failure(kind="oom", message="too big"), attempts=2
            ),
        ),
        GenerationFinished(
            generation=0,
            verdicts=(
                Verdict(status="completed", stage=0),
                Verdict(status="failed", stage=0, reason="ran out of memory", rule="oom"),
            ),
        ),
        RunConfirmed(
            champion=0,
            reference=1,
            scores=(
                TestScore(
                    trial=0,
                    metrics={"auroc": 0.9},
                    intervals={"auroc": interval},
                    difference={"auroc": interval},
                ),
            ),
        ),
    )


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """Inside the block, the kernel refuses to let a file of ours grow past this many bytes."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that any user can reach (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def without_write_permission(
    shared_folder: Path,
) -> Callable[[], AbstractContextManager[None]]:
    """Inside the block, ``shared_folder`` is read-only, for root too."""

    @contextmanager
    def denied() -> Iterator[None]:
        shared_folder.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if is_root:
                os.seteuid(0)
            shared_folder.chmod(0o755)

    return denied
