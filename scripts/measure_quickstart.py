"""Runs the quickstart on several seeds, one after another, and prints what the README states.

.venv/bin/python scripts/measure_quickstart.py --seeds 5 --json quickstart.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--json", type=Path, help="where to keep all facts of all runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        command = [sys.executable, "-m", "coral", "evolve", arguments.config, "--json"]
        command += [*arguments.set, f"seed={seed}"]
        with tempfile.TemporaryDirectory() as cache:  # nothing was collected or computed before
            environment = {**os.environ, "CORAL_CACHE": cache}
            started = time.monotonic()
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            seconds = time.monotonic() - started
        rows.append({**json.loads(done.stdout), "seconds_with_start": seconds})
        Console(stderr=True).print(f"seed {seed}: {seconds:.0f} s")
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1))
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = (
        *("seed", "champion", "default", "difference [95 %]", "as many steps"),
        *("steps of naive", "time", "MB"),
    )
    for column in columns:
        table.add_column(column, justify="right")
    wins = 0
    for facts in rows:
        champion = facts["champion"]["metrics"]["test"]["auroc"]
        baseline = facts["baseline"]["metrics"]["test"]["auroc"]
        gain = facts["comparison"]["auroc"]
        wins += champion > baseline
        table.add_row(
            str(facts["seed"]),
            f"{champion:.4f}",
            f"{baseline:.4f}",
            f"{gain['estimate']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]",
            _long_default(facts),
            f"{facts['cost']['share_of_naive']:.1%}",
            f"{facts['seconds_with_start']:.0f} s",
            f"{facts['peak_memory_bytes'] / 1e6:.0f}",
        )
    console = Console()
    console.print(table)
    gains = [facts["comparison"]["auroc"]["estimate"] for facts in rows]
    console.print(
        f"test AUROC: champion better in {wins} of {len(rows)} seeds,"
        f" median difference {statistics.median(gains):+.4f};"
        f" median time {statistics.median(f['seconds_with_start'] for f in rows):.0f} s"
    )


def _long_default(facts: dict[str, Any]) -> str:
    """Return what the default recipe reached with as many steps as the champion's lineage.

    In brackets those steps, and how many times the lineage's operations they took.
    """
    groups = {group["kind"]: group for group in facts["confirmation"]["groups"]}
    long = groups.get("long default")
    if long is None:
        return ""
    times = long["teraflops"] / groups["lineage"]["teraflops"]
    return f"{long['test']['mean']:.4f} ({long['optimizer_steps']}, {times:.1f}x)"


if __name__ == "__main__":
    main()
