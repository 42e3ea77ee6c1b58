"""A run as plain facts: what ``coral show --json`` prints and ``coral.evolve`` returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from coral.evolution import EvolutionState, lineage_teraflops
from coral.fidelity import audit_rules, makespan, proxy_trust, stage_trust
from coral.plan import as_canonical_json
from coral.ports import Survey
from coral.records import Contestant, Outcome, RunConfirmed, TestScore, Trial
from coral.reporting.lineage import inherited_facts
from coral.reporting.shared import shares_computed
from coral.reporting.warm_start import warm_start_facts
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
    survey: Survey | None = None,
) -> Facts:
    """Return the facts of a run, finished or not.

    Args:
        survey: tells of proxies and of what is shared; None leaves them out.
        status: ``running``, ``interrupted``, ``finished`` or ``failed``.
        wall_seconds: time spent on the run, pauses between processes left out.
        workers: those of the last process that worked on it; None if unknown.
    """
    scores = _scores(state)
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
        "confirmation": confirmation_facts(state, spec),
        "warm_start": warm_start_facts(state, spec),
        "pareto": [trial_facts(state.trials[n], spec, scores.get(n)) for n in state.front],
        "trials": {
            "total": len(state.trials),
            "completed": _count(state, "completed"),
            "pruned": _count(state, "pruned"),
            "failed": _count(state, "failed"),
        },
        "derived": sum(trial.candidate.derivation is not None for trial in state.trials),
        "cost": cost_facts(state, wall_seconds),
        "workers": workers,
        "makespan_seconds": makespan_facts(state, spec.evolution.population_size, workers),
        "shares_computed": shares_computed(state, spec, survey) if survey else [],
        "audit": audit_facts(state, spec, survey.proxies if survey else {}),
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


def _scores(state: EvolutionState) -> dict[int, TestScore]:
    """Return the test scores of trials' own weights, by trial."""
    if state.confirmation is None:
        return {}
    if not state.confirmation.contestants:
        return {score.trial: score for score in state.confirmation.scores}
    return {
        contestant.trial: score
        for contestant, score in _contestants(state.confirmation)
        if contestant.kind in ("lineage", "default")
    }


def _contestants(confirmation: RunConfirmed) -> list[tuple[Contestant, TestScore]]:
    return list(zip(confirmation.contestants, confirmation.scores, strict=True))


def confirmation_facts(state: EvolutionState, spec: RunSpec) -> Facts | None:
    """Return who was scored on the test split, and who is handed over; None before the end."""
    if state.confirmation is None or not state.confirmation.contestants:
        return None
    return {
        "contestants": [
            {
                "kind": contestant.kind,
                "trial": contestant.trial,
                "seed": contestant.seed,
                "optimizer_steps": contestant.optimizer_steps,
                "metrics": {"validation": dict(contestant.metrics), "test": dict(score.metrics)},
                "intervals": {name: asdict(i) for name, i in score.intervals.items()},
            }
            for contestant, score in _contestants(state.confirmation)
        ],
        "groups": _groups(state, state.confirmation, spec.objectives[0].metric),
        "winner": state.confirmation.winner,
        "decided_on": f"validation {spec.objectives[0].metric}",
    }


def _groups(state: EvolutionState, confirmation: RunConfirmed, metric: str) -> list[Facts]:
    """Return the contestants on the primary metric, the seeds of one genome together."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, contestant in enumerate(confirmation.contestants):
        groups.setdefault((contestant.kind, contestant.trial), []).append(i)
    return [
        {
            "kind": kind,
            "trial": trial,
            "seeds": len(members),
            "optimizer_steps": confirmation.contestants[members[0]].optimizer_steps,
            "teraflops": _teraflops(confirmation.contestants[members[0]], state),
            "validation": _spread([confirmation.contestants[i].metrics for i in members], metric),
            "test": _spread([confirmation.scores[i].metrics for i in members], metric),
            "wins": confirmation.winner in members,
        }
        for (kind, trial), members in groups.items()
    ]


def _teraflops(contestant: Contestant, state: EvolutionState) -> float | None:
    """Return the 1e12 operations of all training that went into weights; None if nobody counted."""
    if contestant.kind == "lineage":
        trial = state.trials[contestant.trial]
        return lineage_teraflops(contestant.trial, trial.best_stage, state)
    return contestant.metrics.get("train_cost")


def _spread(scores: Sequence[Mapping[str, float]], metric: str) -> Facts:
    """Return a metric's mean and, of more than one score, its standard deviation."""
    values = np.array([score.get(metric, math.nan) for score in scores])
    if not np.isfinite(values).all():  # costs have no test score
        return {"mean": None, "std": None}
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "std": deviation}


def _reference(state: EvolutionState, spec: RunSpec) -> Trial | None:
    """Return the default recipe's trial if it was trained to the full budget."""
    if not state.trials or state.trials[0].best_stage < spec.last_stage:
        return None
    return state.trials[0]


