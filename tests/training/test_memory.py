from __future__ import annotations

import sys

import pytest
import torch

from coral.training.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")
BIG = 200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process's peak only rises")
def test_a_new_job_does_not_inherit_the_peak_of_the_one_before() -> None:
    reset_peak(CPU)
    before = peak_bytes(CPU)
    held = torch.ones(BIG // 4)
    high = peak_bytes(CPU)
    assert high - before > 0.9 * BIG
    assert float(held[-1]) == 1
    del held
    assert peak_bytes(CPU) == pytest.approx(high, rel=0.02)
    reset_peak(CPU)
    assert high - peak_bytes(CPU) > 0.9 * BIG
