"""What ``coral doctor`` found, on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

MARGIN = 22
"""Columns before what was found."""


def print_checks(facts: dict[str, Any], console: Console) -> None:
    """Print a line for each check, with its remedy where it found a fault."""
    for check in facts["checks"]:
        mark, style = ("ok", "green") if check["ok"] else ("fix", "bold red")
        told = check["told"].replace("\n", "\n" + " " * MARGIN)
        line = Text.assemble((f"{mark:<5}", style), f"{check['topic']:<{MARGIN - 5}}", told)
        console.print(line, soft_wrap=True)
        if not check["ok"] and check["remedy"]:
            console.print(Text(" " * MARGIN + check["remedy"], "bold"), soft_wrap=True)
    faults = sum(not check["ok"] for check in facts["checks"])
    if faults:
        counted = "1 thing is" if faults == 1 else f"{faults} things are"
        console.print(Text(f"{counted} to be put right"), soft_wrap=True)
    else:
        console.print(Text(f"ready    next: coral evolve {facts['config']}"), soft_wrap=True)
