"""A trial's lineage on the terminal: the tree of its weights, and the schedule that they saw."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from coral.cli.tables import gene_name, number, origin, value_text

Facts = dict[str, Any]
DEEPEST = 8
"""Levels that are drawn; there is no room for more on a terminal."""


def print_lineage(facts: Facts, console: Console) -> None:
    """Print whose weights went into a trial's, and what these were trained with."""
    console.print(
        Text.assemble((f"{facts['run']}", "bold"), f"  lineage of trial {facts['trial']}")
    )
    console.print(_tree(facts))
    console.print()
    console.print(Text("The schedule that the final weights really saw, oldest first", "bold"))
    console.print(_schedule(facts["schedule"]))
    trials = "1 trial" if facts["trials"] == 1 else f"{facts['trials']} trials"
    console.print(
        Text(f"\n{facts['optimizer_steps']:,} optimizer steps of {trials} went into these weights")
    )


def _tree(facts: Facts) -> Tree:
    """Draw the tree; what is there already is named and not drawn again."""
    nodes = {(node["trial"], node["stage"]): node for node in facts["nodes"]}
    root = facts["nodes"][0]
    tree = Tree(_label(root, None, facts["metric"]), guide_style="dim")
    drawn = {root["trial"]}
    open_ends = _inherited(tree, root, depth=1)
    while open_ends:
        branch, inherited, share, depth = open_ends.pop()
        node = nodes[inherited["trial"], inherited["stage"]]
        if node["trial"] in drawn:
            branch.add(Text(f"{_name(node, share)}  see above", "dim"))
        elif depth > DEEPEST:
            branch.add(Text(f"{_name(node, share)}  and so on; --json tells all", "dim"))
        else:
            drawn.add(node["trial"])
            twig = branch.add(_label(node, share, facts["metric"]))
            open_ends += _inherited(twig, node, depth + 1)
    return tree


def _inherited(
    branch: Tree, node: Facts, depth: int
) -> list[tuple[Tree, Facts, float | None, int]]:
    """Return what is to be drawn below a node, the last one first."""
    is_soup = node["operator"] == "soup"
    return [
        (branch, inherited, inherited["weight"] if is_soup else None, depth)
        for inherited in reversed(node["inherits"])
    ]


def _name(node: Facts, share: float | None) -> str:
    weight = "" if share is None else f", weight {share:.2f}"
    return f"trial {node['trial']} at {node['stage']}{weight}"


def _label(node: Facts, share: float | None, metric: str) -> Group:
    steps = f"{node['cumulative_steps']:,} steps"
    if node["optimizer_steps"] != node["cumulative_steps"]:
        steps += f", {node['optimizer_steps']:,} of them here"
    lines = [
        Text.assemble((_name(node, share), "bold"), f"  {node['digest'][:8]}  {origin(node)}"),
        Text(f"{metric} {number(node['value'])}  {steps}"),
    ]
    if node["changed"]:
        genes = "  ".join(
            f"{gene_name(change['gene'])} {_old(change)} -> {value_text(change['to'])}"
            for change in node["changed"]
        )
        lines.append(Text(f"unlike trial {node['changed_from']}: {genes}", "dim"))
    return Group(*lines)


def _old(change: Facts) -> str:
    return "unset" if change["from"] is None else value_text(change["from"])


def _schedule(segments: list[Facts]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("trial", "steps", "stages", "peak rate", "scheduler", "batch", "decay"):
        words = name in ("stages", "scheduler")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for name in ("rank", "scaling", "layers"):
        table.add_column(name, justify="right")
    for segment in segments:
        stages = dict.fromkeys((*segment["stages"][:1], *segment["stages"][-1:]))
        steps = f"{segment['from_step']}-{segment['to_step']}"
        training = [segment[key] for key in ("peak_learning_rate", "scheduler", "batch_size")]
        table.add_row(
            str(segment["trial"]),
            steps if segment["stages"] else "",
            "\n".join(stages) or segment["operator"],
            *(_cell(value) for value in (*training, segment["weight_decay"])),
            _rank(segment),
            value_text(segment["scaling"]),
            segment["layers"],
        )
    return table


def _cell(value: Any) -> str:
    return "" if value is None else value_text(value)


def _rank(segment: Facts) -> str:
    derivation = segment["derivation"]
    most = "<=" if derivation and derivation["rank"] is None else ""
    return f"{most}{segment['rank']}"
