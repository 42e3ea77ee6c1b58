"""What a run did not have to compute."""

from __future__ import annotations

from collections import defaultdict

from coral.evolution import EvolutionState
from coral.flops import evaluation_cost, step_cost
from coral.ports import Survey
from coral.records import Trial
from coral.settings import RunSpec
from coral.sharing import entrances, start_of


def shares_computed(state: EvolutionState, spec: RunSpec, survey: Survey) -> list[float]:
    """Return what trials computed, as shares of what they would have with nothing shared.

    Training counts, and scoring on the validation examples of the largest task whose head answers;
    what is computed once for all of them does not.

    Returns:
        A share for each generation that computed anything; none if nothing is shared.
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
    """Return the operations of a generation, and those with nothing shared."""
    shape = (survey.linear_modules, survey.depth, survey.hidden_size)
    # A text that several tasks share is encoded once; how many they share, the survey doesn't say.
    headed = max(
        (t.validation_examples for t in survey.tasks if t.problem != "causal_lm"), default=0
    )
    plans = [spec.plan_of(trial.candidate) for trial in trials]
    kept = entrances(plans, survey, spec.prefix_bytes)
    computed = whole = 0.0
    for trial, plan in zip(trials, plans, strict=True):
        length = min(survey.mean_tokens, plan.encoding.sequence_len)
        start = start_of(plan, survey, kept)
        trained = sum(outcome.cost.teraflops for outcome in trial.outcomes)
        step = step_cost(plan.adapter, *shape, start).teraflops(1, length)
        scored = sum(
            headed * spec.training_stages[outcome.stage].evaluation_percentage / 100
            for outcome in trial.scored
        )
        computed += trained + scored * evaluation_cost(*shape, start).teraflops(1, length)
        whole += trained / step * step_cost(plan.adapter, *shape).teraflops(1, length)
        whole += scored * evaluation_cost(*shape).teraflops(1, length)
    return computed, whole
