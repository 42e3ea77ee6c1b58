from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.scripts.loading import load_script

SCRIPTS = Path(__file__).parents[2] / "scripts"
SCRIPT = SCRIPTS / "bench_gpu.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return load_script(SCRIPT)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would measure")
def test_without_a_device_it_says_so_and_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "no CUDA device" in done.stdout


def test_every_side_trains_the_same_examples(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sides of one process; that of several is the same stock trainer."""
    torch.set_num_threads(1)
    work = bench.Workload(
        model="tiny", device="cpu", steps=2, batch_size=4, tokens=16, layers="top-1", seed=0
    )
    monkeypatch.setattr(bench, "side_by_side", lambda work, count: bench.Result(side="", genomes=1))
    results = {(r.side, r.genomes): r for r in bench.measure(work, [2])[1:]}
    assert list(results) == [("hugging face", 2), ("coral", 2), ("coral, shared", 2)]
    assert {result.examples for result in results.values()} == {2 * 2 * 4}
    assert all(result.seconds > 0 for result in results.values())
    assert results["coral, shared", 2].teraflops < results["coral", 2].teraflops


def test_shapes_are_those_of_models_of_their_size(bench: ModuleType) -> None:
    with torch.device("meta"):
        import transformers

        millions = {
            name: sum(p.numel() for p in transformers.AutoModel.from_config(config()).parameters())
            / 1e6
            for name, config in bench.CONFIGS.items()
        }
    assert millions["encoder-22m"] == pytest.approx(22.7, rel=0.02)
    assert millions["decoder-0.6b"] == pytest.approx(596, rel=0.02)
    assert millions["decoder-8b"] == pytest.approx(7505, rel=0.02)
