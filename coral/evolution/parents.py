"""Parents that a plugin's selection picks."""

from __future__ import annotations

import numpy as np

from coral.evolution.fitness import by_stage, earned_outcome
from coral.evolution.state import EvolutionState
from coral.ports import BUILT_IN, Selection, SelectionPool
from coral.rng import stream
from coral.settings import RunSpec
from coral.strategies import chosen_parents


def must_select(state: EvolutionState, spec: RunSpec) -> bool:
    """Return whether a plugin is to pick the parents of the next generation."""
    return (
        spec.evolution.selection not in BUILT_IN["selections"]
        and state.selected < state.generation
        and not state.candidates
    )


def parents_by(selection: Selection, state: EvolutionState, spec: RunSpec) -> tuple[int, ...]:
    """Return the numbers of the parents that a selection picks, the ones to prefer first.

    It is asked stage by stage, the highest first, until the population is full: values of different
    stages are never compared.

    Raises:
        StrategyError: the selection does not keep to its rules.
    """
    pool = [state.trials[number] for number in state.population]
    signs = np.array([objective.sign for objective in spec.objectives], dtype=np.float64)
    chosen: list[int] = []
    for members, scores in by_stage(pool, spec.objectives, earned_outcome):
        count = min(len(members), spec.evolution.population_size - len(chosen))
        if count == 0:
            break
        rng = stream(spec.seed, "parents", state.generation - 1, len(chosen))
        found = SelectionPool(
            values=np.array(scores, dtype=np.float64) * signs,
            ages=np.array(
                [state.generation - 1 - trial.candidate.generation for trial in members],
                dtype=np.int64,
            ),
            genomes=tuple(trial.candidate.genome for trial in members),
        )
        picked = chosen_parents(spec.evolution.selection, selection, found, count, rng)
        chosen += [members[i].number for i in picked]
    return tuple(chosen)
