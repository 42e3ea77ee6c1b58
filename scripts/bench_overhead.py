"""Coral's own work per trial, beside Optuna's samplers with SQLite storage.

All sides search the quickstart's space for the same two objectives, ask the same simulated trainer
about each genome, and keep every trial durably in SQLite. The trainer's time is taken off; what is
left is proposing, judging, selecting and storing. Runs alternate, so that a noisy machine is noisy
for all.

.venv/bin/pip install -c constraints.txt '.[bench]'
.venv/bin/python scripts/bench_overhead.py --trials 1000
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from coral import compose
from coral.backends import simulated_world
from coral.execution import InlineExecutor
from coral.genome import Genome, SearchSpace
from coral.loop import evolve
from coral.ports import Ports, Survey, TrainingJob
from coral.records import Outcome, TestScore
from coral.settings import RunSpec
from coral.simulation import SimulatedTrainer, WeightsInAddresses
from coral.storage import SqliteRunStore
from coral.tasks import discover

WORST = {"max": 0.0, "min": 1e12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Milliseconds per trial, the trainer's own left out."""

    wall: float
    cpu: float


class Stopwatch:
    """Adds up the time that the trainer takes."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def time(self, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return call()
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu


class TimedTrainer:
    """A simulated trainer under a stopwatch."""

    def __init__(self, trainer: SimulatedTrainer, watch: Stopwatch) -> None:
        self._trainer = trainer
        self._watch = watch

    def survey(self) -> Survey:
        return self._trainer.survey()

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        for job in jobs:
            yield from self._watch.time(lambda job=job: list(self._trainer.train([job])))

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        scores: tuple[TestScore, ...] = self._watch.time(
            lambda: self._trainer.score(finalists, seed)
        )
        return scores

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        self._trainer.export(finalist, folder, card)


def measured(trials: int, run: Callable[[Stopwatch], None]) -> Spent:
    """Return what a run took for each trial."""
    watch = Stopwatch()
    wall, cpu = time.perf_counter(), time.process_time()
    run(watch)
    return Spent(
        wall=1000 * (time.perf_counter() - wall - watch.wall) / trials,
        cpu=1000 * (time.process_time() - cpu - watch.cpu) / trials,
    )


def run_coral(spec: RunSpec, trainer: SimulatedTrainer, watch: Stopwatch) -> None:
    """Evolve on an SQLite run store in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, SqliteRunStore.create(Path(folder), {}) as runs:
        ports = Ports(
            executor=InlineExecutor(TimedTrainer(trainer, watch)),
            runs=runs,
            checkpoints=WeightsInAddresses(),
            observer=compose.SilentObserver(),
            survey=trainer.survey(),
        )
        state = evolve(spec, ports)
        assert len(state.trials) == spec.evolution.population_size * spec.evolution.generations


def run_optuna(
    spec: RunSpec,
    trainer: SimulatedTrainer,
    sampler: optuna.samplers.BaseSampler,
    trials: int,
    watch: Stopwatch,
) -> None:
    """Optimize on an SQLite storage in a folder of its own."""
    directions = {"max": "maximize", "min": "minimize"}

    def objective(trial: optuna.Trial) -> list[float]:
        genome = suggest(trial, spec.space)
        return list(watch.time(lambda: ask(spec, trainer, genome, trial.number)))

    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(
            storage=f"sqlite:///{folder}/study.db",
            sampler=sampler,
            directions=[directions[objective.direction] for objective in spec.objectives],
        )
        study.optimize(objective, n_trials=trials)


def suggest(trial: optuna.Trial, space: SearchSpace) -> Genome:
    """Return the genome at the point of the unit cube that Optuna suggests."""
    point = [trial.suggest_float(f"x{i}", 0, 1) for i in range(space.dimensions)]
    return space.decode(np.array(point))


def ask(spec: RunSpec, trainer: SimulatedTrainer, genome: Genome, number: int) -> list[float]:
    """Return a genome's objectives after the only stage; the worst ones where it fails."""
    job = TrainingJob(
        key=str(number),
        trial=number,
        plan=spec.space.express(genome),
        stage=0,
        stages=spec.training_stages,
        seed=spec.seed,
    )
    (outcome,) = trainer.train([job])
    if outcome.failure is not None:
        return [WORST[objective.direction] for objective in spec.objectives]
    return [outcome.metrics[objective.metric] for objective in spec.objectives]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--population", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    source = compose.Source(path=compose.find_config("quickstart"))
    loaded = compose.load(source, {"mode": "simulate"}).spec.without_inheritance()
    # One stage, so that one trial is one evaluation on every side.
    spec = replace(
        loaded,
        training_stages=(replace(loaded.training_stages[-1], survival_rate=1.0),),
        evolution=replace(
            loaded.evolution,
            population_size=options.population,
            generations=options.trials // options.population,
        ),
    )
    trainer = SimulatedTrainer(simulated_world(spec, discover([])))
    sides: dict[str, Callable[[Stopwatch], None]] = {
        "coral": lambda watch: run_coral(spec, trainer, watch),
        "optuna nsga2": lambda watch: run_optuna(
            spec,
            trainer,
            optuna.samplers.NSGAIISampler(population_size=options.population, seed=0),
            options.trials,
            watch,
        ),
        "optuna tpe": lambda watch: run_optuna(
            spec, trainer, optuna.samplers.TPESampler(seed=0), options.trials, watch
        ),
    }
    spent: dict[str, list[Spent]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, run in sides.items():
            spent[name].append(measured(options.trials, run))
    report(spent, options)


def report(spent: Mapping[str, Sequence[Spent]], options: argparse.Namespace) -> None:
    """Print medians over the repeats, and how many times as long as Coral each side took."""
    facts = {
        name: {
            "wall_ms_per_trial": statistics.median(run.wall for run in runs),
            "cpu_ms_per_trial": statistics.median(run.cpu for run in runs),
            "times_coral": statistics.median(
                run.wall / own.wall for run, own in zip(runs, spent["coral"], strict=True)
            ),
        }
        for name, runs in spent.items()
    }
    if options.json:
        print(json.dumps({"trials": options.trials, **facts}, indent=2))
        return
    print(f"{options.trials} trials, population {options.population}, {options.repeats} repeats")
    for name, row in facts.items():
        print(
            f"{name:<14} {row['wall_ms_per_trial']:8.2f} ms wall"
            f" {row['cpu_ms_per_trial']:8.2f} ms cpu   {row['times_coral']:6.1f} x"
        )


if __name__ == "__main__":
    main()
