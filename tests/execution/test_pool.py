"""Real processes, real kills."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coral.errors import ModelError, WorkersError
from coral.execution import InlineExecutor, PoolExecutor
from coral.ports import Progress
from coral.records import Outcome
from coral.testing.trainers import scripted_trainer
from tests.execution.conftest import SCRIPTED, MakeJob, ReadJournal, is_running, wait_until

MakePool = Callable[..., PoolExecutor]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools: list[PoolExecutor] = []

    def make(payload: dict[str, Any] | None = None, **options: Any) -> PoolExecutor:
        pools.append(PoolExecutor(SCRIPTED, payload or {}, **({"workers": 1} | options)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def failure_kinds(outcomes: list[Outcome]) -> list[str | None]:
    return [outcome.failure.kind if outcome.failure else None for outcome in outcomes]


def test_results_do_not_depend_on_worker_count(make_job: MakeJob, make_pool: MakePool) -> None:
    jobs = [make_job(trial, learning_rate=10 ** (-2 - trial / 4)) for trial in range(8)]
    inline = InlineExecutor(scripted_trainer({}, "cpu", lambda progress: None))
    expected = {outcome.key: outcome for outcome in inline.run(jobs)}
    for workers in (1, 2, 4):
        pool = make_pool(workers=workers)
        assert {outcome.key: outcome for outcome in pool.run(jobs)} == expected
        pool.close()


@pytest.mark.parametrize("slots", [1, 4])
def test_one_trials_failure_is_an_outcome_and_spares_the_others(
    make_job: MakeJob, make_pool: MakePool, journal: Path, read_journal: ReadJournal, slots: int
) -> None:
    pool = make_pool(
        {
            "journal": str(journal),
            "trials": {
                "0": {"die": 1},
                "1": {"die": 9},
                "2": {"hang": True},
                "3": {"raise": "no such column"},
                "4": {"oom_above": 5},
                "5": {"diverge": True},
            },
        },
        workers=2,
        trial_timeout_seconds=1.0,
        slots=slots,
    )
    jobs = [make_job(trial) for trial in range(8)]
    by_key = {outcome.key: outcome for outcome in pool.run(jobs)}
    once, always, hung, raised, oom, diverged, *fine = outcomes = [by_key[job.key] for job in jobs]

    assert failure_kinds(outcomes) == [
        *(None, "crashed", "timeout", "plugin", None, "diverged", None, None)
    ]
    assert once.attempts == 2
    assert once.metrics == fine[0].metrics
    assert always.attempts == 3
    assert always.failure is not None
    assert "SIGKILL" in always.failure.message
    assert hung.failure is not None
    assert "trial_timeout_seconds = 1 " in hung.failure.message
    assert "; it stood in " in hung.failure.message
    assert "trainers.py" in hung.failure.traceback
    assert raised.failure is not None
    assert "raise RuntimeError(value)\nRuntimeError: no such column" in raised.failure.traceback
    assert oom.attempts == 3
    assert diverged.attempts == 1
    assert sum(line["trial"] == 1 for line in read_journal()) == 3


def test_lost_packs_may_leave_more_jobs_under_way_than_workers_read_ahead(
    make_job: MakeJob, make_pool: MakePool
) -> None:
    dying = {str(trial): {"die": 1} for trial in (0, 4, 8, 12)}
    pool = make_pool({"trials": dying}, workers=1, slots=4)
    outcomes = list(pool.run([make_job(trial) for trial in range(16)]))
    assert failure_kinds(outcomes) == [None] * 16


def test_packs_are_of_the_size_that_the_trainer_finds_best(
    make_job: MakeJob, make_pool: MakePool, journal: Path, read_journal: ReadJournal
) -> None:
    pool = make_pool({"journal": str(journal), "slots": 3}, slots=None)
    outcomes = list(pool.run([make_job(trial) for trial in range(7)]))
    assert len(outcomes) == 7
    assert [line["pack"] for line in read_journal()] == [3, 3, 3, 3, 3, 3, 1]


def test_a_worker_killed_from_outside_is_replaced_on_its_own_device(
    make_job: MakeJob, make_pool: MakePool, journal: Path, read_journal: ReadJournal
) -> None:
    pool = make_pool(
        {"journal": str(journal), "seconds": 0.8}, workers=2, devices=("cuda:0", "cuda:1")
    )

    def kill_the_first() -> None:
        assert wait_until(lambda: len(read_journal()) >= 2, seconds=10)
        os.kill(read_journal()[0]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    outcomes = list(pool.run([make_job(trial) for trial in range(4)]))
    killer.join()

    assert failure_kinds(outcomes) == [None] * 4
    assert sorted(outcome.attempts for outcome in outcomes) == [1, 1, 1, 2]
    lines = read_journal()
    assert {line["device"] for line in lines[:2]} == {"cuda:0", "cuda:1"}
    device_of = {line["pid"]: line["device"] for line in lines}
    assert len(device_of) == 3
    replaced = next(pid for pid in device_of if pid not in {line["pid"] for line in lines[:2]})
    assert device_of[replaced] == lines[0]["device"]


def test_a_worker_killed_between_jobs_costs_nothing(
    make_job: MakeJob, make_pool: MakePool, journal: Path, read_journal: ReadJournal
) -> None:
    pool = make_pool({"journal": str(journal)})
    list(pool.run([make_job(1)]))
    os.kill(read_journal()[0]["pid"], signal.SIGKILL)
    time.sleep(0.3)
    (outcome,) = pool.run([make_job(2)])
    assert outcome.failure is None
    assert outcome.attempts == 1


def test_a_worker_that_exits_with_status_0_is_noticed(
    make_job: MakeJob, make_pool: MakePool
) -> None:
    pool = make_pool({"trials": {"1": {"exit": 0}}}, retries=0)
    crashed, fine = pool.run([make_job(1), make_job(2)])
    if crashed.failure is None:
        crashed, fine = fine, crashed
    assert crashed.failure is not None
    assert crashed.failure.kind == "crashed"
    assert "status 0" in crashed.failure.message
    assert fine.failure is None


def test_a_job_that_can_not_be_sent_to_a_worker_is_a_failure_too(
    make_job: MakeJob, make_pool: MakePool
) -> None:
    (outcome,) = make_pool().run([make_job(1, seed=lambda: 1)])
    assert outcome.failure is not None
    assert outcome.failure.kind == "plugin"
    assert "pickle" in outcome.failure.message


def test_survey_score_and_export_happen_in_a_worker(
    make_job: MakeJob, make_pool: MakePool, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    pool = make_pool(devices=("cuda:3",), on_progress=seen.append)
    survey = pool.survey()
    assert survey.device == "cuda:3"
    assert {task.name for task in survey.tasks} == {"origin", "kind"}
    finalist = make_job(4, stage=1, resume_from="champion")
    (score,) = pool.score([finalist], seed=1)
    assert score.trial == 4
    pool.export(finalist, tmp_path / "champion", {"trial": 4})
    assert (tmp_path / "champion" / "coral.json").read_text() == '{\n  "trial": 4\n}\n'

    list(pool.run([make_job(5)]))
    assert wait_until(lambda: len(seen) == 2, seconds=2)
    assert [(progress.trial, progress.step) for progress in seen] == [(5, 1), (5, 5)]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_scores_come_in_the_order_of_the_finalists(
    make_job: MakeJob, make_pool: MakePool, workers: int
) -> None:
    rates = {4: 1e-2, 2: 1e-3, 9: 3e-3, 7: 1e-4}
    finalists = [make_job(number, learning_rate=rate) for number, rate in rates.items()]
    inline = InlineExecutor(scripted_trainer({}, "cpu", lambda progress: None))
    expected = inline.score(finalists, seed=1)
    assert [score.trial for score in expected] == [4, 2, 9, 7]
    assert make_pool(workers=workers).score(finalists, seed=1) == expected


def test_a_trainer_that_can_not_be_built_says_why(make_job: MakeJob, make_pool: MakePool) -> None:
    pool = make_pool({"refuse": "no model at ./nowhere"})
    with pytest.raises(ModelError) as surveyed:
        pool.survey()
    assert str(surveyed.value) == "no model at ./nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        next(pool.run([make_job(1)]))


def test_workers_that_keep_dying_while_they_load_are_given_up(
    make_pool: MakePool, tmp_path: Path
) -> None:
    builds = tmp_path / "builds"
    with pytest.raises(WorkersError, match="4 times in a row"):
        make_pool({"kill_builds": str(builds)}).survey()
    assert 4 <= len(builds.read_text()) <= 12


def test_control_c_reaches_no_worker_and_closing_the_run_cancels_the_rest(
    make_job: MakeJob, make_pool: MakePool, journal: Path, read_journal: ReadJournal
) -> None:
    pool = make_pool({"journal": str(journal), "trials": {"2": {"hang": True}}})
    outcomes = pool.run(make_job(trial) for trial in range(1, 100))
    next(outcomes)
    assert wait_until(lambda: len(read_journal()) == 2, seconds=5)
    pid = read_journal()[0]["pid"]
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert is_running(pid)

    outcomes.close()  # type: ignore[attr-defined]
    assert wait_until(lambda: not is_running(pid), seconds=2)
    (outcome,) = pool.run([make_job(200)])
    assert outcome.failure is None
    assert max(line["trial"] for line in read_journal() if line["trial"] != 200) <= 3


def test_close_stops_busy_workers_at_once_and_leaves_no_children(
    make_job: MakeJob, make_pool: MakePool, journal: Path, read_journal: ReadJournal
) -> None:
    script = {"1": {"hang": True}, "2": {"hang": True}}
    pool = make_pool({"journal": str(journal), "trials": script}, workers=2)
    outcomes = pool.run([make_job(1), make_job(2)])

    def wait_for_ever() -> None:
        with contextlib.suppress(WorkersError):
            next(outcomes)

    waiter = threading.Thread(target=wait_for_ever)
    waiter.start()
    assert wait_until(lambda: len(read_journal()) == 2, seconds=10)
    began = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - began < 2
    waiter.join(timeout=2)
    assert not waiter.is_alive()
    assert not multiprocessing.active_children()
    assert not any(is_running(line["pid"]) for line in read_journal())
    with pytest.raises(WorkersError, match="closed"):
        pool.survey()


ORPHANING_PARENT = """
import sys
from coral.execution import PoolExecutor
from coral.fidelity.stages import DEFAULT_LADDER
from coral.plan import TrainingPlan
from coral.ports import TrainingJob

