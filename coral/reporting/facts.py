"""A run as plain facts: what ``coral show --json`` prints and ``coral.evolve`` returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coral.evolution import EvolutionState
from coral.fidelity import audit_rules, makespan, stage_trust
from coral.plan import as_canonical_json
from coral.ports import Survey
from coral.records import TestScore, Trial
from coral.settings import RunSpec

Facts = dict[str, Any]


def run_facts(
    state: EvolutionState,
    spec: RunSpec,
    *,
    folder: Path,
    status: str,
    wall_seconds: float,
    workers: int | None = None,
) -> Facts:
    """Return the facts of a run, finished or not.

    Args:
        status: ``running``, ``interrupted``, ``finished`` or ``failed``.
        wall_seconds: time spent on the run, pauses between processes left out.
        workers: those of the last process that worked on it; None if unknown.
    """
    scores = {score.trial: score for score in _scores(state)}
    champion = None if state.champion is None else state.trials[state.champion]
    reference = _reference(state, spec)
    return {
        "run": str(folder),
        **mode_facts(spec),
        "status": status,
        "generation": state.generation,
        "generations": spec.evolution.generations,
        "seed": spec.seed,
        "objectives": [asdict(objective) for objective in spec.objectives],
        "champion": champion
        and {
            **trial_facts(champion, spec, scores.get(champion.number)),
            "path": str(folder / "champion") if state.confirmation else None,
        },
        "baseline": reference and trial_facts(reference, spec, scores.get(reference.number)),
        "comparison": _comparison(state),
        "pareto": [trial_facts(state.trials[n], spec, scores.get(n)) for n in state.front],
        "trials": {
            "total": len(state.trials),
            "completed": _count(state, "completed"),
            "pruned": _count(state, "pruned"),
            "failed": _count(state, "failed"),
        },
        "cost": cost_facts(state, wall_seconds),
        "workers": workers,
        "makespan_seconds": makespan_facts(state, spec.evolution.population_size, workers),
        "audit": audit_facts(state, spec),
        "history": [asdict(generation) for generation in state.history],
        "failures": [
            {
                "trial": trial.number,
                "stage": spec.training_stages[outcome.stage].name,
                "kind": outcome.failure.kind,
                "message": outcome.failure.message,
                "traceback": outcome.failure.traceback,
            }
            for trial in state.trials
            for outcome in trial.outcomes
            if outcome.failure is not None
        ],
        "peak_memory_bytes": max(
            (outcome.peak_memory_bytes for trial in state.trials for outcome in trial.outcomes),
            default=0,
        ),
    }


def mode_facts(spec: RunSpec) -> Facts:
    """Return whether a run is real, and what a simulated one believes."""
    simulation = asdict(spec.simulation) if spec.simulated else None
    return {"mode": spec.mode, "simulation": simulation}


def _scores(state: EvolutionState) -> tuple[TestScore, ...]:
    return state.confirmation.scores if state.confirmation else ()


def _reference(state: EvolutionState, spec: RunSpec) -> Trial | None:
    """Return the default recipe's trial if it was trained to the full budget."""
    if not state.trials or state.trials[0].best_stage < spec.last_stage:
        return None
    return state.trials[0]


def _count(state: EvolutionState, status: str) -> int:
    return sum(trial.verdict.status == status for trial in state.trials)


def trial_facts(trial: Trial, spec: RunSpec, score: TestScore | None) -> Facts:
    """Return one trial's facts."""
    last = trial.scored[-1]
    return {
        "trial": trial.number,
        "digest": trial.candidate.digest,
        "generation": trial.candidate.generation,
        "operator": trial.candidate.lineage.operator,
        "parents": list(trial.candidate.lineage.parents),
        "changed": list(trial.candidate.lineage.changed),
        "genome": _plain(spec.space.active(trial.candidate.genome)),
        "status": trial.verdict.status,
        "audited": trial.verdict.audited,
        "stage": spec.training_stages[last.stage].name,
        "metrics": {
            "validation": dict(last.metrics),
            "test": dict(score.metrics) if score else None,
        },
        "intervals": {name: asdict(i) for name, i in score.intervals.items()} if score else None,
        "trainable_parameters": last.trainable_parameters,
        "cumulative_steps": last.cumulative_steps,
    }


def _plain(genome: Mapping[str, Any]) -> Facts:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in genome.items()}


