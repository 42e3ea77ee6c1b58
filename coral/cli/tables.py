"""Facts as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from coral.plan import plan_paths

Facts = dict[str, Any]


def gene_name(path: str) -> str:
    """Return a gene's name without the plan's part, where no other part has a field so called."""
    name = path.partition(".")[2]
    alike = [other for other in plan_paths() if other.endswith(f".{name}")]
    return name if len(alike) == 1 else path


def duration(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> duration(75)
    '1 min 15 s'
    """
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds > 1 else f"{round(seconds, 1):g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Return bytes with a unit.

    >>> size(1_500_000)
    '1.5 MB'
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def number(value: Any, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def value_text(value: Any) -> str:
    """Return a gene's value, floats shortened."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(value_text(item) for item in value)
    return str(value)


def print_run(facts: Facts, console: Console) -> None:
    """Print a run: champion against baseline, front, trials, cost and audit."""
    simulation = facts["simulation"]
    told = (
        f"  {'simulated, ' if simulation else ''}{facts['status']}, generation"
        f" {facts['generation']} of {facts['generations']}, seed {facts['seed']}"
    )
    console.print(Text.assemble((facts["run"], "bold"), told))
    if simulation:
        console.print(Text(_beliefs(simulation)))
    if facts["champion"] is None:
        console.print(
            "No trial has finished yet." if facts["status"] == "running" else "No champion."
        )
        return
    console.print(_scores(facts))
    console.print(_comparison(facts), "", sep="\n")
    if facts["confirmation"]:
        console.print(_confirmation(facts), "", sep="\n")
    console.print(_front(facts), "", _summary(facts), sep="\n")
    if facts["status"] == "finished":
        path = facts["champion"]["path"]
        made = f"plan found  {path}/coral.json  (no adapter)" if simulation else f"champion  {path}"
        console.print(Text(made), soft_wrap=True)
    elif facts["status"] == "interrupted":
        console.print(Text(f"next: coral resume {facts['run']}"), soft_wrap=True)


def _beliefs(simulation: Facts) -> str:
    """Return in words what a simulation believes."""
    parts = [f"no training: scores, times and memory come from profile {simulation['profile']}"]
    wanted = [f"{stage} {tau:g}" for stage, tau in simulation["agreement"].items()]
    faults = [f"{name} {rate:g}" for name, rate in simulation["faults"].items() if rate]
    if wanted:
        parts.append(f"agreement {', '.join(wanted)}")
    if faults:
        parts.append(f"faults {', '.join(faults)}")
    if simulation["memory_bytes"] is not None:
        parts.append(f"workers of {size(simulation['memory_bytes'])}")
    return "; ".join(parts)


def _scores(facts: Facts) -> Table:
    """Champion and default recipe side by side, a row a metric."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = [("champion", facts["champion"]), ("default recipe", facts["baseline"])]
    rows = [pair for pair in rows if pair[1] is not None]
    splits = ("validation", "test") if facts["champion"]["metrics"]["test"] else ("validation",)
    table.add_column("simulated" if facts["simulation"] else "")
    for name, _ in rows:
        for split in splits:
            table.add_column(f"{name}\n{split}", justify="right")
    validation = facts["champion"]["metrics"]["validation"]
    primary = facts["objectives"][0]["metric"]
    for metric in dict.fromkeys((primary, *_shown_metrics(validation))):
        cells = [
            number((row["metrics"][split] or {}).get(metric)) for _, row in rows for split in splits
        ]
        table.add_row(metric, *cells)
    for label, text in (
        ("trial", lambda row: str(row["trial"])),
        ("parameters", lambda row: f"{row['trainable_parameters']:,}"),
        ("optimizer steps", lambda row: f"{row['cumulative_steps']:,}"),
        ("stage", lambda row: row["stage"]),
    ):
        blanks = [""] * (len(splits) - 1)
        table.add_row(label, *(cell for _, row in rows for cell in (text(row), *blanks)))
    return table


def _shown_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Return the means over tasks, in the tasks' order; each task's own where they share none."""
    own = [name for name in metrics if "." in name]
    shared = dict.fromkeys(name.partition(".")[2] for name in own)
    return [name for name in shared if name in metrics] or own


def _comparison(facts: Facts) -> Text:
    comparison = facts["comparison"]
    if facts["baseline"] is None and facts["status"] == "finished":
        told = f"the default recipe has no scores: see coral show {facts['run']} --failures"
        return Text(told, "yellow")
    if not comparison:
        return Text("")
    if facts["champion"]["trial"] == facts["baseline"]["trial"]:
        return Text("the default recipe is the champion: the search found nothing better")
    parts = [
        f"{name} {i['estimate']:+.4f} [{i['low']:+.4f}, {i['high']:+.4f}]"
        for name, i in comparison.items()
    ]
    test = "simulated test" if facts["simulation"] else "test"
    return Text(f"champion minus default on {test}, 95 % paired bootstrap: {'; '.join(parts)}")


CONTESTANTS = {
    "lineage": "trial {trial}, its own weights",
    "cold": "trial {trial} from scratch",
    "default": "default recipe",
    "long default": "default recipe, as many steps",
}
"""Kind of contestant to its name, in the order that they are shown in."""


def _confirmation(facts: Facts) -> Group:
    """Genome, lineage or luck: who was scored at the end, and who is handed over."""
    confirmation = facts["confirmation"]
    metric = facts["objectives"][0]["metric"]
    splits = ("validation", "simulated test" if facts["simulation"] else "test")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"confirmed on {metric}")
    for name in (*splits, "steps", "TFLOP"):
        table.add_column(name, justify="right")
    kinds = list(CONTESTANTS)
    for group in sorted(confirmation["groups"], key=lambda group: kinds.index(group["kind"])):
        name = CONTESTANTS[group["kind"]].format(**group)
        seeds = f", {group['seeds']} seeds" if group["seeds"] > 1 else ""
        table.add_row(
            f"{'* ' if group['wins'] else '  '}{name}{seeds}",
            _spread(group["validation"]),
            _spread(group["test"]),
            f"{group['optimizer_steps']:,}",
            "" if group["teraflops"] is None else f"{group['teraflops']:,.2f}",
        )
    winner = confirmation["contestants"][confirmation["winner"]]
    held = CONTESTANTS[winner["kind"]].format(**winner)
    seed = f" on seed {winner['seed']}" if winner["kind"] == "cold" else ""
    told = f"* champion/ holds {held}{seed}: the best on validation, which alone decided"
    return Group(table, Text(told))


def _spread(scores: Facts) -> str:
    if scores["std"] is None:
        return number(scores["mean"])
    return f"{number(scores['mean'])} ± {number(scores['std'])}"


def _front(facts: Facts) -> Group:
    """The front, one line of objectives and one of genes a member."""
    objectives = [objective["metric"] for objective in facts["objectives"]]
    title = "Pareto front, simulated" if facts["simulation"] else "Pareto front"
    lines = [Text(title, style="bold")]
    for row in facts["pareto"]:
        validation = row["metrics"]["validation"]
        scores = "  ".join(f"{metric} {_objective(validation[metric])}" for metric in objectives)
        lines.append(Text(f"trial {row['trial']:>3}  {scores}  {origin(row)}"))
        if row["derivation"] is None:  # which has the genes of others
            genes = "  ".join(f"{gene_name(k)}={value_text(v)}" for k, v in row["genome"].items())
            lines.append(Text(f"  {genes}", "dim"))
    return Group(*lines)


def origin(row: Facts) -> str:
    """Return in words what made a trial, and what it kept of the weights that it came from."""
    told = f"{row['operator']}{_of(row['parents'])}"
    match row["derivation"]:
        case {"kind": "soup"}:
            told = f"soup of {len(row['inherits'])}"
        case {"rank": None, "energy": energy}:
            told = f"squeezed from {row['inherits'][0]['trial']} to energy {percent(energy)}"
        case {"rank": rank}:
            told = f"squeezed from {row['inherits'][0]['trial']} to rank {rank}"
    if row["shares"] is not None:
        return f"{told}, with the weights of trial {row['shares']['trial']}"
    if row["retained_energy"] is not None:
        told += f", kept {percent(row['retained_energy'])}"
    elif row["parents"] and not row["inherits"]:
        told += ", cold"
    return told


def _of(parents: list[int]) -> str:
    return f" of {' and '.join(map(str, parents))}" if parents else ""


def _objective(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"


def _summary(facts: Facts) -> Group:
    trials, cost = facts["trials"], facts["cost"]
    derived = f", {facts['derived']} of them without training" if facts["derived"] else ""
    lines = [
        f"trials  {trials['total']}{derived}: {trials['completed']} completed,"
        f" {trials['pruned']} pruned, {trials['failed']} failed",
        f"cost    {cost['optimizer_steps']:,} optimizer steps, {cost['share_of_naive']:.1%} of the"
        f" {cost['naive_optimizer_steps']:,} of training every genome;"
        f" {cost['epochs_spent']:.1f} epochs spent, {cost['epochs_saved']:.1f} saved;"
        f" peak {size(facts['peak_memory_bytes'])} a worker",
        *_times(facts),
    ]
    if shares := facts["shares_computed"]:
        told = ", ".join(f"{share:.0%}" for share in shares)
        lines.append(
            f"shared  of training and scoring, {told} was computed, by generation: genomes share"
            " the rest"
        )
    lines += [
        f"trust   {trust['stage']} against the last stage: Kendall tau"
        f" {trust['kendall_tau']:.2f} over {trust['trials']} trials"
        for trust in facts["audit"]["stage_trust"]
        if trust["kendall_tau"] is not None
    ]
    lines += [
        f"proxy   {trust['proxy']} at {trust['stage']} against {trust['metric']} at the last stage:"
        f" Kendall tau {trust['kendall_tau']:.2f} over {trust['trials']} trials"
        for trust in facts["audit"]["proxy_trust"]
        if trust["kendall_tau"] is not None
    ]
    lines += [
        f"warm    {_gap(row, facts['objectives'][0]['metric'])}"
        for row in facts["warm_start"]
        if row["inherited"]["trials"]
    ]
    for rule in facts["audit"]["rules"]:
        told = f"pruned  {rule['condemned']} by: {rule['rule']}"
        if rule["audited"]:
            told += f"; {rule['audited']} audited, {rule['false_kills']} false kills"
        lines.append(told)
    return Group(*(Text(line) for line in lines))


def _gap(row: Facts, metric: str) -> str:
    """Children that inherited weights against those that started cold, at one stage."""
    told = f"{row['stage']}: median {metric} {number(row['inherited']['median'])}"
    told += f" of {row['inherited']['trials']} that inherited"
    gap = row["difference"]
    if gap is None:
        return f"{told}, none started cold"
    told += f", {number(row['cold']['median'])} of {row['cold']['trials']} cold:"
    told += f" {gap['estimate']:+.4f}"
    if gap["low"] is None:
        return told
    return f"{told} [{gap['low']:+.4f}, {gap['high']:+.4f}], 95 % bootstrap"


def _times(facts: Facts) -> list[str]:
    """The time that was taken, and that other numbers of workers would have taken."""
    makespan, workers = facts["makespan_seconds"], facts["workers"] or 1
    took = duration(facts["cost"]["wall_seconds"])
    plural = "worker" if workers == 1 else "workers"
    if facts["simulation"]:
        virtual = duration(makespan[str(workers)])
        took = f"{virtual} on {workers} virtual {plural}, simulated in {took}"
    elif facts["workers"]:
        took += f" on {workers} {plural}"
    others = [f"{duration(makespan[n])} on {n}" for n in sorted(makespan, key=int)]
    return [f"time    {took}", f"workers training and scoring take {', '.join(others)}"]


def print_failures(facts: Facts, console: Console) -> None:
    """Print every failure with its traceback."""
    if not facts["failures"]:
        console.print("No trial failed.")
    for failure in facts["failures"]:
        console.print(f"[bold]trial {failure['trial']}[/] at {failure['stage']}: {failure['kind']}")
        console.print(Text(failure["message"]))
        if failure["traceback"]:
            console.print(Text(failure["traceback"]), style="dim")


def print_runs(rows: list[Facts], console: Console) -> None:
    """Print one line a run, at its full width so that a folder can be copied."""
    lines = [("run", "status", "gen", "trials", "validation", "test", "time")]
    for facts in rows:
        champion = facts["champion"]
        metric = facts["objectives"][0]["metric"]
        best = champion and champion["metrics"]["validation"].get(metric)
        test = champion and (champion["metrics"]["test"] or {}).get(metric)
        lines.append(
            (
                facts["run"],
                _status(facts),
                f"{facts['generation']}/{facts['generations']}",
                str(facts["trials"]["total"]),
                f"{metric} {number(best)}",
                number(test),
                duration(facts["cost"]["wall_seconds"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for i, line in enumerate(lines):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        text = Text("  ".join(cells).rstrip(), style="" if i else "bold")
        console.print(text, soft_wrap=True)


def _status(facts: Facts) -> str:
    if not facts["simulation"]:
        return str(facts["status"])
    return "simulated" if facts["status"] == "finished" else f"simulated, {facts['status']}"


def print_forecast(facts: Facts, console: Console) -> None:
    """Print the plan of a run."""
    tasks = ", ".join(f"{name} ({count:,})" for name, count in facts["tasks"].items())
    simulation = facts["simulation"]
    mode = "  simulated" if simulation else ""
    title = Text.assemble((facts["run"], "bold"), f"{mode}  {facts['base_model']}")
    console.print(title, soft_wrap=True)
    if simulation:
        console.print(Text(_beliefs(simulation)))
    console.print(f"tasks (train examples): {tasks}")
    console.print(f"searched: {', '.join(facts['genes'])}\n")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("stage", "genomes", "steps each", "steps", "of full training", "time"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in facts["stages"]:
        table.add_row(
            row["name"],
            str(row["genomes"]),
            f"{row['optimizer_steps_each']:,}",
            f"{row['optimizer_steps']:,}",
            f"{row['share_of_naive']:.1%}",
            duration(row["seconds"]),
        )
    table.add_row(
        "[bold]all[/]",
        "",
        "",
        f"{facts['optimizer_steps']:,}",
        f"{facts['share_of_naive']:.1%}",
        duration(facts["wall_seconds"]),
    )
    console.print(table)
    kind, virtual = ("virtual", " of virtual time") if simulation else (facts["device"], "")
    console.print(
        f"\nat most, with nothing pruned by a rule, at the default recipe's speed:"
        f" {facts['examples_per_second_per_worker']:.0f} examples/s on each of {facts['workers']}"
        f" {kind} workers, about {duration(facts['wall_seconds'])}{virtual}"
    )
    console.print(_operations(facts))
    if facts["examples_per_second_side_by_side"]:
        console.print(_side_by_side(facts))
    console.print(
        f"memory  {size(facts['peak_memory_bytes_per_worker'])} a worker,"
        f" {size(facts['peak_memory_bytes'])} in all; disk  up to {size(facts['disk_bytes'])}"
    )
    if simulation and simulation["expected_agreement"]:
        console.print(_expected_agreement(simulation["expected_agreement"]))


def _operations(facts: Facts) -> str:
    """How much an average genome of the first generation computes."""
    told = f"a first genome computes {facts['operations_of_default']:.0%} of what the default does"
    layers = ", ".join(str(layer) for layer in facts["shared_before_layers"])
    return f"{told}; shared: what enters layer {layers}" if layers else told


def _side_by_side(facts: Facts) -> str:
    """How many genomes a worker trains at once, and what that was chosen by."""
    timed = facts["examples_per_second_side_by_side"]
    rates = ", ".join(f"{rate:.0f} with {count}" for count, rate in timed.items())
    return f"genomes side by side on a worker: {facts['side_by_side']} (examples/s: {rates})"


def _expected_agreement(agreement: dict[str, float | None]) -> Text:
    """How far stages are expected to rank genomes as the last one does."""
    told = ", ".join(f"{stage} {number(tau, 2)}" for stage, tau in agreement.items())
    return Text(f"trust   Kendall tau with the last stage, over the search space: {told}")
