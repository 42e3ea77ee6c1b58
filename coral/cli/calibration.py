"""A calibration on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coral.cli.tables import Facts, number


def print_calibration(facts: Facts, console: Console) -> None:
    """Print how well a profile tells trials that it was not fitted to."""
    goodness = facts["goodness"]
    console.print(
        Text(
            f"fitted to {goodness['recorded_trials']} {facts['fitted_to']} trials of"
            f" {facts['base_model']} on {', '.join(facts['tasks'])}"
        ),
        soft_wrap=True,
    )
    console.print(f"on trials that it was not fitted to, by {goodness['folds']}-fold validation:")
    table = Table.grid(padding=(0, 2))
    rows = [
        (
            "final quality, Kendall tau",
            f"{number(goodness['tau'], 2)}  [{number(goodness['tau_low'], 2)},"
            f" {number(goodness['tau_high'], 2)}]",
        ),
        ("final quality, mean absolute error", number(goodness["quality_error"])),
        ("training loss, median relative error", f"{goodness['loss_error']:.0%}"),
        ("training time, median relative error", f"{goodness['train_seconds_error']:.0%}"),
    ]
    rows += [
        (
            f"{stage['stage']} against the last stage, Kendall tau",
            f"{number(stage['real'], 2)} recorded, {number(stage['simulated'], 2)} simulated",
        )
        for stage in goodness["agreement"]
    ]
    for name, value in rows:
        table.add_row(f"  {name}", value)
    console.print(table)
    profile = facts["profile"]
    then = f"coral evolve CONFIG --simulate simulation.profile={profile}"
    console.print(Text(f"profile  {profile}    next: {then}"), soft_wrap=True)
