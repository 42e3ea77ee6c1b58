"""Evolution: breeding, selection by DEAP, lineage, and the state with its one fold."""

from coral.evolution.breeding import breed
from coral.evolution.exploit import EXPLOITED, exchanges
from coral.evolution.fitness import (
    earned_outcome,
    is_fit,
    objective_values,
    of_different_weights,
    ranked_finishers,
)
from coral.evolution.lineage import ancestors, lineage_steps, lineage_teraflops, own_steps
from coral.evolution.parents import must_select, parents_by
from coral.evolution.retention import (
    NEEDED_BY_NOBODY,
    Claim,
    Use,
    claims,
    held_by,
    spare,
    writes_ahead,
)
from coral.evolution.soup import soup_of, soup_pool, squeezes_of, tuned
from coral.evolution.state import (
    EvolutionState,
    GenerationStatistics,
    advance,
    promoted,
    replay,
)

__all__ = [
    "EXPLOITED",
    "NEEDED_BY_NOBODY",
    "Claim",
    "EvolutionState",
    "GenerationStatistics",
    "Use",
    "advance",
    "ancestors",
    "breed",
    "claims",
    "earned_outcome",
    "exchanges",
    "held_by",
    "is_fit",
    "lineage_steps",
    "lineage_teraflops",
    "must_select",
    "objective_values",
    "of_different_weights",
    "own_steps",
    "parents_by",
    "promoted",
    "ranked_finishers",
    "replay",
    "soup_of",
    "soup_pool",
    "spare",
    "squeezes_of",
    "tuned",
    "writes_ahead",
]
