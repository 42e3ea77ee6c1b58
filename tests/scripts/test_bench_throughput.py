from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from coral import compose
from coral.backends import trainer_payload
from coral.plan import digest_of
from coral.records import Failure, Outcome
from tests.scripts.loading import load_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_throughput.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script(SCRIPT)


def test_workers_can_import_the_script_before_torch() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import {SCRIPT.stem};"
        " sys.exit('torch' in sys.modules)"
    )
    root = SCRIPT.parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_genomes_differ_but_share_batch_size_and_layers(bench: ModuleType) -> None:
    plans = bench.genomes(6, "top-3", 32)
    assert len({digest_of(plan) for plan in plans}) == 6
    assert {(plan.schedule.batch_size, plan.adapter.layers) for plan in plans} == {(16, "top-3")}


def test_the_ratio_compares_speeds_of_the_same_repeat(bench: ModuleType) -> None:
    def took(seconds: float) -> object:
        return bench.Measurement(
            seconds=seconds,
            optimizer_steps=1,
            examples=16,
            teraflops=0.0,
            metrics={},
            peak_memory_bytes=0,
        )

    coral, other = [took(1.0), took(2.0)], [took(2.0), took(8.0)]
    assert bench.speed_ratios(coral, other) == [2.0, 4.0]


def test_a_failed_outcome_voids_the_measurement(bench: ModuleType) -> None:
    failure = Failure(kind="diverged", message="loss is not finite")
    with pytest.raises(RuntimeError, match="loss is not finite"):
        bench.checked(Outcome(key="k", stage=0, failure=failure))


def test_workers_are_told_what_a_run_tells_them(bench: ModuleType) -> None:
    settings = bench.trainer_settings(24, 12)
    quickstart = compose.load(compose.Source(path=compose.find_config("quickstart")), {}).spec
    assert settings.keys() == trainer_payload(quickstart, ()).keys()
    assert settings["base_model"] == quickstart.base_model
    assert settings["tasks"] == [[bench.TASK, {"train_examples": 24, "validation_examples": 12}]]
