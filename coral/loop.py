"""The loop."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable

from coral.errors import NoSurvivorsError
from coral.evaluate import evaluate, job_of, record, work_of
from coral.evolution import EvolutionState, breed, replay
from coral.ports import Ports, Survey, TrainingJob
from coral.records import GenerationStarted, RunConfirmed
from coral.rng import derive_seed
from coral.settings import RunSpec

REFERENCE = 0
"""Number of the trial that runs the default recipe."""


def evolve(
    spec: RunSpec, ports: Ports, clock: Callable[[], float] = time.monotonic
) -> EvolutionState:
    """Evolve until the budget is spent, then confirm; a non-empty run store resumes.

    Raises:
        NoSurvivorsError: no trial of the first generation survived.
    """
    started = clock()
    state = replay(ports.runs.events(), spec, ports.survey.train_examples)
    try:
        while not exhausted(state, spec, clock() - started):
            require_survivors(state)
            if not state.candidates:
                candidates = breed(state, spec)
                if not candidates:
                    break
                event = GenerationStarted(generation=state.generation, candidates=candidates)
                state = record(state, event, spec, ports)
            state = evaluate(state, spec, ports)
            # Finished trials live as long as the run. Without this every full collection visits all
            # of them, and a generation takes longer the more there were before it.
            gc.freeze()
    finally:
        gc.unfreeze()
    require_survivors(state)
    return state if state.confirmation else confirm(state, spec, ports)


def exhausted(state: EvolutionState, spec: RunSpec, elapsed_seconds: float) -> bool:
    """Return whether no further generation may start; one under way is always finished."""
    if state.candidates:
        return False
    spent = state.ledger.searched
    budget = spec.budget
    return (
        state.generation >= spec.evolution.generations
        or (
            budget.max_optimizer_steps is not None
            and spent.optimizer_steps >= budget.max_optimizer_steps
        )
        or (
            budget.max_epochs is not None
            and spent.examples >= budget.max_epochs * state.train_examples
        )
        or (budget.max_wall_seconds is not None and elapsed_seconds >= budget.max_wall_seconds)
    )


def require_survivors(state: EvolutionState) -> None:
    """Raise ``NoSurvivorsError`` if trials have finished and there is nobody to breed from."""
    if state.population or not state.trials:
        return
    reasons = Counter(trial.verdict.rule for trial in state.trials)
    told = "; ".join(f"{count} x {rule}" for rule, count in reasons.most_common())
    example = next(trial.verdict.reason for trial in state.trials)
    raise NoSurvivorsError(
        f"no trial of generation 0 survived, so there is nothing to evolve: {told}."
        f" First one: {example}\nLower the upper bound of learning_rate, loosen the prune rules,"
        " or look at the tracebacks with `coral show RUN --failures`."
    )


def confirm(state: EvolutionState, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Score the champion and the reference, trained to the full budget, once on the test split.

    The champion is the best on validation at the highest stage; the test split had no part in that.
    """
    assert state.champion is not None
    reference = REFERENCE if state.trials[REFERENCE].best_stage == spec.last_stage else None
    numbers = dict.fromkeys(n for n in (state.champion, reference) if n is not None)
    finalists = [finalist(number, state, spec, ports.survey) for number in numbers]
    scores = ports.executor.score(finalists, derive_seed(spec.seed, "bootstrap"))
    event = RunConfirmed(champion=state.champion, reference=reference, scores=scores)
    return record(state, event, spec, ports)


def finalist(number: int, state: EvolutionState, spec: RunSpec, survey: Survey) -> TrainingJob:
    """Return the job that stands for a trial's final weights.

    It starts from its own last checkpoint, so nothing is left to train, unless the cache was
    emptied: then the same batches make the same weights again.
    """
    trial = state.trials[number]
    last = trial.scored[-1]
    work = work_of(trial.candidate, state.trials, spec, survey)
    return job_of(work, last.stage, spec, resume_from=last.checkpoint)