def _count(state: EvolutionState, status: str) -> int:
    return sum(trial.verdict.status == status for trial in state.trials)


def trial_facts(trial: Trial, spec: RunSpec, score: TestScore | None) -> Facts:
    """Return one trial's facts; one that ended no stage has no metrics."""
    last = trial.scored[-1] if trial.scored else Outcome(key="", stage=0)
    return {
        "trial": trial.number,
        "digest": trial.candidate.digest,
        "generation": trial.candidate.generation,
        "operator": trial.candidate.lineage.operator,
        "parents": list(trial.candidate.lineage.parents),
        "changed": list(trial.candidate.lineage.changed),
        **inherited_facts(trial, spec),
        "genome": _plain(spec.space.active(trial.candidate.genome)),
        "status": trial.verdict.status,
        "audited": trial.verdict.audited,
        "stage": spec.training_stages[last.stage].name,
        "metrics": {
            "validation": {**last.metrics, **_objectives(last, spec)},
            "test": dict(score.metrics) if score else None,
        },
        "intervals": {name: asdict(i) for name, i in score.intervals.items()} if score else None,
        "trainable_parameters": last.trainable_parameters,
        "cumulative_steps": last.cumulative_steps,
    }


def _objectives(outcome: Outcome, spec: RunSpec) -> dict[str, float]:
    readings = outcome.readings
    names = (objective.metric for objective in spec.objectives)
    return {name: readings[name] for name in names if name in readings}


def _plain(genome: Mapping[str, Any]) -> Facts:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in genome.items()}


def _comparison(state: EvolutionState) -> Facts | None:
    """Return the champion minus the reference on the test split, with paired intervals."""
    confirmation = state.confirmation
    if confirmation is None or confirmation.reference is None:
        return None
    difference = _scores(state)[confirmation.champion].difference
    return {name: asdict(i) for name, i in difference.items()}


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


def audit_facts(state: EvolutionState, spec: RunSpec, proxies: Mapping[str, str]) -> Facts:
    """Return what prune rules killed wrongly, and how far stages and proxies can be trusted."""
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
        "proxy_trust": [
            {
                "proxy": trust.proxy,
                "metric": trust.metric,
                "stage": spec.training_stages[trust.stage].name,
                "kendall_tau": None if math.isnan(trust.tau) else trust.tau,
                "trials": trust.trials,
            }
            for trust in proxy_trust(state.trials, proxies, last)
        ],
    }


def adapter_card(
    trial: Trial,
    state: EvolutionState,
    spec: RunSpec,
    survey: Survey,
    version: str,
    contestant: Contestant | None = None,
) -> Facts:
    """Return what ``coral.json`` beside an adapter says.

    Args:
        contestant: whose weights they are, if not those that the trial has from the search.
    """
    facts = trial_facts(trial, spec, _scores(state).get(trial.number))
    weights = {"kind": "lineage", "seed": spec.seed}
    if contestant is not None and state.confirmation is not None:
        score = next(s for c, s in _contestants(state.confirmation) if c == contestant)
        weights = {"kind": contestant.kind, "seed": contestant.seed}
        facts |= {
            "metrics": {"validation": dict(contestant.metrics), "test": dict(score.metrics)},
            "intervals": {name: asdict(i) for name, i in score.intervals.items()},
            "cumulative_steps": contestant.optimizer_steps,
        }
        if contestant.kind != "lineage":  # the search's own trial may have got less far, or failed
            parameters = contestant.metrics.get("trainable_parameters", 0)
            facts |= {
                "stage": spec.training_stages[-1].name,
                "trainable_parameters": int(parameters) or facts["trainable_parameters"],
            }
    plan = asdict(spec.plan_of(trial.candidate))
    return {
        "format": 1,
        "run": spec.name,
        "trial": trial.number,
        "base_model": spec.base_model,
        "base_model_digest": survey.model_digest,
        "data_digest": survey.data_digest,
        "trust_remote_code": spec.execution.trust_remote_code,
        "load_in_4bit": spec.execution.load_in_4bit,
        "genome": facts["genome"],
        "digest": facts["digest"],
        "plan": plan,
        "stage": facts["stage"],
        "weights": weights,
        "lineage": {
            "generation": facts["generation"],
            "operator": facts["operator"],
            "parents": facts["parents"],
            "changed": facts["changed"],
            "inherits": facts["inherits"],
            "retained_energy": facts["retained_energy"],
            "derivation": facts["derivation"],
        },
        "metrics": facts["metrics"],
        "intervals": facts["intervals"],
        "trainable_parameters": facts["trainable_parameters"],
        "cumulative_steps": facts["cumulative_steps"],
        "cost": asdict(trial.cost),
        "tasks": {
            task.name: {
                "labels": list(task.label_names),
                "primary_metric": task.primary_metric,
                "problem": task.problem,
                "center": list(task.center),
                "spread": list(task.spread),
                "texts": task.texts,
            }
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
