"""The loop."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable

from coral.confirmation import confirm
from coral.errors import NoSurvivorsError
from coral.evaluate import evaluate, record
from coral.evolution import EvolutionState, breed, must_select, parents_by, replay
from coral.harvest import harvest
from coral.ports import Ports
from coral.records import GenerationStarted, ParentsSelected
from coral.settings import RunSpec
from coral.strategies import named


def evolve(
    spec: RunSpec, ports: Ports, clock: Callable[[], float] = time.monotonic
) -> EvolutionState:
    """Evolve until the budget is spent, then confirm; a non-empty run store resumes.

    Raises:
        NoSurvivorsError: no trial of the first generation survived.
        StrategyError: a plugin's selection does not keep to its rules.
    """
    started = clock()
    state = replay(ports.runs.events(), spec, ports.survey.train_examples)
    try:
        while True:
            require_survivors(state)
            state = harvest(state, spec, ports)
            if exhausted(state, spec, clock() - started):
                break
            state = select_parents(state, spec, ports)
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
    done = state.confirmation is not None and state.confirmation.contestants
    return state if done else confirm(state, spec, ports)


def select_parents(state: EvolutionState, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Let a plugin pick the next parents, if it is to; what it picked is an event, once made."""
    if not must_select(state, spec):
        return state
    selection = named(ports.strategies, "selections", spec.evolution.selection)
    parents = parents_by(selection, state, spec)
    event = ParentsSelected(generation=state.generation - 1, parents=parents)
    return record(state, event, spec, ports)


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
    remedy = "Lower the upper bound of learning_rate, or loosen the prune rules"
    if set(reasons) == {"plugin"}:
        remedy = "Correct the plugin, and begin a new run"
    raise NoSurvivorsError(
        f"no trial of generation 0 survived, so there is nothing to evolve: {told}."
        f" First one: {example}\n{remedy}. `coral show RUN --failures` has the tracebacks."
    )
