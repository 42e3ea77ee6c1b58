"""Time the transfer of 200 modules of 4096 x 4096 from rank 64 to rank 16, on one core.

.venv/bin/python scripts/bench_rank_transfer.py
"""

from __future__ import annotations

import resource
import time

import torch

from coral.training.factors import Factors
from coral.training.transfer import Parent, inherit

MODULES = 200
WIDTH = 4096
PARENT_RANK, CHILD_RANK = 64, 16


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def adapter(rank: int) -> dict[str, Factors]:
        return {
            str(index): Factors(
                a=torch.randn(rank, WIDTH, generator=generator) / WIDTH**0.5,
                b=torch.randn(WIDTH, rank, generator=generator),
                scaling=2.0,
            )
            for index in range(MODULES)
        }

    parent, fresh = Parent(modules=adapter(PARENT_RANK), heads={}), adapter(CHILD_RANK)
    wall, process = time.perf_counter(), time.process_time()
    child = inherit(fresh, parent)
    wall, process = time.perf_counter() - wall, time.process_time() - process
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"modules          {MODULES} of {WIDTH} x {WIDTH}, rank {PARENT_RANK} to {CHILD_RANK}")
    print(f"processor        {process:.2f} s ({1000 * process / MODULES:.1f} ms a module)")
    print(f"wall clock       {wall:.2f} s")
    print(f"retained energy  {child.retained_energy:.3f}")
    print(f"peak memory      {peak:.2f} GiB, most of it the adapters themselves")


if __name__ == "__main__":
    main()
