"""What a config trains on, on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

LABELS_SHOWN = 12


def print_data(facts: dict[str, Any], console: Console) -> None:
    """Print splits, lengths, classes, duplicates and examples of each task."""
    for name, task in facts["tasks"].items():
        console.print(Text(name, "bold"))
        console.print(_splits(task["splits"], facts["sequence_len"]))
        train = task["splits"]["train"]
        written = task["problem"] == "causal_lm"
        sought = _trained(train) if written else _labels(train["labels"], task["problem"])
        console.print(sought, soft_wrap=True)
        for note in task["notes"]:
            console.print(Text(note), soft_wrap=True)
        if repeated := task["repeated_texts"]:
            console.print(Text(f"{repeated:,} texts to train on are there before"), soft_wrap=True)
        for pair, count in task["shared_texts"].items():
            if count:
                warning = f"{count} texts are in {pair}: what is measured there is too good"
                console.print(Text(warning, "yellow"))
        for example in task["examples"]:
            if written:
                text = _marked(example["parts"])
            else:
                text = Text.assemble((f"{example['label']}: ", "bold"), example["text"])
            console.print(text, soft_wrap=True)
        console.print()


def _splits(splits: dict[str, Any], sequence_len: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("split")
    for title in ("texts", "median tokens", "95 %", "longest", f"over {sequence_len}", "lost"):
        table.add_column(title, justify="right")
    for name, split in splits.items():
        tokens = split["tokens"]
        table.add_row(
            name,
            f"{split['examples']:,}",
            str(tokens["median"]),
            str(tokens["p95"]),
            str(tokens["longest"]),
            f"{split['cut']:.1%}",
            f"{split['tokens_lost']:.1%}",
        )
    return table


def _trained(split: dict[str, Any]) -> Text:
    text = Text(f"{split['trained_tokens']:,} tokens to learn to write, marked «so» below")
    if lost := split["without_answer"]:
        text.append(f"; {lost} examples have their answers cut off and are left out", "yellow")
    return text


def _marked(parts: list[dict[str, Any]]) -> Text:
    """Return an example whose trained parts stand out, also without colours."""
    text = Text()
    for part in parts:
        if part["trained"]:
            text.append(f"«{part['text']}»", "bold green")
        else:
            text.append(part["text"])
    return text


def _labels(counts: dict[str, Any], problem: str) -> Text:
    what = {"single_label": "classes", "multi_label": "labels", "regression": "mean of"}[problem]
    shown = sorted(counts, key=lambda name: (-counts[name], name))[:LABELS_SHOWN]
    told = ", ".join(f"{name} {counts[name]:,.6g}" for name in shown)
    more = f", and {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
    return Text(f"{what} to train on: {told}{more}")
