"""Genomes that differ in inference alone, in whole evolutions on a trainer that plays a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from coral.comparison import all_at_once
from coral.evolution import (
    EvolutionState,
    Use,
    advance,
    ancestors,
    breed,
    claims,
    lineage_steps,
    lineage_teraflops,
    replay,
    soup_pool,
)
from coral.fidelity import PruneRule, PruneSettings, ladder_steps
from coral.genome import ChoiceGene, FloatGene, SearchSpace
from coral.loop import evolve
from coral.plan import TrainingPlan, with_values
from coral.ports import TrainingJob
from coral.records import (
    Candidate,
    GenerationStarted,
    Lineage,
    Outcome,
    StageFinished,
    Trial,
    weights_of,
)
from coral.settings import (
    ConfirmSettings,
    ExploitSettings,
    RunSpec,
    SoupSettings,
    SqueezeSettings,
    WarmStartSettings,
)
from coral.testing.trainers import TRAIN_EXAMPLES, scripted_trainer
from coral.work import work_of
from tests.scripted_runs import (
    AUROC,
    SPEC,
    DyingRunStore,
    KilledError,
    MemoryRunStore,
    WatchedExecutor,
    discarded,
    generations,
    ports_of,
)

SPACE = SearchSpace(
    base=with_values(TrainingPlan(), {"schedule.batch_size": 4, "adapter.rank": 8}),
    genes=(
        ChoiceGene(path="adapter.rank", options=(4, 8)),
        FloatGene(path="inference.temperature", low=0.5, high=4.0, log=True),
    ),
)
COLD = replace(SPEC, space=SPACE, objectives=(AUROC,))
WARM = replace(COLD, warm_start=WarmStartSettings(mode="crossover", cold_share=0.2))
FULL = replace(
    WARM,
    exploit=ExploitSettings(quantile=0.3),
    soup=SoupSettings(),
    squeeze=SqueezeSettings(ranks=(2,), energies=(0.9,), sources=3),
    confirm=ConfirmSettings(top_k=3, seeds=1),
)


def answers(job: TrainingJob, outcome: Outcome) -> Outcome:
    """Let the temperature count: 2 is the best."""
    if outcome.failure is not None:
        return outcome
    lost = 0.01 * abs(job.plan.inference.temperature - 2)
    return replace(outcome, metrics={**outcome.metrics, "auroc": outcome.metrics["auroc"] - lost})


def executor_of(
    trials: Mapping[str, Any] | None = None,
    arrival: Callable[[list[Outcome]], list[Outcome]] | None = None,
) -> WatchedExecutor:
    return WatchedExecutor(trials, edit=answers, arrival=arrival)


def run(spec: RunSpec) -> EvolutionState:
    return evolve(spec, ports_of(executor_of()))


def is_evaluated_alone(job: TrainingJob, outcome: Outcome) -> bool:
    return job.resume_from == outcome.checkpoint


class TestOneGeneration:
    def test_what_genomes_share_is_trained_once(self) -> None:
        state = run(generations(1, COLD))
        first = {trial.scored[0].weights for trial in state.trials}
        assert len(first) < len(state.trials)
        spent: dict[str, int] = Counter()
        for trial in state.trials:
            for outcome in trial.scored:
                spent[outcome.weights] += outcome.cost.optimizer_steps
        ends = [0, *ladder_steps(COLD.training_stages, TRAIN_EXAMPLES, 4)]
        stages = {o.weights: o.stage for trial in state.trials for o in trial.scored}
        assert spent == {w: ends[stage + 1] - ends[stage] for w, stage in stages.items()}

    def test_the_first_trains_and_the_others_are_evaluated_with_its_weights(self) -> None:
        executor = executor_of()
        state = evolve(generations(1, COLD), ports_of(executor))
        known: dict[tuple[str, int], str | None] = {}
        followers = 0
        for job in executor.jobs:
            outcome = state.trials[job.trial].outcome_at(job.stage)
            assert outcome is not None
            weights = (weights_of(job.key), job.stage)
            if weights in known:
                followers += 1
                assert job.resume_from == known[weights] == outcome.checkpoint
                assert outcome.cost.optimizer_steps == 0
            else:
                assert outcome.cost.optimizer_steps > 0
            known[weights] = outcome.checkpoint
        assert followers > 2

    def test_an_outcome_tells_of_the_training_that_it_shares(self) -> None:
        state = run(generations(1, COLD))
        by_weights: dict[str, list[Outcome]] = {}
        for trial in state.trials:
            for outcome in trial.scored:
                by_weights.setdefault(outcome.weights, []).append(outcome)
        shared = [group for group in by_weights.values() if len(group) > 1]
        assert shared
        for first, *others in shared:
            for other in others:
                assert other.key != first.key
                assert other.curve == first.curve
                assert other.checkpoint_bytes == first.checkpoint_bytes > 0
                assert other.cumulative_steps == first.cumulative_steps
                assert other.metrics["auroc"] != first.metrics["auroc"]
                for name in ("gradient_norm", "loss_slope"):
                    assert other.metrics[name] == first.metrics[name]

    def test_a_rule_on_the_training_curve_condemns_all_who_share_it(self) -> None:
        rates = ChoiceGene(path="schedule.learning_rate", options=(1e-3, 1e-1))
        rules = (PruneRule(metric="gradient_norm", above=2.0),)
        spec = replace(
            generations(1, COLD),
            space=replace(SPACE, genes=(rates, SPACE.genes[1])),
            prune=PruneSettings(rules=rules),
        )
        state = run(spec)
        hot = [t for t in state.trials if t.candidate.genome["schedule.learning_rate"] == 1e-1]
        assert len(hot) > 1
        assert {t.verdict.rule for t in hot} == {str(rules[0])}

    def test_those_who_share_are_judged_on_their_own_metrics(self) -> None:
        state = run(generations(1, COLD))
        best = {
            trial.scored[0].weights: max(
                (t for t in state.trials if t.scored[0].weights == trial.scored[0].weights),
                key=lambda t: t.scored[0].metrics["auroc"],
            )
            for trial in state.trials
        }
        for trial in state.trials[1:]:
            twin = best[trial.scored[0].weights]
            assert trial.best_stage <= twin.best_stage or trial.verdict.audited

    def test_the_naive_cost_counts_shared_training_once(self) -> None:
        state = run(generations(1, COLD))
        trainings = {trial.scored[0].weights for trial in state.trials}
        full = ladder_steps(COLD.training_stages, TRAIN_EXAMPLES, 4)[-1]
        assert state.ledger.naive.optimizer_steps == full * len(trainings)
        spent = sum(trial.cost.optimizer_steps for trial in state.trials)
        ledger = state.ledger
        assert ledger.searched.optimizer_steps + ledger.confirmation.optimizer_steps == spent

    def test_training_that_diverged_is_not_tried_again_by_those_who_share_it(self) -> None:
        executor = executor_of({"0": {"diverge": True}})
        state = evolve(generations(1, COLD), ports_of(executor))
        key = weights_of(executor.jobs[0].key)
        assert executor.jobs[0].trial == 0
        alike = [t for t in state.trials if weights_of(t.outcomes[0].key) == key]
        assert len(alike) > 1
        assert {t.outcomes[0].failure and t.outcomes[0].failure.kind for t in alike} == {"diverged"}
        assert sum(weights_of(job.key) == key for job in executor.jobs) == 1
        assert sum(t.cost.optimizer_steps for t in alike) == 0

    def test_where_the_first_fails_for_another_reason_the_next_trains(self) -> None:
        executor = executor_of({"0": {"raise": "boom"}})
        state = evolve(generations(1, COLD), ports_of(executor))
        failed, *rest = state.trials
        weights = weights_of(failed.outcomes[0].key)
        alike = [t for t in rest if t.scored[0].weights == weights]
        assert [t.cost.optimizer_steps > 0 for t in alike][:1] == [True]
        assert alike[0].scored[0].cost.optimizer_steps > 0
        assert all(t.scored[0].cost.optimizer_steps == 0 for t in alike[1:])


@pytest.mark.parametrize("arrival", [lambda o: o[::-1], lambda o: o[2:] + o[:2]])
@pytest.mark.parametrize("spec", [COLD, FULL], ids=["cold", "full"])
def test_results_do_not_depend_on_the_order_of_arrival(
    spec: RunSpec, arrival: Callable[[list[Outcome]], list[Outcome]]
) -> None:
    assert evolve(spec, ports_of(executor_of(arrival=arrival))) == run(spec)


@pytest.mark.parametrize("spec", [COLD, FULL], ids=["cold", "full"])
def test_a_run_killed_at_any_event_resumes_to_the_same_end(spec: RunSpec) -> None:
    spec = generations(2, spec)
    failing = {"1": {"diverge": True}, "3": {"raise": "boom"}}
    whole = MemoryRunStore()
    whole_ports = ports_of(executor_of(failing), whole)
    expected = evolve(spec, whole_ports)
    assert replay(whole.events(), spec, TRAIN_EXAMPLES) == expected
    for at in range(len(whole.rows)):
        runs = MemoryRunStore()
        first = ports_of(executor_of(failing), DyingRunStore(runs, at, durable=at % 2 == 0))
        with pytest.raises(KilledError):
            evolve(spec, first)
        done = {e.outcome.key for e in runs.events() if isinstance(e, StageFinished)}
        executor = executor_of(failing)
        second = ports_of(executor, runs)
        assert evolve(spec, second) == expected, f"killed at event {at}"
        assert not {job.key for job in executor.jobs if job.derivation is None} & done
        assert {*discarded(first), *discarded(second)} == {*discarded(whole_ports)}


def twins(state: EvolutionState) -> list[Trial]:
    return [trial for trial in state.trials if trial.candidate.shares]


class TestChildren:
    def test_a_child_that_differs_in_inference_alone_has_its_parents_weights(self) -> None:
        state = run(WARM)
        found = twins(state)
        assert found
        for trial in found:
            shares = trial.candidate.shares
            assert shares is not None
            parent = state.trials[shares.trial]
            assert parent.number in trial.candidate.lineage.parents
            assert trial.candidate.genome["adapter.rank"] == parent.candidate.genome["adapter.rank"]
            assert (trial.candidate.legacy, trial.candidate.entry) == (
                parent.candidate.legacy,
                parent.candidate.entry,
            )
            own, theirs = trial.outcomes[0], parent.outcome_at(shares.stage)
            assert theirs is not None
            assert own.stage == shares.stage == parent.verdict.stage
            assert (own.weights, own.checkpoint) == (theirs.weights, theirs.checkpoint)
            assert own.cost.optimizer_steps == 0
            assert own.curve == theirs.curve

    def test_other_children_inherit_as_ever(self) -> None:
        state = run(WARM)
        others = [
            trial
            for trial in state.trials
            if trial.candidate.lineage.operator in ("mutation", "crossover")
            and not trial.candidate.shares
        ]
        assert any(trial.candidate.legacy for trial in others)
        for trial in others:
            for legacy in trial.candidate.legacy:
                assert legacy.trial in trial.candidate.lineage.parents

    def test_a_lineage_counts_shared_training_once(self) -> None:
        state = run(WARM)
        for trial in twins(state):
            shares = trial.candidate.shares
            assert shares is not None
            assert lineage_steps(trial.number, shares.stage, state, WARM) == lineage_steps(
                shares.trial, shares.stage, state, WARM
            )

    def test_a_lineage_is_the_sum_of_its_different_stages(self) -> None:
        spec = generations(7, replace(FULL, seed=2))
        state = run(spec)
        ends = [0, *ladder_steps(FULL.training_stages, TRAIN_EXAMPLES, 4)]
        shared = 0
        for trial in state.trials:
            if not trial.scored:
                continue
            stages: dict[str, int] = {}
            count = 0
            for number, highest in ancestors(
                trial.number, trial.best_stage, state, in_weights=True
            ).items():
                line = [state.candidate(number)]
                while (shares := line[-1].shares) is not None:
                    line.append(state.candidate(shares.trial))
                if line[0].derivation is not None:
                    continue
                for stage in range(line[0].entry, highest + 1):
                    found = (state.outcome_of(each.number, stage) for each in line)
                    outcome = next(outcome for outcome in found if outcome)
                    stages[outcome.weights] = ends[stage + 1] - ends[stage]
                    count += 1
            shared += count > len(stages)
            assert lineage_steps(trial.number, trial.best_stage, state, spec) == sum(
                stages.values()
            )
        assert shared

    def test_operations_of_a_lineage_are_those_of_whoever_trained(self) -> None:
        def work(job: TrainingJob, outcome: Outcome) -> Outcome:
            cost = replace(outcome.cost, teraflops=0.5 * outcome.cost.optimizer_steps)
            return replace(answers(job, outcome), cost=cost)

        spec = generations(7, replace(FULL, seed=2))
        state = evolve(spec, ports_of(WatchedExecutor(edit=work)))
        scored = [trial for trial in state.trials if trial.scored]
        assert any(trial.best_stage > trial.candidate.shares.stage for trial in twins(state))
        for trial in scored:
            steps = lineage_steps(trial.number, trial.best_stage, state, spec)
            assert lineage_teraflops(trial.number, trial.best_stage, state) == 0.5 * steps

    def test_children_that_start_cold_share_the_weights_of_cold_parents_alone(self) -> None:
        rates = FloatGene(path="schedule.learning_rate", low=1e-4, high=1e-2, log=True)
        wider = replace(WARM, space=replace(SPACE, genes=(rates, *SPACE.genes)))
        state = run(replace(wider, warm_start=WarmStartSettings(cold_share=0)))
        assert any(state.trials[number].candidate.legacy for number in state.population)
        for generation in range(20):
            cold = replace(wider, seed=generation, warm_start=WarmStartSettings(cold_share=1))
            assert not any(candidate.legacy for candidate in breed(state, cold))

    def test_its_parents_checkpoint_is_kept_for_a_child_until_it_has_joined(self) -> None:
        runs = MemoryRunStore()
        evolve(WARM, ports_of(executor_of(), runs))
        state, found = EvolutionState(train_examples=TRAIN_EXAMPLES), 0
        for event in runs.events():
            state = advance(state, event, WARM)
            if isinstance(event, GenerationStarted):
                queued = {c.address for c in claims(state, WARM) if c.use is Use.QUEUED}
                for shares in (c.shares for c in event.candidates if c.shares):
                    outcome = state.outcome_of(shares.trial, shares.stage)
                    assert outcome is not None
                    assert outcome.checkpoint in queued
                    found += 1
        assert found

    def test_a_comparison_judges_them_in_its_one_stage(self) -> None:
        way: Any = SimpleNamespace(trials=run(COLD).trials)
        assert twins(run(COLD))
        assert {candidate.first_stage for candidate in all_at_once(way)} == {0}

    def test_parents_with_the_same_weights_are_one_parent(self) -> None:
        state = run(generations(6, FULL))
        for trial in state.trials:
            if trial.candidate.derivation is None:
                weights = [
                    o.weights
                    for item in trial.candidate.legacy
                    if (o := state.outcome_of(item.trial, item.stage))
                ]
                assert len(weights) == len(set(weights))

    def test_a_search_without_such_genes_shares_nothing(self) -> None:
        state = evolve(SPEC, ports_of(WatchedExecutor()))
        assert not twins(state)
        assert all(t.scored[0].cost.optimizer_steps for t in state.trials if t.scored)


class TestAtTheEndOfAGeneration:
    def test_soups_are_made_of_different_weights(self) -> None:
        state = run(generations(4, FULL))
        pool = soup_pool(state, FULL)
        assert len({trial.scored[-1].weights for trial in pool}) == len(pool) > 1
        soups = [t for t in state.trials if t.candidate.lineage.operator == "soup"]
        assert soups
        for soup in soups:
            members = [state.trials[item.trial].scored[-1] for item in soup.candidate.legacy]
            assert len({member.weights for member in members}) == len(members)

    def test_of_equal_weights_one_is_squeezed(self) -> None:
        state = run(FULL)
        sources = Counter(
            (t.candidate.generation, state.trials[t.candidate.legacy[0].trial].scored[-1].weights)
            for t in state.trials
            if t.candidate.lineage.operator == "squeeze" and t.candidate.derivation
        )
        assert sources
        assert max(sources.values()) <= len(FULL.squeeze.ranks) + len(FULL.squeeze.energies)

    def test_no_checkpoint_is_discarded_that_a_trial_still_has(self) -> None:
        ports = ports_of(executor_of())
        state = evolve(generations(5, FULL), ports)
        kept = {trial.scored[-1].checkpoint for trial in state.trials if trial.scored}
        assert len(discarded(ports)) > 5
        assert not kept & {*discarded(ports)}


class TestConfirmation:
    def test_rematches_are_of_different_training(self) -> None:
        executor = executor_of()
        state = evolve(FULL, ports_of(executor))
        assert state.confirmation is not None
        cold = [c for c in state.confirmation.contestants if c.kind == "cold"]
        ranks = [state.trials[c.trial].candidate.genome["adapter.rank"] for c in cold]
        assert len(set(ranks)) == len(ranks) == 2
        trained = [weights_of(job.key) for job in executor.jobs if job.seed != FULL.seed]
        assert len(set(trained)) == len(trained) == 2


def test_keys_of_work_without_such_genes_are_those_of_earlier_versions() -> None:
    genome = {
        "schedule.learning_rate": 1e-3,
        "adapter.rank": 8,
        "curriculum.kind": "none",
        "curriculum.ramp": 0.5,
    }
    candidate = Candidate(
        number=1,
        generation=0,
        genome=genome,
        digest=SPEC.space.digest(genome),
        lineage=Lineage(operator="sobol"),
    )
    survey = scripted_trainer({}, "cpu", lambda _: None).survey()
    work = work_of(candidate, EvolutionState(train_examples=400), SPEC, survey)
    assert candidate.digest[:12] == "6383b3bb5606"
    assert [key[:12] for key in work.keys] == [
        "d5b76916a176",
        "9de4222573e8",
        "13415a7ed300",
        "a935039b482d",
    ]
    assert all(weights_of(key) == key for key in work.keys)
