"""The plan of a run whose model or data are out of reach, on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_outline(facts: dict[str, Any], console: Console) -> None:
    """Print what was checked of a run, and what was not."""
    console.print(Text.assemble((facts["run"], "bold"), f"  {facts['base_model']}"), soft_wrap=True)
    tasks = ", ".join(
        f"{name} ({'not here' if count is None else f'{count:,}'})"
        for name, count in facts["tasks"].items()
    )
    console.print(Text(f"tasks (train examples): {tasks}"), soft_wrap=True)
    console.print(Text(f"searched: {', '.join(facts['genes'])}\n"), soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("stage", "genomes", "epochs by its end", "steps each"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in facts["stages"]:
        steps = row["optimizer_steps_each"]
        told = "" if steps is None else f"{steps:,}"
        table.add_row(row["name"], str(row["genomes"]), f"{row['epochs']:g}", told)
    console.print(table)
    console.print(f"{facts['share_of_naive']:.1%} of training every genome in full\n")
    for line in facts["unchecked"]:
        console.print(Text(f"not checked: {line}", "yellow"), soft_wrap=True)
    console.print(
        Text("all the rest is checked; nothing was timed. next: the same, with the network"),
        soft_wrap=True,
    )
