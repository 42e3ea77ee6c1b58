"""The same population three ways, as plain facts: what ``coral compare --json`` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from coral.fidelity import kendall_tau, ladder_share
from coral.records import Objective, Outcome, Trial
from coral.reporting.facts import Facts
from coral.settings import RunSpec

WayName = Literal["simulation", "multi-fidelity", "naive"]

Standing = tuple[int, float]
"""Where a genome came to: the highest stage it ended, and the objective there, more is better."""

FALLEN: Standing = (-1, 0.0)
"""The standing of a genome that failed, wherever it did: below all others, tied with its like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run the population.

    Attributes:
        facts: of its run, as ``run_facts`` gives them.
        trials: of its run, by number.
    """

    name: WayName
    facts: Facts
    trials: tuple[Trial, ...]


def standing(outcomes: Sequence[Outcome], objective: Objective) -> Standing:
    """Return where a genome came to after ``outcomes``, the last of which counts."""
    last = outcomes[-1]
    value = last.metrics.get(objective.metric, math.nan)
    if last.failure is not None or not math.isfinite(value):
        return FALLEN
    return last.stage, value if objective.direction == "max" else -value


def agreement(one: Sequence[Standing], two: Sequence[Standing]) -> float:
    """Return the Kendall tau of two rankings of the same genomes; NaN where it is not defined."""
    return kendall_tau(_places(one), _places(two))


def _places(standings: Sequence[Standing]) -> list[float]:
    order = sorted(set(standings))
    return [float(order.index(each)) for each in standings]


def comparison_facts(
    spec: RunSpec,
    folder: Path,
    *,
    simulation: Way,
    multi_fidelity: Way,
    naive: Way,
    simulated: Sequence[Outcome] | None,
) -> Facts:
    """Return what three ways to run one population took, and what they found.

    Args:
        multi_fidelity, naive: runs of the same genomes under the same numbers.
        simulated: what the simulator makes of these genomes trained in full; None where the other
            two are simulated as well, so that there is nothing to compare it with.
    """
    objective = spec.objectives[0]
    full = [standing(trial.outcomes, objective) for trial in naive.trials]
    early = [standing(trial.outcomes, objective) for trial in multi_fidelity.trials]
    guessed = None if simulated is None else [standing([o], objective) for o in simulated]
    taus = {
        "simulation": None if guessed is None else agreement(guessed, full),
        "multi-fidelity": agreement(early, full),
        "naive": None,
    }
    return {
        "comparison": str(folder),
        "config": spec.name,
        "simulated": spec.simulated,
        "profile": spec.simulation.profile,
        "seed": spec.seed,
        "objective": asdict(objective),
        "genomes": len(naive.trials),
        "population": spec.evolution.population_size,
        "generations": spec.evolution.generations,
        "workers": naive.facts["workers"],
        "ways": [
            {**_way_facts(way, naive, objective), "kendall_tau": taus[way.name]}
            for way in (simulation, multi_fidelity, naive)
        ],
        "theory": {
            "step_speedup": 1 / ladder_share(spec.training_stages, spec.evolution.population_size)
        },
        "champion": choice_facts(multi_fidelity.facts["champion"]["trial"], full),
        "champion_test_difference": _test_difference(multi_fidelity, naive, objective),
        "simulator": None if guessed is None else choice_facts(guessed.index(max(guessed)), full),
        "simulation_speedup": _seconds(multi_fidelity) / max(1e-9, _seconds(simulation)),
        "trials": [
            {
                "trial": trial.number,
                "digest": trial.candidate.digest,
                "naive": _value(full[i], objective),
                "multi_fidelity": _value(early[i], objective),
                "multi_fidelity_stage": _stage(early[i], spec),
                "simulated": None if guessed is None else _value(guessed[i], objective),
            }
            for i, trial in enumerate(naive.trials)
        ],
    }


def _way_facts(way: Way, naive: Way, objective: Objective) -> Facts:
    simulated = way.facts["simulation"] is not None
    trains = way.name != "simulation"
    return {
        "way": way.name,
        "run": way.facts["run"],
        "simulated": simulated,
        "seconds": _seconds(way),
        "clock": "virtual" if simulated and trains else "real",
        "optimizer_steps": _steps(way),
        "step_speedup": _steps(naive) / max(1, _steps(way)) if trains else None,
        "time_speedup": _seconds(naive) / max(1e-9, _seconds(way)),
        "champion": way.facts["champion"]["trial"],
        "test": _test_facts(way, objective),
    }


def _seconds(way: Way) -> float:
    """Return the time from the first genome to the test scores.

    Trials that are simulated take virtual time, on as many workers as real ones would have had. The
    simulation itself takes real time.
    """
    if way.facts["simulation"] is None or way.name == "simulation":
        return float(way.facts["cost"]["wall_seconds"])
    return float(way.facts["makespan_seconds"][str(way.facts["workers"])])


def _steps(way: Way) -> int:
    """Return every optimizer step, those of audits and of the reference's full training too."""
    cost = way.facts["cost"]
    return int(cost["optimizer_steps"] + cost["confirmation"]["optimizer_steps"])


def _test_facts(way: Way, objective: Objective) -> Facts | None:
    """Return the champion's test score; None for an objective that is no score."""
    champion = way.facts["champion"]
    estimate = (champion["metrics"]["test"] or {}).get(objective.metric)
    if estimate is None:
        return None
    interval = (champion["intervals"] or {}).get(objective.metric, {})
    return {"estimate": estimate, "low": interval.get("low"), "high": interval.get("high")}


def _test_difference(multi_fidelity: Way, naive: Way, objective: Objective) -> float | None:
    """Return multi-fidelity's champion minus naive's, both as their own run trained them."""
    one, two = _test_facts(multi_fidelity, objective), _test_facts(naive, objective)
    return None if one is None or two is None else one["estimate"] - two["estimate"]


def choice_facts(number: int, full: Sequence[Standing]) -> Facts:
    """Return how good a choice a genome is, by its own full training.

    ``regret`` is what it lacks to the best genome on validation; None if it failed.
    """
    best, own = max(full), full[number]
    return {
        "trial": number,
        "naive_best": full.index(best),
        "naive_place": 1 + sum(other > own for other in full),
        "regret": None if own == FALLEN else best[1] - own[1],
    }


def _value(came_to: Standing, objective: Objective) -> float | None:
    if came_to == FALLEN:
        return None
    return came_to[1] if objective.direction == "max" else -came_to[1]


def _stage(came_to: Standing, spec: RunSpec) -> str | None:
    return None if came_to == FALLEN else spec.training_stages[came_to[0]].name
