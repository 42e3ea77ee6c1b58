"""Lineage as facts: whose weights went into a trial's, and the schedule that they really saw."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from coral.errors import RunError
from coral.evolution import EvolutionState, ancestors, lineage_steps
from coral.fidelity import ladder_steps
from coral.genome import Genome, changed_genes
from coral.plan import TrainingPlan, learning_rate_shares, rewarmup_share
from coral.records import Inheritance, Legacy, Trial
from coral.settings import RunSpec

Facts = dict[str, Any]
SHOWN_DIGITS = 8


def find_trial(state: EvolutionState, wanted: str | None = None) -> Trial:
    """Return a finished trial that has weights.

    Args:
        wanted: its number, or how its digest begins; None for the champion.

    Raises:
        RunError: there is no such trial, or more than one, or it failed in its first stage.
    """
    trial = _named(state, wanted)
    if trial.best_stage < 0:
        raise RunError(
            f"trial {trial.number} has no weights, it failed in its first stage:"
            f" {trial.verdict.reason}\n  Name another trial."
        )
    return trial


def _named(state: EvolutionState, wanted: str | None) -> Trial:
    if not state.trials:
        raise RunError(
            "the run has no finished trial yet.\n  Wait for its first generation, or resume it."
        )
    if wanted is None:
        if state.champion is None:
            raise RunError("the run has no champion.\n  Name one of its trials by number.")
        return state.trials[state.champion]
    if wanted.isdecimal() and str(int(wanted)) == wanted and int(wanted) < len(state.trials):
        return state.trials[int(wanted)]
    found = [trial for trial in state.trials if trial.candidate.digest.startswith(wanted)]
    if wanted and len(found) == 1:
        return found[0]
    if wanted and found:
        named = [f"{trial.number} ({trial.candidate.digest[:SHOWN_DIGITS]})" for trial in found]
        raise RunError(
            f"a digest must name one trial, {wanted!r} begins those of trials {', '.join(named)}.\n"
            "  Give more of it, or the trial's number."
        )
    raise RunError(
        f"no trial has the number {wanted!r} or a digest that begins with it.\n"
        f"  Name one from 0 to {len(state.trials) - 1}, or leave it out for the champion."
    )


def inherited_facts(trial: Trial, spec: RunSpec) -> Facts:
    """Return whose weights a trial started from, and what was kept of them."""
    candidate, kept = trial.candidate, _inheritance(trial)
    shares = candidate.shares
    return {
        "shares": shares
        and {"trial": shares.trial, "stage": spec.training_stages[shares.stage].name},
        "inherits": [
            {
                "trial": legacy.trial,
                "stage": spec.training_stages[legacy.stage].name,
                "weight": legacy.weight,
            }
            for legacy in candidate.legacy
        ],
        "retained_energy": kept and kept.retained_energy,
        "derivation": candidate.derivation and asdict(candidate.derivation),
    }


def lineage_facts(trial: Trial, state: EvolutionState, spec: RunSpec) -> Facts:
    """Return everything that went into a trial's last weights.

    ``nodes`` holds each trial once for every stage whose weights were inherited, the trial itself
    first and parents after their children; ``schedule`` follows the better parents, oldest first.
    """
    stage = trial.best_stage
    return {
        "trial": trial.number,
        "digest": trial.candidate.digest,
        "metric": spec.objectives[0].metric,
        "nodes": _nodes(trial, state, spec),
        "schedule": _schedule(trial, state, spec),
        "optimizer_steps": lineage_steps(trial.number, stage, state, spec),
        "trials": len(ancestors(trial.number, stage, state)),
    }


def _nodes(trial: Trial, state: EvolutionState, spec: RunSpec) -> list[Facts]:
    nodes: dict[tuple[int, int], Facts] = {}
    open_ends = [Legacy(trial=trial.number, stage=trial.best_stage)]
    while open_ends:
        legacy = open_ends.pop()
        if (legacy.trial, legacy.stage) in nodes:
            continue
        nodes[legacy.trial, legacy.stage] = _node(legacy, state, spec)
        open_ends += reversed(state.trials[legacy.trial].candidate.legacy)
    return list(nodes.values())


def _node(legacy: Legacy, state: EvolutionState, spec: RunSpec) -> Facts:
    """Return a trial as it stood at the end of a stage."""
    trial = state.trials[legacy.trial]
    candidate, outcome = trial.candidate, trial.outcome_at(legacy.stage)
    assert outcome is not None
    model = _model(trial, state)
    first, last = _span(trial, legacy.stage, state, spec)
    return {
        "trial": trial.number,
        "digest": candidate.digest,
        "generation": candidate.generation,
        "operator": candidate.lineage.operator,
        "parents": list(candidate.lineage.parents),
        "stage": spec.training_stages[legacy.stage].name,
        **inherited_facts(trial, spec),
        "changed_from": model and model.number,
        "changed": _changes(candidate.genome, model.candidate.genome, spec) if model else [],
        "optimizer_steps": last - first,
        "cumulative_steps": outcome.cumulative_steps,
        "value": outcome.metrics.get(spec.objectives[0].metric),
    }


def _inheritance(trial: Trial) -> Inheritance | None:
    known = (outcome.inheritance for outcome in trial.outcomes)
    return next((inheritance for inheritance in known if inheritance is not None), None)


def _model(trial: Trial, state: EvolutionState) -> Trial | None:
    """Return the trial that another is compared with: whose weights it has, or else its parent."""
    candidate = trial.candidate
    if candidate.shares is not None:
        return state.trials[candidate.shares.trial]
    sources = [legacy.trial for legacy in candidate.legacy] or candidate.lineage.parents
    return state.trials[sources[0]] if sources else None


def _changes(genome: Genome, model: Genome, spec: RunSpec) -> list[Facts]:
    """Return the genes that are active and differ from a model's, with both values."""
    active, before = spec.space.active(genome), spec.space.active(model)
    return [
        {"gene": path, "from": _plain(before.get(path)), "to": _plain(active[path])}
        for path in changed_genes(genome, model)
        if path in active
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _span(trial: Trial, stage: int, state: EvolutionState, spec: RunSpec) -> tuple[int, int]:
    """Return the places on a trial's own schedule between which it trained, to a stage's end."""
    if trial.candidate.derivation is not None:
        return 0, 0
    batch_size = spec.plan_of(trial.candidate).schedule.batch_size
    ends = [0, *ladder_steps(spec.training_stages, state.train_examples, batch_size)]
    return ends[trial.candidate.entry], ends[stage + 1]


def _schedule(trial: Trial, state: EvolutionState, spec: RunSpec) -> list[Facts]:
    """Return what the weights were trained with, a segment for each trial on the way to them."""
    line = [Legacy(trial=trial.number, stage=trial.best_stage)]
    while legacies := state.trials[line[-1].trial].candidate.legacy:
        line.append(legacies[0])
    segments: list[Facts] = []
    seen = 0
    for legacy in reversed(line):
        segment = _segment(legacy, seen, state, spec)
        seen = segment["to_step"]
        segments.append(segment)
    return segments


def _segment(legacy: Legacy, seen: int, state: EvolutionState, spec: RunSpec) -> Facts:
    """Return one trial's part of the schedule; ``seen`` are the steps before it."""
    trial = state.trials[legacy.trial]
    plan = spec.plan_of(trial.candidate)
    first, last = _span(trial, legacy.stage, state, spec)
    trained = last > first
    stages = spec.training_stages[trial.candidate.entry : legacy.stage + 1] if trained else ()
    schedule, adapter = plan.schedule, plan.adapter
    return {
        "trial": trial.number,
        "operator": trial.candidate.lineage.operator,
        "derivation": trial.candidate.derivation and asdict(trial.candidate.derivation),
        "stages": [stage.name for stage in stages],
        "from_step": seen,
        "to_step": seen + last - first,
        "peak_learning_rate": _peak(trial, plan, first, last, state, spec) if trained else None,
        "scheduler": schedule.scheduler if trained else None,
        "batch_size": schedule.batch_size if trained else None,
        "weight_decay": schedule.weight_decay if trained else None,
        "rank": adapter.rank,
        "scaling": adapter.scaling,
        "layers": adapter.layers,
    }


def _peak(
    trial: Trial, plan: TrainingPlan, first: int, last: int, state: EvolutionState, spec: RunSpec
) -> float:
    """Return the highest learning rate of the adapter between two places on the schedule."""
    horizon = ladder_steps(spec.training_stages, state.train_examples, plan.schedule.batch_size)[-1]
    shares = learning_rate_shares(plan.schedule, np.arange(first, last), horizon)
    kept = _inheritance(trial)
    if trial.candidate.legacy and not (kept and kept.moments_kept):
        rewarmed = [rewarmup_share(plan.inheritance, i, horizon) for i in range(last - first)]
        shares = shares * np.array(rewarmed)
    if trial.candidate.legacy:
        shares = shares * plan.inheritance.learning_rate_multiplier
    return float(plan.schedule.learning_rate * shares.max())
