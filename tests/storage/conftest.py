"""Sample events, an S3 server, and real ways to make the file system refuse."""

from __future__ import annotations

import math
import os
import resource
import tempfile
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from coral.records import (
    Candidate,
    CandidatesJoined,
    Contestant,
    Cost,
    Curve,
    Derivation,
    Event,
    Failure,
    GenerationFinished,
    GenerationStarted,
    Inheritance,
    Interval,
    Legacy,
    Lineage,
    Outcome,
    ParentsSelected,
    RunConfirmed,
    StageFinished,
    TestScore,
    Trial,
    TrialsDerived,
    Verdict,
)
from coral.storage import SqliteRunStore

NOBODY = 65534


@pytest.fixture
def events() -> tuple[Event, ...]:
    """A tiny run: trial 0 completes, 1 runs out of memory, 2 joins, 3 is squeezed from 0."""
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
    copy = replace(
        candidates[0],
        number=2,
        lineage=Lineage(operator="exploit", parents=(0,), changed=("adapter.rank",)),
        legacy=(Legacy(trial=0, stage=0),),
        entry=1,
    )
    small = replace(
        candidates[0],
        number=3,
        lineage=Lineage(operator="squeeze", parents=(0,)),
        legacy=(Legacy(trial=0, stage=0, weight=0.5),),
        derivation=Derivation(kind="squeeze", energy=0.9),
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
        CandidatesJoined(candidates=(copy,), replaced=(1,)),
        StageFinished(
            trial=2,
            outcome=Outcome(
                key="c",
                stage=1,
                inheritance=Inheritance(
                    retained_energy=0.75, by_module={"query": 0.5}, sources=(0,), moments_kept=True
                ),
                notes=("trial 0 made again",),
            ),
        ),
        GenerationFinished(
            generation=0,
            verdicts=(
                Verdict(status="completed", stage=0),
                Verdict(status="failed", stage=0, reason="ran out of memory", rule="oom"),
                Verdict(status="pruned", stage=1, rule="not promoted"),
            ),
        ),
        TrialsDerived(
            generation=0,
            trials=(
                Trial(
                    candidate=small,
                    outcomes=(Outcome(key="d", stage=1, checkpoint_bytes=7),),
                    verdict=Verdict(status="completed", stage=1),
                ),
            ),
        ),
        ParentsSelected(generation=0, parents=(1, 0)),
        StageFinished(trial=0, outcome=Outcome(key="e", stage=1)),
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
            contestants=(
                Contestant(
                    kind="long default",
                    trial=0,
                    seed=7,
                    metrics={"auroc": math.nan},
                    optimizer_steps=30,
                ),
            ),
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run of no events."""
    folder = tmp_path / "runs" / "quickstart"
    SqliteRunStore.create(folder, {"name": "quickstart", "coral": "1.0"}).close()
    return folder


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of moto's server, which speaks the real S3 API."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a user sets to reach the server: here and nowhere else are its credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_server


@pytest.fixture
def s3_location(s3_environment: str) -> str:
    """A folder in a fresh bucket."""
    import s3fs

    bucket = f"coral-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/cache/checkpoints"


@pytest.fixture
def s3_access_denied(s3_environment: str) -> Callable[[], AbstractContextManager[None]]:
    """Inside the block, the server knows no credentials."""

    def answer_unsigned(actions: str) -> None:
        url = f"{s3_environment}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, actions.encode(), headers)).close()

    @contextmanager
    def denied() -> Iterator[None]:
        answer_unsigned("0")
        try:
            yield
        finally:
            answer_unsigned("inf")

    return denied