payload = {"journal": sys.argv[1], "trials": {"0": {"hang": True}, "1": {"hang": True}}}
pool = PoolExecutor("coral.testing.trainers:scripted_trainer", payload, workers=2)
list(pool.run(
    TrainingJob(
        key=str(trial), trial=trial, plan=TrainingPlan(), stage=0, stages=DEFAULT_LADDER, seed=1
    )
    for trial in range(2)
))
"""


def test_killing_the_parent_leaves_neither_workers_nor_files_behind(
    journal: Path, read_journal: ReadJournal
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        parent = subprocess.Popen(
            [sys.executable, "-c", ORPHANING_PARENT, str(journal)],
            env={**os.environ, "TMPDIR": temporary},
        )
        try:
            assert wait_until(lambda: len(read_journal()) == 2, seconds=15)
            assert list(Path(temporary).glob("coral-*"))
        finally:
            parent.kill()
            parent.wait()
        pids = [line["pid"] for line in read_journal()]
        assert wait_until(lambda: not any(map(is_running, pids)), seconds=2)
        assert not list(Path(temporary).glob("coral-*"))


HEAVY = """
import os, pathlib

with pathlib.Path(os.environ["IMPORTS"]).open("a") as file:
    file.write(os.environ["OPENBLAS_NUM_THREADS"])

