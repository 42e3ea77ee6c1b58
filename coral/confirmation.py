"""The end of a run: is it the genome, its lineage, or luck?

The champion's own weights stand beside its genome, and the next best, trained from scratch on new
seeds, and beside the default recipe with as much training as the champion's whole lineage had. All
of them are scored once on the test split, which had no part in the search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from coral.evaluate import record
from coral.evolution import EvolutionState, lineage_steps, ranked_finishers
from coral.fidelity import Stage
from coral.plan import training_digest
from coral.ports import Ports, Survey, TrainingJob
from coral.records import Contestant, Outcome, RunConfirmed, StageFinished, Trial
from coral.rng import derive_seed
from coral.settings import RunSpec
from coral.work import Work, job_of, longest_first, run, with_ancestors, work_of

REFERENCE = 0
"""Number of the trial that runs the default recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rematch:
    """A contestant that has to be trained first."""

    kind: Literal["cold", "long default"]
    work: Work


def confirm(state: EvolutionState, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Train the rematches, score all contestants on the test split, and pick who is handed over.

    The winner is the best on validation; the test split decides nothing.
    """
    assert state.champion is not None
    lineage = _as_it_is("lineage", state.champion, state, spec)
    contestants, champion = [lineage], lineage.trial
    rematches = _rematches(lineage.optimizer_steps, state, spec, ports.survey)
    jobs = [job_of(rematch.work, len(rematch.work.stages) - 1, spec) for rematch in rematches]
    missing = longest_first([job for job in jobs if job.key not in state.outcomes], ports.survey)
    for outcome in run(missing, state, spec, ports):
        trial = next(job.trial for job in jobs if job.key == outcome.key)
        state = record(state, StageFinished(trial=trial, outcome=outcome), spec, ports)
    contestants += [
        contestant
        for rematch, job in zip(rematches, jobs, strict=True)
        if (contestant := _rematched(rematch, state.outcomes[job.key][1])) is not None
    ]
    reference = REFERENCE if state.trials[REFERENCE].best_stage == spec.last_stage else None
    if reference == champion:  # scores are compared with those of the last contestant
        contestants = [*contestants[1:], contestants[0]]
    elif reference is not None:
        contestants.append(_as_it_is("default", reference, state, spec))
    finalists = [finalist(contestant, state, spec, ports.survey) for contestant in contestants]
    scores = ports.executor.score(finalists, derive_seed(spec.seed, "bootstrap"))
    primary = spec.objectives[0]
    event = RunConfirmed(
        champion=champion,
        reference=reference,
        scores=scores,
        contestants=tuple(contestants),
        winner=max(
            range(len(contestants)),
            key=lambda i: primary.sign * contestants[i].metrics[primary.metric],
        ),
    )
    return record(state, event, spec, ports)


def finalist(
    contestant: Contestant, state: EvolutionState, spec: RunSpec, survey: Survey
) -> TrainingJob:
    """Return the job that stands for a contestant's weights.

    It starts from its own checkpoint, so nothing is left to train, unless the cache was emptied:
    then the same batches make the same weights again.
    """
    match contestant.kind:
        case "cold":
            work = _cold(contestant.trial, contestant.seed, state, spec, survey)
        case "long default":
            work = _long_default(contestant.optimizer_steps, state, spec, survey)
        case _:
            return trained(contestant.trial, state, spec, survey)
    return job_of(work, len(work.stages) - 1, spec, resume_from=contestant.checkpoint)


def trained(number: int, state: EvolutionState, spec: RunSpec, survey: Survey) -> TrainingJob:
    """Return the job that stands for a trial's final weights, whatever is left of the cache."""
    trial = state.trials[number]
    last = trial.scored[-1]
    work = work_of(trial.candidate, state, spec, survey)
    job = job_of(work, last.stage, spec, resume_from=last.checkpoint)
    return with_ancestors(job, state, spec, survey)


def _as_it_is(
    kind: Literal["lineage", "default"], number: int, state: EvolutionState, spec: RunSpec
) -> Contestant:
    """Return the contestant with the weights that a trial has from the search."""
    last = state.trials[number].scored[-1]
    return Contestant(
        kind=kind,
        trial=number,
        seed=spec.seed,
        metrics=last.metrics,
        optimizer_steps=lineage_steps(number, last.stage, state, spec),
        checkpoint=last.checkpoint,
    )


def _rematches(steps: int, state: EvolutionState, spec: RunSpec, survey: Survey) -> list[_Rematch]:
    """Return what is trained for the confirmation; nothing if it is switched off.

    Args:
        steps: that went into the champion's whole lineage.
    """
    if not spec.confirm.top_k:
        return []
    trained = [
        trial
        for trial in ranked_finishers(state.trials, spec)
        if trial.candidate.derivation is None and trial.number != REFERENCE
    ]
    trained = list({_training(trial, spec): trial for trial in reversed(trained)}.values())[::-1]
    seeds = [derive_seed(spec.seed, "confirm", i) for i in range(spec.confirm.seeds)]
    made = [
        _Rematch(kind="cold", work=_cold(trial.number, seed, state, spec, survey))
        for trial in trained[: spec.confirm.top_k]
        for seed in seeds
    ]
    default = state.trials[REFERENCE].scored
    if steps > (default[-1].cumulative_steps if default else 0):
        work = _long_default(steps, state, spec, survey)
        made.append(_Rematch(kind="long default", work=work))
    return made


def _training(trial: Trial, spec: RunSpec) -> str:
    """Return what a trial trains from scratch: the same for genomes that answer differently."""
    return training_digest(spec.plan_of(trial.candidate))


def _cold(number: int, seed: int, state: EvolutionState, spec: RunSpec, survey: Survey) -> Work:
    candidate = replace(state.trials[number].candidate, legacy=(), entry=0, shares=None)
    return work_of(candidate, state, spec, survey, seed=seed)


def _long_default(steps: int, state: EvolutionState, spec: RunSpec, survey: Survey) -> Work:
    """Return the default recipe's work over one stage of ``steps``."""
    stage = Stage(
        name="lineage",
        epoch_budget=steps * spec.training.schedule.batch_size / survey.train_examples,
        data_percentage=100,
        survival_rate=1,
    )
    return work_of(state.trials[REFERENCE].candidate, state, spec, survey, stages=(stage,))


def _rematched(rematch: _Rematch, outcome: Outcome) -> Contestant | None:
    """Return the contestant that a rematch makes; None if it failed."""
    if outcome.failure is not None:
        return None
    return Contestant(
        kind=rematch.kind,
        trial=rematch.work.candidate.number,
        seed=rematch.work.seed,
        metrics=outcome.metrics,
        optimizer_steps=outcome.cumulative_steps,
        checkpoint=outcome.checkpoint,
    )
