"""What is trained in a run, and what is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from coral.errors import NoSurvivorsError
from coral.evaluate import work_of
from coral.fidelity import DEFAULT_LADDER, PruneRule, PruneSettings
from coral.genome import ChoiceGene, SearchSpace, flag
from coral.loop import evolve
from coral.ports import Survey
from coral.records import Candidate
from coral.settings import RunSpec
from coral.testing.trainers import TRAIN_EXAMPLES
from tests.scripted_runs import (
    AUROC,
    BASE,
    FAILING,
    SIZE,
    SPACE,
    SPEC,
    MemoryRunStore,
    WatchedExecutor,
    Watcher,
    discarded,
    generations,
    ports_of,
    run,
)


def test_the_default_ladder_spends_at_most_39_percent_of_full_training() -> None:
    spec = replace(
        SPEC,
        evolution=replace(SPEC.evolution, population_size=8),
        training_stages=DEFAULT_LADDER,
        prune=PruneSettings(rules=()),
        objectives=(AUROC,),
    )
    ledger = run(spec).ledger
    assert 0.35 < ledger.share_of_naive <= 0.39
    assert ledger.naive.optimizer_steps == 24 * 2 * TRAIN_EXAMPLES // 4


def test_the_ledger_holds_all_that_was_spent() -> None:
    state = run(replace(SPEC, prune=replace(SPEC.prune, audit_fraction=1.0)), FAILING)
    ledger = state.ledger
    spent = sum(trial.cost.optimizer_steps for trial in state.trials)
    assert ledger.searched.optimizer_steps + ledger.confirmation.optimizer_steps == spent
    assert ledger.audit.optimizer_steps > 0
    assert ledger.confirmation.optimizer_steps > 0


def test_no_work_is_done_twice() -> None:
    executor = WatchedExecutor()
    evolve(SPEC, ports_of(executor))
    assert max(Counter(job.key for job in executor.jobs).values()) == 1
    assert max(Counter((job.trial, job.stage) for job in executor.jobs).values()) == 1


def test_a_small_space_is_tried_once_and_then_the_run_ends() -> None:
    genes = (ChoiceGene(path="adapter.rank", options=(8, 16)), flag("adapter.rslora"))
    spec = replace(generations(9), space=SearchSpace(base=BASE, genes=genes), objectives=(AUROC,))
    executor = WatchedExecutor()
    state = evolve(spec, ports_of(executor))
    assert len(state.trials) == len(state.digests) == 4
    assert state.generation == 1
    assert len({job.key for job in executor.jobs}) == len(executor.jobs)
    assert state.confirmation is not None


def test_a_space_without_genes_trains_the_default_recipe() -> None:
    state = run(replace(SPEC, space=SearchSpace(base=BASE)))
    assert (len(state.trials), state.champion) == (1, 0)


def test_a_survivor_goes_on_from_its_own_checkpoint() -> None:
    executor = WatchedExecutor()
    state = evolve(SPEC, ports_of(executor))
    for job in executor.jobs:
        outcomes = state.trials[job.trial].outcomes
        expected = None if job.stage == 0 else outcomes[job.stage - 1].checkpoint
        assert job.resume_from == expected
        assert job.plan == SPEC.plan_of(state.trials[job.trial].candidate)


def test_checkpoints_are_discarded_once_a_later_stage_has_replaced_them() -> None:
    ports = ports_of(WatchedExecutor(FAILING))
    state = evolve(SPEC, ports)
    made = {o.checkpoint for trial in state.trials for o in trial.scored}
    latest = {trial.scored[-1].checkpoint for trial in state.trials if trial.scored}
    earned = {o.checkpoint for t in state.trials if (o := t.outcome_at(t.verdict.stage))}
    assert made - {*discarded(ports)} == latest | earned
    assert earned > earned & latest
    assert made > latest | earned


def test_the_longest_jobs_of_a_stage_come_first() -> None:
    genes = (ChoiceGene(path="schedule.batch_size", options=(1, 2, 4)), *SPACE.genes[:1])
    executor = WatchedExecutor()
    evolve(generations(1, replace(SPEC, space=replace(SPACE, genes=genes))), ports_of(executor))
    sizes = [job.plan.schedule.batch_size for job in executor.jobs if job.stage == 0]
    assert len(set(sizes)) > 1
    assert sizes == sorted(sizes)


def test_a_condemned_reference_climbs_on_to_be_compared_with() -> None:
    rules = (PruneRule(metric="auroc", above=0.0),)
    spec = generations(1, replace(SPEC, prune=PruneSettings(rules=rules)))
    executor = WatchedExecutor()
    with pytest.raises(NoSurvivorsError):
        evolve(spec, ports_of(executor))
    assert {job.trial for job in executor.jobs if job.stage > 0} == {0}


def test_auditing_changes_nothing_in_the_search_that_it_checks() -> None:
    rules = (PruneRule(metric="auroc", below=0.7, stage=SPEC.training_stages[0].name),)
    unchecked, checked = (
        run(replace(SPEC, prune=PruneSettings(rules=rules, audit_fraction=share)))
        for share in (0.0, 1.0)
    )
    assert [t.candidate for t in checked.trials] == [t.candidate for t in unchecked.trials]
    assert checked.population == unchecked.population
    assert checked.ledger.search == unchecked.ledger.search
    assert checked.ledger.audit.optimizer_steps > unchecked.ledger.audit.optimizer_steps == 0


def work_key(candidate: Candidate, stage: int, spec: RunSpec, survey: Survey) -> str:
    return work_of(candidate, (), spec, survey).keys[stage]


def test_the_work_key_is_everything_that_decides_the_result_and_nothing_else() -> None:
    survey = WatchedExecutor().survey()
    candidate, other = run(generations(1)).trials[0].candidate, run().trials[1].candidate
    key = work_key(candidate, 1, SPEC, survey)
    ladder = SPEC.training_stages
    longer = (*ladder[:-1], replace(ladder[-1], epoch_budget=9))
    first = (replace(ladder[0], data_percentage=1), *ladder[1:])
    assert key not in {
        work_key(other, 1, SPEC, survey),
        work_key(candidate, 2, SPEC, survey),
        work_key(candidate, 1, replace(SPEC, seed=1), survey),
        work_key(candidate, 1, replace(SPEC, training_stages=longer), survey),
        work_key(candidate, 1, replace(SPEC, training_stages=first), survey),
        work_key(candidate, 1, SPEC, replace(survey, model_digest="x")),
        work_key(candidate, 1, SPEC, replace(survey, data_digest="x")),
    }
    renamed = tuple(replace(stage, name=stage.name * 2, survival_rate=1.0) for stage in ladder)
    for same in (
        replace(SPEC, training_stages=renamed),
        replace(SPEC, objectives=(SIZE,), name="x", output_dir="x"),
        replace(SPEC, execution=replace(SPEC.execution, workers=7, micro_batch_size=1)),
        generations(9),
    ):
        assert work_key(replace(candidate, number=77), 1, same, survey) == key
    assert work_key(candidate, 1, SPEC, replace(survey, device="cuda")) == key


def test_an_event_is_durable_before_it_is_told() -> None:
    runs, executor = MemoryRunStore(), WatchedExecutor()
    ports = ports_of(executor, runs)
    final = evolve(SPEC, ports)
    assert isinstance(ports.observer, Watcher)
    assert ports.observer.durable == list(range(1, len(runs.rows) + 1))
    assert [event for event, _ in ports.observer.told] == list(runs.events())
    assert ports.observer.told[-1][1] == final
