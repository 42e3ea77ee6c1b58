"""Whole evolutions whose children inherit, on a trainer that plays a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from coral.evolution import (
    ancestors,
    lineage_steps,
    lineage_teraflops,
    ranked_finishers,
    replay,
)
from coral.loop import evolve
from coral.ports import Ports, TrainingJob
from coral.records import (
    CandidatesJoined,
    Failure,
    Outcome,
    StageFinished,
    Trial,
    TrialsDerived,
)
from coral.settings import (
    ConfirmSettings,
    ExploitSettings,
    RunSpec,
    SoupSettings,
    SqueezeSettings,
    WarmStartSettings,
)
from coral.testing.trainers import TRAIN_EXAMPLES
from tests.scripted_runs import (
    AUROC,
    SPEC,
    DyingRunStore,
    KilledError,
    MemoryCheckpointStore,
    MemoryRunStore,
    WatchedExecutor,
    ports_of,
    run,
)

WARM = replace(SPEC, warm_start=WarmStartSettings(mode="crossover", cold_share=0.34))
FULL = replace(
    WARM,
    exploit=ExploitSettings(quantile=0.5),
    soup=SoupSettings(),
    squeeze=SqueezeSettings(ranks=(4, 2), energies=(0.9,)),
    confirm=ConfirmSettings(top_k=2, seeds=2),
)


def children(trials: Sequence[Trial]) -> list[Trial]:
    return [
        trial for trial in trials if trial.candidate.lineage.operator in ("mutation", "crossover")
    ]


def derived(trials: Sequence[Trial], kind: str) -> list[Trial]:
    return [trial for trial in trials if trial.candidate.lineage.operator == kind]


class TestWhoInherits:
    def test_children_start_from_the_weights_that_made_their_parents_parents(self) -> None:
        state = run(WARM)
        warm = [trial for trial in children(state.trials) if trial.candidate.legacy]
        assert warm
        for trial in warm:
            for legacy in trial.candidate.legacy:
                assert legacy.trial in trial.candidate.lineage.parents
                assert legacy.stage == state.trials[legacy.trial].verdict.stage

    def test_a_fixed_share_of_each_generation_starts_cold(self) -> None:
        state = run(WARM)
        for generation in (1, 2):
            own = [t for t in children(state.trials) if t.candidate.generation == generation]
            assert sum(not trial.candidate.legacy for trial in own) == round(0.34 * len(own))

    def test_who_starts_cold_is_chosen_at_random(self) -> None:
        def cold(spec: RunSpec) -> list[int]:
            return [t.number for t in children(run(spec).trials) if not t.candidate.legacy]

        assert cold(WARM) != cold(replace(WARM, seed=1))

    def test_a_parent_has_one_heir_line_where_weights_are_not_crossed(self) -> None:
        spec = replace(WARM, warm_start=WarmStartSettings(mode="parent", cold_share=0))
        state = run(spec)
        crossed = derived(state.trials, "crossover")
        assert crossed
        assert {len(trial.candidate.legacy) for trial in crossed} == {1}

    def test_the_better_parent_comes_first(self) -> None:
        state = run(WARM)
        pairs = [t.candidate.legacy for t in state.trials if len(t.candidate.legacy) == 2]
        assert pairs
        for one, two in pairs:
            outcomes = [state.outcome_of(item.trial, item.stage) for item in (one, two)]
            worth = [(o.stage, o.metrics["auroc"]) for o in outcomes if o is not None]
            assert worth[0] >= worth[1]

    def test_parents_that_are_too_different_leave_nothing(self) -> None:
        spec = replace(WARM, warm_start=WarmStartSettings(min_similarity=1.0))
        assert not any(trial.candidate.legacy for trial in children(run(spec).trials))

    def test_nobody_inherits_where_it_is_switched_off(self) -> None:
        assert not any(trial.candidate.legacy for trial in run(SPEC).trials)


class TestWhereTheyEnter:
    @pytest.mark.parametrize("entry", ["first", "parent", "S1_shakeout"])
    def test_a_child_enters_where_the_config_says(self, entry: str) -> None:
        state = run(replace(WARM, warm_start=WarmStartSettings(entry=entry)))
        for trial in children(state.trials):
            candidate = trial.candidate
            if not candidate.legacy:
                assert candidate.entry == 0
            elif entry == "parent":
                assert candidate.entry == candidate.legacy[0].stage
            else:
                assert candidate.entry == (0 if entry == "first" else 1)

    def test_stages_before_the_entry_are_not_trained(self) -> None:
        executor = WatchedExecutor()
        state = evolve(WARM, ports_of(executor))
        late = [trial for trial in state.trials if trial.candidate.entry > 0]
        assert late
        for trial in late:
            stages = [job.stage for job in executor.jobs if job.trial == trial.number]
            assert stages == list(range(trial.candidate.entry, trial.best_stage + 1))

    def test_only_the_first_job_of_a_child_reads_its_parents(self) -> None:
        executor = WatchedExecutor()
        evolve(WARM, ports_of(executor))
        for job in executor.jobs:
            assert (job.resume_from is None) == (job.stage == job.entry)

    def test_steps_count_what_was_inherited(self) -> None:
        state = run(WARM)
        for trial in children(state.trials):
            for outcome in trial.scored:
                own = sum(o.cost.optimizer_steps for o in trial.scored if o.stage <= outcome.stage)
                assert (outcome.cumulative_steps > own) == bool(trial.candidate.legacy)


def test_the_work_of_a_child_is_named_after_its_parents_weights() -> None:
    warm, cold = WatchedExecutor(), WatchedExecutor()
    evolve(WARM, ports_of(warm))
    evolve(SPEC, ports_of(cold))
    keys = {job.key: job for job in cold.jobs}
    for job in warm.jobs:
        assert not (job.inherits and job.key in keys)


@pytest.mark.parametrize("durable", [False, True])
def test_a_run_killed_at_any_event_resumes_to_the_same_end(durable: bool) -> None:
    spec = replace(FULL, evolution=replace(SPEC.evolution, population_size=5, generations=2))
    whole = MemoryRunStore()
    expected = evolve(spec, ports_of(WatchedExecutor(), whole))
    kinds = Counter(kind for kind, _ in whole.rows)
    assert {"candidates_joined", "trials_derived", "run_confirmed"} <= kinds.keys()
    for at in range(len(whole.rows)):
        runs, executor = MemoryRunStore(), WatchedExecutor()
        with pytest.raises(KilledError):
            evolve(spec, ports_of(executor, DyingRunStore(runs, at, durable)))
        known = {e.outcome.key for e in runs.events() if isinstance(e, StageFinished)}
        before = len(executor.jobs)
        resumed = evolve(spec, ports_of(executor, runs))
        assert resumed == expected, f"killed at event {at}"
        assert replay(runs.events(), spec, TRAIN_EXAMPLES) == resumed
        assert len(runs.rows) == len(whole.rows)
        assert not {job.key for job in executor.jobs[before:]} & known, f"killed at event {at}"


class TestLostWeights:
    def lost(self, trial: int) -> tuple[WatchedExecutor, Ports]:
        executor = WatchedExecutor({str(trial): {"lost": True}})
        return executor, ports_of(executor)

    def child(self) -> Trial:
        """A child of the last generation whose parent inherited itself."""
        state = run(WARM)
        return next(
            trial
            for trial in reversed(state.trials)
            if trial.candidate.legacy
            and any(state.candidate(item.trial).legacy for item in trial.candidate.legacy)
        )

    def test_the_job_runs_again_knowing_how_its_ancestors_were_made(self) -> None:
        trial = self.child()
        executor, ports = self.lost(trial.number)
        state = evolve(WARM, ports)
        assert state == run(WARM)
        first, second = [
            j for j in executor.jobs if (j.trial, j.stage) == (trial.number, trial.candidate.entry)
        ]
        assert not first.ancestors
        self.require_complete(second)

    def require_complete(self, job: TrainingJob) -> None:
        """Every key that is inherited is made, by a job after those that it needs itself."""
        made: set[str] = set()
        for ancestor in job.ancestors:
            assert {item.key for item in ancestor.inherits} <= made
            made.add(ancestor.key)
        assert {item.key for item in job.inherits} <= made

    def test_nobody_is_sent_for_weights_that_are_known_to_be_gone(self) -> None:
        executor = WatchedExecutor()
        ports = replace(ports_of(executor), checkpoints=EmptyStore())
        assert evolve(WARM, ports) == run(WARM)
        heirs = [job for job in executor.jobs if job.inherits and job.resume_from is None]
        assert heirs
        for job in heirs:
            self.require_complete(job)


class EmptyStore(MemoryCheckpointStore):
    """A cache that was cleared."""

    def holds(self, address: str) -> bool:
        return False


class TestSoup:
    SOUP = replace(WARM, soup=SoupSettings(candidates=4, tunings=3))

    def test_a_soup_is_a_trial_and_leads_if_it_is_the_best(self) -> None:
        state = run(self.SOUP)
        soups = derived(state.trials, "soup")
        assert soups
        best = max(
            trial.scored[-1].metrics["auroc"] for trial in state.trials if trial.best_stage == 3
        )
        assert state.champion is not None
        assert state.trials[state.champion].scored[-1].metrics["auroc"] == best
        for trial in soups:
            assert sum(item.weight for item in trial.candidate.legacy) == pytest.approx(1)
            assert trial.cost.optimizer_steps == 0

    def test_members_are_trained_trials_of_the_last_stage(self) -> None:
        state = run(self.SOUP)
        for soup in derived(state.trials, "soup"):
            assert 2 <= len(soup.candidate.legacy) <= 4
            for item in soup.candidate.legacy:
                member = state.trials[item.trial]
                assert item.stage == member.best_stage == SPEC.last_stage
                assert member.candidate.derivation is None

    def test_a_soup_that_is_no_better_is_no_trial(self) -> None:
        def spoil(job: TrainingJob, outcome: Outcome) -> Outcome:
            if job.derivation is None:
                return outcome
            return replace(outcome, metrics={**outcome.metrics, "auroc": 0.1})

        runs = MemoryRunStore()
        state = evolve(self.SOUP, ports_of(WatchedExecutor(edit=spoil), runs))
        assert not derived(state.trials, "soup")
        told = [event for event in runs.events() if isinstance(event, TrialsDerived)]
        assert [event.trials for event in told] == [()] * 3

    def test_a_soup_may_be_a_parent(self) -> None:
        state = run(replace(self.SOUP, evolution=replace(SPEC.evolution, generations=5)))
        parents = {n for trial in children(state.trials) for n in trial.candidate.lineage.parents}
        assert parents & {trial.number for trial in derived(state.trials, "soup")}


class TestSqueeze:
    SQUEEZE = replace(SPEC, squeeze=SqueezeSettings(ranks=(4, 2), energies=(0.5,), sources=1))

    def test_the_best_of_each_generation_is_cut_to_lower_ranks(self) -> None:
        state = run(self.SQUEEZE)
        for generation in range(3):
            own = [t for t in state.trials if t.candidate.generation == generation]
            source = ranked_finishers([t for t in own if not t.candidate.derivation], SPEC)[0]
            squeezed = derived(own, "squeeze")
            rank = SPEC.plan_of(source.candidate).adapter.rank
            assert {t.candidate.legacy[0].trial for t in squeezed} == {source.number}
            tried = [t.candidate.derivation.rank for t in squeezed if t.candidate.derivation]
            assert tried == [*(r for r in (4, 2) if r < rank), None]

    def test_they_may_be_on_the_front_and_never_breed(self) -> None:
        state = run(self.SQUEEZE)
        numbers = {trial.number for trial in derived(state.trials, "squeeze")}
        assert numbers & {*state.front}
        assert not numbers & {*state.population}
        assert not numbers & {
            n
            for t in state.trials
            for n in t.candidate.lineage.parents
            if t.candidate.lineage.operator != "squeeze"
        }

    def test_the_best_few_may_train_on(self) -> None:
        spec = replace(self.SQUEEZE, squeeze=replace(self.SQUEEZE.squeeze, train=1))
        state = run(spec)
        trained = [t for t in derived(state.trials, "squeeze") if t.candidate.derivation is None]
        assert trained
        for trial in trained:
            (source,) = trial.candidate.lineage.parents
            small = state.trials[source]
            assert small.candidate.derivation is not None
            assert spec.plan_of(trial.candidate).adapter.rank == small.candidate.derivation.rank
            assert trial.candidate.legacy[0].trial == source
            assert trial.candidate.entry == spec.last_stage
            assert trial.cost.optimizer_steps > 0


class TestExploit:
    EXPLOIT = replace(SPEC, exploit=ExploitSettings(quantile=0.5), objectives=(AUROC,))

    def test_copies_of_the_best_take_the_places_of_the_worst(self) -> None:
        runs = MemoryRunStore()
        state = evolve(self.EXPLOIT, ports_of(WatchedExecutor(), runs))
        joined = [c for e in runs.events() if isinstance(e, CandidatesJoined) for c in e.candidates]
        assert joined
        losers = [trial for trial in state.trials if trial.verdict.rule == "exploited"]
        assert len(losers) == len(joined)
        for candidate in joined:
            (legacy,) = candidate.legacy
            model = state.trials[legacy.trial]
            assert candidate.entry == legacy.stage + 1
            assert candidate.digest != model.candidate.digest
            gave = next(t for t in losers if t.verdict.reason.endswith(f"trial {candidate.number}"))
            one, two = model.outcome_at(legacy.stage), gave.outcome_at(legacy.stage)
            assert one is not None and two is not None
            assert one.metrics["auroc"] >= two.metrics["auroc"]

    def test_the_reference_is_neither_copied_nor_replaced(self) -> None:
        state = run(self.EXPLOIT)
        assert state.trials[0].verdict.rule != "exploited"
        assert not any(t.candidate.legacy[0].trial == 0 for t in derived(state.trials, "exploit"))


class TestConfirmation:
    CONFIRM = replace(WARM, confirm=ConfirmSettings(top_k=2, seeds=3), soup=SoupSettings())

    def test_the_best_genomes_are_trained_again_from_scratch_on_new_seeds(self) -> None:
        executor = WatchedExecutor()
        state = evolve(self.CONFIRM, ports_of(executor))
        assert state.confirmation is not None
        cold = [c for c in state.confirmation.contestants if c.kind == "cold"]
        assert Counter(c.trial for c in cold).most_common() == [
            (cold[0].trial, 3),
            (cold[-1].trial, 3),
        ]
        assert len({c.seed for c in cold} | {SPEC.seed}) == 4
        for job in executor.jobs:
            if job.seed != SPEC.seed:
                assert (job.inherits, job.entry, job.resume_from) == ((), 0, None)

    def test_the_default_recipe_gets_the_steps_of_the_champions_whole_lineage(self) -> None:
        state = run(self.CONFIRM)
        assert state.confirmation is not None
        assert state.champion is not None
        by_kind = {c.kind: c for c in state.confirmation.contestants}
        steps = lineage_steps(state.champion, SPEC.last_stage, state, SPEC)
        assert by_kind["lineage"].optimizer_steps == steps
        assert by_kind["long default"].optimizer_steps == steps
        assert by_kind["default"].optimizer_steps < steps

    def test_steps_of_a_shared_ancestor_count_once(self) -> None:
        state = run(self.CONFIRM)
        assert state.champion is not None
        own = ancestors(
            state.champion, state.trials[state.champion].best_stage, state, in_weights=True
        )
        assert len(own) > 2
        assert lineage_steps(state.champion, SPEC.last_stage, state, SPEC) == sum(
            outcome.cost.optimizer_steps
            for number, stage in own.items()
            for outcome in state.trials[number].scored
            if outcome.stage <= stage
        )

    def test_operations_of_a_lineage_are_those_of_its_steps(self) -> None:
        def work(_: TrainingJob, outcome: Outcome) -> Outcome:
            cost = replace(outcome.cost, teraflops=0.5 * outcome.cost.optimizer_steps)
            return replace(outcome, cost=cost)

        state = evolve(self.CONFIRM, ports_of(WatchedExecutor(edit=work)))
        assert state.champion is not None
        champion = (state.champion, SPEC.last_stage, state)
        assert lineage_teraflops(*champion) == 0.5 * lineage_steps(*champion, SPEC) > 0

    def test_a_parent_that_was_dropped_is_no_part_of_the_lineage(self) -> None:
        def drop(_: TrainingJob, outcome: Outcome) -> Outcome:
            kept = outcome.inheritance
            if kept is None or len(kept.sources) < 2:
                return outcome
            return replace(outcome, inheritance=replace(kept, sources=kept.sources[:1]))

        state = evolve(WARM, ports_of(WatchedExecutor(edit=drop)))
        crossed = next(
            t for t in state.trials if len(t.candidate.legacy) == 2 and t.best_stage >= 0
        )
        one, two = (item.trial for item in crossed.candidate.legacy)
        line = ancestors(crossed.number, crossed.best_stage, state, in_weights=True)
        assert one in line
        assert two not in line or two in ancestors(one, 3, state)
        assert {one, two} <= ancestors(crossed.number, crossed.best_stage, state).keys()

    def test_validation_decides_who_is_handed_over(self) -> None:
        def lift(job: TrainingJob, outcome: Outcome) -> Outcome:
            better = job.seed != SPEC.seed
            return (
                replace(outcome, metrics={**outcome.metrics, "auroc": 0.999}) if better else outcome
            )

        state = evolve(self.CONFIRM, ports_of(WatchedExecutor(edit=lift)))
        assert state.confirmation is not None
        assert state.confirmation.contestants[state.confirmation.winner].kind == "cold"
        plain = run(self.CONFIRM).confirmation
        assert plain is not None
        best = max(c.metrics["auroc"] for c in plain.contestants)
        assert plain.contestants[plain.winner].metrics["auroc"] == best

    def test_a_rematch_that_fails_is_left_out(self) -> None:
        def spoil(job: TrainingJob, outcome: Outcome) -> Outcome:
            if job.seed == SPEC.seed:
                return outcome
            return replace(outcome, failure=Failure(kind="crashed", message="the power went"))

        state = evolve(self.CONFIRM, ports_of(WatchedExecutor(edit=spoil)))
        assert state.confirmation is not None
        assert {c.kind for c in state.confirmation.contestants} == {
            "lineage",
            "default",
            "long default",
        }

    def test_the_confirmation_is_no_part_of_the_search(self) -> None:
        with_rematches = run(self.CONFIRM).ledger
        without = run(replace(self.CONFIRM, confirm=ConfirmSettings(top_k=0))).ledger
        assert with_rematches.searched == without.searched
        assert with_rematches.confirmation.optimizer_steps > without.confirmation.optimizer_steps
