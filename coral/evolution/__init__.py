"""Evolution: breeding, selection by DEAP, and the state with its one fold."""

from coral.evolution.breeding import breed
from coral.evolution.fitness import earned_outcome, is_fit, objective_values
from coral.evolution.state import (
    EvolutionState,
    GenerationStatistics,
    advance,
    promoted,
    replay,
)

__all__ = [
    "EvolutionState",
    "GenerationStatistics",
    "advance",
    "breed",
    "earned_outcome",
    "is_fit",
    "objective_values",
    "promoted",
    "replay",
]
