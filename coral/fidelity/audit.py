"""The audit: how far early stages and prune rules can be trusted, measured on this run's trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coral.fidelity.rank_correlation import kendall_tau
from coral.records import Objective, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleAudit:
    """What one rule did.

    Attributes:
        condemned: trials that it condemned.
        audited: those of them that trained on.
        false_kills: audited trials that ended at least as good as the best survivor of their own
            generation, on the primary objective at the last stage.
    """

    rule: str
    condemned: int
    audited: int
    false_kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTrust:
    """Kendall's tau between a stage and the last one, over the trials that ended both."""

    stage: int
    tau: float
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTrust:
    """Kendall's tau between a proxy at a stage and what it stands for at the last stage."""

    proxy: str
    metric: str
    stage: int
    tau: float
    trials: int


def audit_rules(trials: Sequence[Trial], objective: Objective, last: int) -> tuple[RuleAudit, ...]:
    """Return what each rule condemned and which of its audited verdicts were wrong."""
    best = _best_survivors(trials, objective, last)
    rules = sorted({t.verdict.rule for t in trials if t.verdict.status == "pruned"})
    return tuple(
        RuleAudit(
            rule=rule,
            condemned=len(condemned),
            audited=sum(trial.verdict.audited for trial in condemned),
            false_kills=sum(_is_false_kill(trial, best, objective, last) for trial in condemned),
        )
        for rule in rules
        if (condemned := [t for t in trials if t.verdict.rule == rule])
    )


def _best_survivors(trials: Sequence[Trial], objective: Objective, last: int) -> dict[int, float]:
    best: dict[int, float] = {}
    for trial in trials:
        if trial.verdict.status == "completed" and trial.candidate.derivation is None:
            value = _value(trial, objective, last)
            generation = trial.candidate.generation
            best[generation] = max(best.get(generation, -math.inf), value)
    return best


def _is_false_kill(trial: Trial, best: dict[int, float], objective: Objective, last: int) -> bool:
    if not trial.verdict.audited or trial.best_stage < last:
        return False
    return _value(trial, objective, last) >= best.get(trial.candidate.generation, math.inf)


def _value(trial: Trial, objective: Objective, stage: int) -> float:
    """Return the objective at a stage, larger is better; NaN if the trial did not end it."""
    outcome = trial.outcome_at(stage)
    value = math.nan if outcome is None else outcome.metrics.get(objective.metric, math.nan)
    return objective.sign * value


def stage_trust(trials: Sequence[Trial], objective: Objective, last: int) -> tuple[StageTrust, ...]:
    """Return Kendall's tau-b between each stage and the last, NaN with fewer than two trials."""
    finished = [trial for trial in trials if trial.best_stage == last]
    return tuple(
        _trust([t for t in finished if t.outcome_at(stage)], objective, stage, last)
        for stage in range(last)
    )


def proxy_trust(
    trials: Sequence[Trial], proxies: Mapping[str, str], last: int
) -> tuple[ProxyTrust, ...]:
    """Return how far proxies foretell, at the stages of their own, by trials that ended the last.

    Args:
        proxies: proxy to the metric that it stands for.
    """
    finished = [trial for trial in trials if trial.best_stage == last]
    return tuple(
        _proxy_trust(measured, proxy, metric, stage, last)
        for proxy, metric in proxies.items()
        for stage in range(last + 1)
        if (measured := [trial for trial in finished if _has(trial, proxy, stage)])
    )


def _has(trial: Trial, metric: str, stage: int) -> bool:
    outcome = trial.outcome_at(stage)
    return outcome is not None and metric in outcome.metrics


def _proxy_trust(
    trials: Sequence[Trial], proxy: str, metric: str, stage: int, last: int
) -> ProxyTrust:
    early = [_value(trial, Objective(metric=proxy), stage) for trial in trials]
    final = [_value(trial, Objective(metric=metric), last) for trial in trials]
    return ProxyTrust(
        proxy=proxy,
        metric=metric,
        stage=stage,
        tau=kendall_tau(early, final),
        trials=len(trials),
    )


def _trust(trials: Sequence[Trial], objective: Objective, stage: int, last: int) -> StageTrust:
    early = [_value(trial, objective, stage) for trial in trials]
    final = [_value(trial, objective, last) for trial in trials]
    return StageTrust(stage=stage, tau=kendall_tau(early, final), trials=len(trials))
