"""Time and memory of large simulated evolutions, the run store included.

Each runs in a process of its own, through the command line. The time of a genome is taken from the
events in the run store: over the first tenth of the generations, and over the last.

.venv/bin/python scripts/bench_scale.py 10 100 500
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

POPULATION = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Attributes:
    wall_seconds, process_seconds: of the whole process, start-up included.
    first_ms, last_ms: for each genome, over the first and the last tenth of the generations.
    """

    genomes: int
    wall_seconds: float
    process_seconds: float
    peak_memory_bytes: int
    store_bytes: int
    first_ms: float
    last_ms: float


def measure(generations: int) -> Measured:
    """Evolve that many generations of the quickstart without training."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "coral", "evolve", "quickstart", "--simulate", "--json"),
            f"evolution.population_size={POPULATION}",
            f"evolution.generations={generations}",
            f"output_dir={folder}/run",
        ]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(command)} failed")
        database = Path(folder) / "run" / "run.sqlite"
        first, last = genome_milliseconds(database)
        return Measured(
            genomes=POPULATION * generations,
            wall_seconds=wall,
            process_seconds=usage.ru_utime + usage.ru_stime,
            peak_memory_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            store_bytes=database.stat().st_size,
            first_ms=first,
            last_ms=last,
        )


def genome_milliseconds(database: Path) -> tuple[float, float]:
    """Return the wall time of a genome in the first and the last tenth of the generations."""
    with closing(sqlite3.connect(database)) as connection:
        ends = [
            row[0]
            for row in connection.execute(
                "SELECT recorded_at FROM events"
                " WHERE kind = 'generation_finished' ORDER BY sequence"
            )
        ]
    tenth = max(1, (len(ends) - 1) // 10)

    def mean(times: list[float]) -> float:
        return 1000 * (times[-1] - times[0]) / (len(times) - 1) / POPULATION

    return mean(ends[: tenth + 1]), mean(ends[-tenth - 1 :])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("generations", type=int, nargs="+")
    for generations in parser.parse_args().generations:
        found = measure(generations)
        print(
            f"{found.genomes:>7,} genomes  {found.wall_seconds:7.1f} s"
            f"  ({found.process_seconds:.1f} s of process time)"
            f"  {1000 * found.wall_seconds / found.genomes:.2f} ms each:"
            f" {found.first_ms:.2f} at first, {found.last_ms:.2f} at last"
            f"  {found.peak_memory_bytes / 1e6:.0f} MB  store {found.store_bytes / 1e6:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
