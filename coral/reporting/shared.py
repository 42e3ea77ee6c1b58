"""What a run did not have to compute."""

from __future__ import annotations

from collections import defaultdict

from coral.evolution import EvolutionState
from coral.flops import step_cost
from coral.ports import Survey
from coral.records import Trial
from coral.settings import RunSpec
from coral.sharing import entrances, start_of


def shares_computed(state: EvolutionState, spec: RunSpec, survey: Survey) -> list[float]:
    """Return what training computed, as shares of what it would have with nothing shared.

    Returns:
        A share for each generation that trained; none if nothing is shared.
    """
    if not survey.shares_prefixes:
        return []
    generations: defaultdict[int, list[Trial]] = defaultdict(list)
    for trial in state.trials:
        if trial.candidate.derivation is None:
            generations[trial.candidate.generation].append(trial)
    shares = []
    for _, trials in sorted(generations.items()):
        computed, whole = _operations(trials, spec, survey)
        if whole:
            shares.append(computed / whole)
    return shares


def _operations(trials: list[Trial], spec: RunSpec, survey: Survey) -> tuple[float, float]:
    """Return the operations of a generation's training, and those with nothing shared."""
    shape = (survey.linear_modules, survey.depth, survey.hidden_size)
    plans = [spec.plan_of(trial.candidate) for trial in trials]
    kept = entrances(plans, survey, spec.prefix_bytes)
    computed = whole = 0.0
    for trial, plan in zip(trials, plans, strict=True):
        spent = sum(outcome.cost.teraflops for outcome in trial.outcomes)
        starts = step_cost(plan.adapter, *shape, start_of(plan, survey, kept))
        begins = step_cost(plan.adapter, *shape)
        length = min(survey.mean_tokens, plan.encoding.sequence_len)
        computed += spent
        whole += spent * begins.teraflops(1, length) / starts.teraflops(1, length)
    return computed, whole
