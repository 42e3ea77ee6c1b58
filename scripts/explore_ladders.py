"""What a ladder of stages saves and what it costs, over simulated evolutions.

Everything that it prints is what a profile predicts; nothing is trained.

.venv/bin/python scripts/explore_ladders.py --seeds 24 '0.12/0.5 0.4/0.25 1' '0.08/0.5 0.3/0.25 1' 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from coral import compose
from coral.backends import backend
from coral.fidelity import PruneSettings, Stage
from coral.settings import RunSpec


def ladder_of(text: str) -> tuple[Stage, ...]:
    """Return the stages of a text such as ``0.12/0.5 0.4/0.25 1``: epochs, survival rate."""
    stages = []
    for i, part in enumerate(text.split()):
        epochs, _, survival = part.partition("/")
        stages.append(
            Stage(
                name=f"S{i}",
                epoch_budget=float(epochs),
                data_percentage=min(100.0, 100 * float(epochs)),
                survival_rate=float(survival or 1),
            )
        )
    return tuple(stages)


def evolved(spec: RunSpec) -> tuple[float, float]:
    """Simulate an evolution; return its share of naive steps and its champion's test score."""
    observer = compose.SilentObserver()
    with tempfile.TemporaryDirectory() as folder, backend(spec, (), observer) as used:
        _, state = compose.run_in(Path(folder) / "run", spec, (), used, observer)
    assert state.confirmation is not None
    score = state.confirmation.scores[0].metrics[spec.objectives[0].metric]
    return state.ledger.share_of_naive, score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ladders", nargs="+", metavar="LADDER")
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=24)
    options = parser.parse_args()
    source = compose.Source(path=compose.find_config(options.config))
    for text in options.ladders:
        shares, scores = [], []
        for seed in range(options.seeds):
            overrides = {
                "mode": "simulate",
                "seed": str(seed),
                "evolution.population_size": str(options.population),
                "evolution.generations": str(options.generations),
            }
            spec = compose.load(source, overrides).spec.without_inheritance()
            share, score = evolved(
                replace(spec, training_stages=ladder_of(text), prune=PruneSettings(rules=()))
            )
            shares.append(share)
            scores.append(score)
        error = statistics.stdev(scores) / len(scores) ** 0.5
        print(
            f"{text:<32} {1 / statistics.mean(shares):5.2f} x fewer steps"
            f"   champion on simulated test {statistics.mean(scores):.4f} ± {error:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