def _comparison(state: EvolutionState) -> Facts | None:
    """Return the champion minus the reference on the test split, with paired intervals."""
    confirmation = state.confirmation
    if confirmation is None or confirmation.reference is None:
        return None
    return {name: asdict(i) for name, i in confirmation.scores[0].difference.items()}


def cost_facts(state: EvolutionState, wall_seconds: float) -> Facts:
    """Return what was spent and saved; the final confirmation is booked apart."""
    ledger = state.ledger
    spent, naive = ledger.searched, ledger.naive
    epochs = spent.examples / state.train_examples
    return {
        "optimizer_steps": spent.optimizer_steps,
        "naive_optimizer_steps": naive.optimizer_steps,
        "share_of_naive": ledger.share_of_naive,
        "epochs_spent": epochs,
        "epochs_saved": naive.examples / state.train_examples - epochs,
        "wall_seconds": wall_seconds,
        "by_stage": [asdict(cost) for cost in ledger.search],
        "audit": asdict(ledger.audit),
        "confirmation": asdict(ledger.confirmation),
    }


def makespan_facts(state: EvolutionState, population: int, workers: int | None) -> dict[str, float]:
    """Return the seconds that the trials so far would have taken, by number of workers.

    Every stage of a generation waits for the one before. The final scores are not in it.

    Args:
        population: powers of two up to this are told.
        workers: told too.
    """
    stages: dict[tuple[int, int], list[float]] = {}
    for trial in state.trials:
        for outcome in trial.outcomes:
            stage = stages.setdefault((trial.candidate.generation, outcome.stage), [])
            stage.append(outcome.cost.seconds)
    counts = {2**power for power in range(population.bit_length())} | {workers or 1}
    return {
        str(count): sum(makespan(seconds, count) for seconds in stages.values())
        for count in sorted(counts)
    }


def audit_facts(state: EvolutionState, spec: RunSpec) -> Facts:
    """Return what the prune rules killed wrongly, and how far each stage can be trusted."""
    objective, last = spec.objectives[0], spec.last_stage
    return {
        "rules": [asdict(rule) for rule in audit_rules(state.trials, objective, last)],
        "stage_trust": [
            {
                "stage": spec.training_stages[trust.stage].name,
                "kendall_tau": None if math.isnan(trust.tau) else trust.tau,
                "trials": trust.trials,
            }
            for trust in stage_trust(state.trials, objective, last)
        ],
    }


def adapter_card(
    trial: Trial, state: EvolutionState, spec: RunSpec, survey: Survey, version: str
) -> Facts:
    """Return what ``coral.json`` beside an adapter says."""
    score = next((s for s in _scores(state) if s.trial == trial.number), None)
    facts = trial_facts(trial, spec, score)
    plan = asdict(spec.plan_of(trial.candidate))
    return {
        "format": 1,
        "run": spec.name,
        "trial": trial.number,
        "base_model": spec.base_model,
        "base_model_digest": survey.model_digest,
        "data_digest": survey.data_digest,
        "trust_remote_code": spec.execution.trust_remote_code,
        "genome": facts["genome"],
        "digest": facts["digest"],
        "plan": plan,
        "stage": facts["stage"],
        "lineage": {
            "generation": facts["generation"],
            "operator": facts["operator"],
            "parents": facts["parents"],
            "changed": facts["changed"],
        },
        "metrics": facts["metrics"],
        "intervals": facts["intervals"],
        "trainable_parameters": facts["trainable_parameters"],
        "cumulative_steps": facts["cumulative_steps"],
        "cost": asdict(trial.cost),
        "tasks": {
            task.name: {"labels": list(task.label_names), "primary_metric": task.primary_metric}
            for task in survey.tasks
        },
        "versions": {"coral": version, **survey.versions},
        "seed": spec.seed,
    }


def as_json(facts: Any) -> str:
    """Return facts as indented JSON; what is not finite becomes null."""
    import json

    return json.dumps(finite(facts), indent=2, sort_keys=True)


def finite(value: Any) -> Any:
    """Return a copy with every NaN and infinity as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def export_state(state: EvolutionState) -> str:
    """Return every trial as canonical JSON without times: equal runs give equal bytes."""
    return as_canonical_json(finite([_timeless(asdict(trial)) for trial in state.trials]))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        skipped = {"train_seconds", "evaluation_seconds", "peak_memory_bytes"}
        return {key: _timeless(item) for key, item in value.items() if key not in skipped}
    if isinstance(value, list | tuple):
        return [_timeless(item) for item in value]
    return value