def trainer(payload, device, report):
    from coral.testing.trainers import scripted_trainer
    refusal = {"refuse": "as told"} if os.environ["SAID_LATER"] == "refuse" else {}
    return scripted_trainer(refusal, device, report)
"""
TWO_POOLS = """
import os
from coral.errors import ModelError
from coral.execution import PoolExecutor

for said in ("refuse", "go on"):
    os.environ["SAID_LATER"] = said
    with PoolExecutor("heavy:trainer", {}, workers=2, preload=["heavy"]) as pool:
        try:
            pool.survey()
        except ModelError:
            assert said == "refuse"
        else:
            assert said == "go on"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned elsewhere")
def test_what_workers_need_is_imported_once_for_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text(HEAVY)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "IMPORTS": str(tmp_path / "imports")}
    subprocess.run([sys.executable, "-c", TWO_POOLS], env=environment, check=True)
    assert (tmp_path / "imports").read_text() == "1"


SLOW = """
import os, pathlib, time

pathlib.Path(os.environ["IMPORTS"]).touch()
time.sleep(2)
"""
INTERRUPTED = """
import time
from coral.execution import PoolExecutor

with PoolExecutor("slow:trainer", {}, workers=1, preload=["slow"]):
    try:
        time.sleep(10)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are spawned elsewhere")
def test_control_c_while_that_is_imported_is_the_parents_alone(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    imports = tmp_path / "imports"
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        env={**os.environ, "PYTHONPATH": path, "IMPORTS": str(imports)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert wait_until(imports.exists, seconds=10)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.communicate(timeout=20) == ("interrupted\n", "")


def test_a_pool_without_workers_is_refused() -> None:
    with pytest.raises(WorkersError, match="workers=0"):
        PoolExecutor(SCRIPTED, {}, workers=0)
