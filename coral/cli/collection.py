"""What went from the cache, and what stays, on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coral.cli.tables import size

Facts = dict[str, Any]


def print_collection(facts: Facts, console: Console) -> None:
    """Print a row for each checkpoint that goes, and what stays by its use."""
    run = facts["run"]
    if facts["simulated"]:
        told = f"{run} was simulated: it wrote no checkpoints, so there is nothing to collect"
        console.print(Text(told), soft_wrap=True)
        return
    console.print(Text.assemble((run, "bold"), f"  checkpoints in {facts['location']}"))
    if facts["removed"]:
        console.print(_removed(facts["removed"]))
    verb = "would go" if facts["dry_run"] else "removed"
    console.print(Text(f"{verb}  {_amount(facts, 'removed')}"))
    console.print(Text(f"{'stay' if facts['dry_run'] else 'left'}  {_amount(facts, 'kept')}"))
    for line in _uses(facts["kept"]):
        console.print(Text(f"  {line}", "dim"))
    if facts["dry_run"] and facts["removed"]:
        console.print(Text(f"next: coral gc {run}"), soft_wrap=True)


def _removed(rows: list[Facts]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", justify="right")
    table.add_column("stage")
    table.add_column("size", justify="right")
    table.add_column("why")
    for row in rows:
        stage = row["stage"] or "confirmation"
        table.add_row(str(row["trial"]), stage, size(row["bytes"]), row["reason"])
    return table


def _amount(facts: Facts, part: str) -> str:
    count = len(facts[part])
    noun = "checkpoint" if count == 1 else "checkpoints"
    return f"{count} {noun}, {size(facts[f'{part}_bytes'])}"


USES = {
    "queued": "that the run goes on from, or hands over",
    "champion": "of the best so far",
    "reference": "of the default recipe",
    "population": "of the population",
    "front": "of the front",
    "soup": "for the next soup",
    "ancestor": "of ancestors of the population or the front",
    "unused": "of trials without a use",
    "superseded": "of stages that trials went on from",
}
"""Use to its name, the most valuable first."""


def _uses(rows: list[Facts]) -> list[str]:
    """Return a line for each use that something is kept for."""
    lines = []
    for use, name in USES.items():
        taken = [row["bytes"] for row in rows if row["use"] == use]
        if taken:
            lines.append(f"{size(sum(taken)):>8}  {len(taken)} {name}")
    return lines
