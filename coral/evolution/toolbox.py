"""The DEAP toolbox: the only module that imports DEAP, and moocore, which DEAP brings along.

DEAP's selectors draw from the global ``random`` and ``numpy.random``; they run in a scope that
seeds both from the run's own streams and restores them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import moocore
import numpy as np
from deap import base, tools
from numpy.typing import NDArray

from coral.genome import Genome, SearchSpace, mate, mutate
from coral.records import Objective
from coral.settings import EvolutionSettings

Scores = Sequence[tuple[float, ...]]


class Individual:
    """What DEAP selects: the position of a trial in a list, and its fitness."""

    __slots__ = ("fitness", "position")

    def __init__(self, position: int, fitness: base.Fitness) -> None:
        self.position = position
        self.fitness = fitness


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global generators for the length of the scope, then restore them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def build_toolbox(
    space: SearchSpace, settings: EvolutionSettings, objectives: Sequence[Objective]
) -> base.Toolbox:
    """Return the toolbox of a run.

    ``mate(one, two, rng=)`` and ``mutate(genome, rng=)`` vary genomes; ``select(individuals, k)``
    picks survivors; ``map`` applies a function to many.
    """
    toolbox = base.Toolbox()
    toolbox.register("map", map)
    toolbox.register("mate", partial(mate, space))
    toolbox.register(
        "mutate",
        partial(mutate, space, rate=settings.mutation_rate, strength=settings.mutation_strength),
    )
    toolbox.register("select", _selector(settings, len(objectives)))
    return toolbox


def _selector(settings: EvolutionSettings, objective_count: int) -> Callable[..., list[Individual]]:
    match settings.selection:
        case "nsga3" if objective_count > 1:
            points = tools.uniform_reference_points(objective_count, p=_divisions(objective_count))
            return partial(tools.selNSGA3, ref_points=points)
        case "tournament":
            return partial(_tournament, size=settings.tournament_size)
        case "nsga2" if objective_count > 1:
            return partial(tools.selNSGA2, nd="log")  # 30 times as fast as the standard sort
        case _:
            # DEAP's sort by "log" and its NSGA-III fail on one objective: both mean its best k. A
            # plugin's selection is asked by the loop, and here only for everybody in order.
            best: Callable[..., list[Individual]] = tools.selBest
            return best


def _divisions(objective_count: int) -> int:
    """Return divisions per objective: fewer with more objectives (Deb and Jain 2014, table 1)."""
    return {1: 1, 2: 12, 3: 6}.get(objective_count, 3)


def _tournament(individuals: list[Individual], k: int, size: int) -> list[Individual]:
    """Hold tournaments without replacement, so that nobody survives twice."""
    pool = list(individuals)
    chosen: list[Individual] = []
    while pool and len(chosen) < k:
        winner = tools.selTournament(pool, 1, tournsize=size)[0]
        pool.remove(winner)
        chosen.append(winner)
    return chosen


def individuals_of(scores: Scores, objectives: Sequence[Objective]) -> list[Individual]:
    """Return one individual a score; every score must be finite."""
    weights = tuple(1.0 if objective.direction == "max" else -1.0 for objective in objectives)
    fitness = type("Fitness", (base.Fitness,), {"weights": weights})
    return [Individual(i, fitness(values)) for i, values in enumerate(scores)]


def select(
    toolbox: base.Toolbox, scores: Scores, k: int, objectives: Sequence[Objective], seed: int
) -> list[int]:
    """Return the positions of ``k`` survivors, best first on the first objective."""
    if k >= len(scores):
        chosen = list(range(len(scores)))
    else:
        with seeded_globals(seed):
            selected = toolbox.select(individuals_of(scores, objectives), k)
        chosen = [individual.position for individual in selected]
    return sorted(chosen, key=lambda i: (_primary(scores[i], objectives), i))


def promote(scores: Scores, k: int, objectives: Sequence[Objective]) -> list[int]:
    """Return the positions of the ``k`` to promote.

    Non-dominated fronts in order; the front that does not fit whole gives its best on the first
    objective, so that a single place never goes to a merely small or cheap genome.
    """
    if not scores:
        return []
    ranks = moocore.pareto_rank(_to_minimize(scores, objectives))
    keys = [
        (rank, _primary(values, objectives), i)
        for i, (rank, values) in enumerate(zip(ranks.tolist(), scores, strict=True))
    ]
    return [i for _, _, i in sorted(keys)[:k]]


def pareto_front(scores: Scores, objectives: Sequence[Objective]) -> list[int]:
    """Return the positions of the non-dominated scores, the first of equal ones only."""
    if not scores:
        return []
    on_front = moocore.is_nondominated(_to_minimize(scores, objectives), keep_weakly=False)
    front: list[int] = np.flatnonzero(on_front).tolist()
    return front


def dominated_volume(
    scores: Scores, worst: tuple[float, ...], objectives: Sequence[Objective]
) -> float:
    """Return the hypervolume between the front of ``scores`` and the reference point ``worst``.

    Source: Fonseca et al. 2006, by the library that DEAP's own function calls; that function's
    module loads scipy.
    """
    if not scores:
        return 0.0
    reference = _to_minimize([worst], objectives)[0]
    return float(moocore.hypervolume(_to_minimize(scores, objectives), ref=reference))


def describe(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard deviation, minimum and maximum, by DEAP's statistics."""
    statistics = tools.Statistics()
    for name, function in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
        statistics.register(name, function)
    record: dict[str, Any] = statistics.compile(values) if len(values) else {}
    return {name: float(value) for name, value in record.items()}


def _to_minimize(scores: Scores, objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Return scores of which less is better, ``(n, objectives)``, as moocore takes them.

    Its own ``maximise`` is not used: ``pareto_rank`` misreads it for a single objective.
    """
    signs = [-float(objective.sign) for objective in objectives]
    return np.multiply(scores, signs)


def _primary(values: tuple[float, ...], objectives: Sequence[Objective]) -> float:
    """Return the first objective as something to minimize."""
    return -objectives[0].sign * values[0]


def vary(
    toolbox: base.Toolbox,
    first: Genome,
    second: Genome | None,
    rng: np.random.Generator,
) -> Genome:
    """Return a child: mutated, after a crossover if there is a second parent."""
    genome = first if second is None else toolbox.mate(first, second, rng=rng)[0]
    mutated: Genome = toolbox.mutate(genome, rng=rng)
    return mutated
