"""Runs whose parents and objectives are a plugin's."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coral import compose
from coral.backends import trainer_payload
from coral.errors import NoSurvivorsError, RunError, StrategyError
from coral.evolution import is_fit, replay
from coral.genome import ChoiceGene, SearchSpace
from coral.loop import evolve
from coral.plan import TrainingPlan, with_values
from coral.ports import Ports, RunStore, SelectionPool, Strategies, Survey
from coral.records import Candidate, Cost, Direction, Lineage, Objective, ParentsSelected
from coral.settings import RunSpec
from coral.strategies import named
from coral.testing.trainers import TRAIN_EXAMPLES
from coral.work import work_of
from tests.scripted_runs import (
    FAILING,
    SPEC,
    DyingRunStore,
    KilledError,
    MemoryRunStore,
    WatchedExecutor,
    generations,
    ports_of,
)
from tests.thrifty import THRIFTY

FRUGAL = Objective(metric="frugality")
MINE = replace(
    SPEC,
    evolution=replace(SPEC.evolution, selection="by_lot", generations=2),
    objectives=(FRUGAL, Objective(metric="auroc")),
)


def by_lot(pool: SelectionPool, count: int, rng: np.random.Generator) -> Sequence[int]:
    return [int(i) for i in rng.permutation(len(pool))[:count]]


@dataclass
class Frugality:
    """AUROC for each parameter; raises for some sizes, and has no value for others."""

    direction: Direction = "max"
    refused: tuple[float, ...] = ()
    worthless: tuple[float, ...] = ()
    asked: int = 0

    def __call__(self, metrics: Mapping[str, float], cost: Cost) -> float:
        self.asked += 1
        size = metrics["trainable_parameters"]
        if size in self.refused:
            raise ZeroDivisionError("no size at all")
        assert cost.optimizer_steps or cost.evaluation_seconds >= 0
        return math.nan if size in self.worthless else metrics["auroc"] / size


def mine(runs: RunStore | None = None, objective: Frugality | None = None, **fails: Any) -> Ports:
    known = Strategies(
        selections={"by_lot": by_lot}, objectives={"frugality": objective or Frugality()}
    )
    return replace(ports_of(WatchedExecutor(fails or None), runs), strategies=known)


def test_an_objective_of_a_plugin_decides_like_a_metric() -> None:
    state = evolve(MINE, mine())
    assert state.champion is not None
    for trial in state.trials:
        for outcome in trial.scored:
            metrics = outcome.metrics
            expected = metrics["auroc"] / metrics["trainable_parameters"]
            assert metrics["frugality"] == pytest.approx(expected)
    finishers = [t for t in state.trials if is_fit(t) and t.best_stage == MINE.last_stage]
    best = max(finishers, key=lambda trial: trial.scored[-1].metrics["frugality"])
    assert state.champion == best.number
    assert state.history[-1].best == best.scored[-1].metrics["frugality"]
    assert state.confirmation is not None
    assert all("frugality" in each.metrics for each in state.confirmation.contestants)


def test_an_objective_that_the_config_does_not_name_is_not_computed() -> None:
    objective = Frugality()
    state = evolve(SPEC, mine(objective=objective))
    assert objective.asked == 0
    assert all("frugality" not in trial.scored[-1].metrics for trial in state.trials)


def test_where_an_objective_raises_the_trial_fails_and_no_other() -> None:
    sizes = {t.scored[0].metrics["trainable_parameters"] for t in evolve(MINE, mine()).trials[:6]}
    worst = max(sizes)
    state = evolve(MINE, mine(objective=Frugality(refused=(worst,))))
    failed = [trial for trial in state.trials if trial.verdict.status == "failed"]
    assert failed
    assert {trial.verdict.rule for trial in failed} == {"plugin"}
    failure = failed[0].outcomes[-1].failure
    assert failure is not None
    assert failure.message == ("objective 'frugality' raised ZeroDivisionError: no size at all.")
    assert "ZeroDivisionError" in failure.traceback


def test_an_objective_without_a_value_ends_the_trials_chances() -> None:
    sizes = [t.scored[0].metrics["trainable_parameters"] for t in evolve(MINE, mine()).trials[:6]]
    state = evolve(MINE, mine(objective=Frugality(worthless=(min(sizes),))))
    assert state.champion is not None
    champion = state.trials[state.champion].scored[-1].metrics
    assert champion["trainable_parameters"] != min(sizes)


def test_an_objective_that_fails_everywhere_is_told() -> None:
    spec = replace(MINE, objectives=(Objective(metric="frugality"),))
    known = Strategies(
        selections={"by_lot": by_lot},
        objectives={"frugality": lambda metrics, cost: None},  # type: ignore[dict-item]
    )
    with pytest.raises(NoSurvivorsError, match="it must return a number, got None"):
        evolve(spec, replace(mine(), strategies=known))


def test_the_parents_that_a_plugin_picks_are_events_and_are_bred_from() -> None:
    runs = MemoryRunStore()
    spec = generations(3, MINE)
    state = evolve(spec, mine(runs))
    picked = [event for event in runs.events() if isinstance(event, ParentsSelected)]
    assert [event.generation for event in picked] == [0, 1]
    for event in picked:
        assert len(event.parents) <= spec.evolution.population_size
        children = [t for t in state.trials if t.candidate.generation == event.generation + 1]
        bred = [t for t in children if t.candidate.lineage.operator in ("mutation", "crossover")]
        assert bred
        assert {p for t in bred for p in t.candidate.lineage.parents} <= set(event.parents)


def test_replaying_a_run_asks_no_plugin() -> None:
    runs = MemoryRunStore()
    state = evolve(MINE, mine(runs))
    assert replay(runs.events(), MINE, TRAIN_EXAMPLES) == state


@pytest.mark.parametrize("durable", [True, False], ids=["after", "before"])
def test_a_run_killed_at_any_event_resumes_to_the_same_end(durable: bool) -> None:
    whole = MemoryRunStore()
    expected = evolve(MINE, mine(whole, **FAILING))
    for at in range(len(whole.rows)):
        runs = MemoryRunStore()
        with pytest.raises(KilledError):
            evolve(MINE, mine(DyingRunStore(runs, at, durable), **FAILING))
        assert evolve(MINE, mine(runs, **FAILING)) == expected, f"killed at event {at}"
        assert runs.rows == whole.rows


def test_a_selection_that_breaks_its_rules_ends_the_run_and_can_be_mended() -> None:
    runs = MemoryRunStore()
    ports = mine(runs)
    broken = replace(ports.strategies, selections={"by_lot": lambda pool, count, rng: [0] * count})
    with pytest.raises(StrategyError, match="selection 'by_lot': it must return"):
        evolve(MINE, replace(ports, strategies=broken))
    assert evolve(MINE, mine(runs)) == evolve(MINE, mine())


def test_a_selection_that_is_not_at_hand_is_named() -> None:
    with pytest.raises(StrategyError, match=r"selection 'by_lot' must be one of .* \(none\)"):
        named(Strategies(), "selections", "by_lot")


class TestIdentity:
    def key(self, survey: Survey, **values: Any) -> str:
        spec: RunSpec = replace(SPEC, space=SearchSpace(base=with_values(TrainingPlan(), values)))
        candidate = Candidate(
            number=0, generation=0, genome={}, digest="", lineage=Lineage(operator="sobol")
        )
        state = replay([], spec, TRAIN_EXAMPLES)
        return work_of(candidate, state, spec, survey).keys[0]

    def test_results_are_named_after_the_strategies_source_where_a_plan_names_one(self) -> None:
        plain = ports_of(WatchedExecutor()).survey
        one, two = (
            replace(plain, strategies={"samplers.mine": digest}) for digest in ("one", "two")
        )
        named = {"sampling.kind": "mine"}
        assert len({self.key(survey, **named) for survey in (plain, one, two)}) == 3
        assert len({self.key(survey) for survey in (plain, one, two)}) == 1
        others = {"sampling.kind": "balanced"}
        assert self.key(one, **others) == self.key(plain, **others)

    def test_a_kind_and_another_of_the_same_name_are_told_apart(self) -> None:
        plain = ports_of(WatchedExecutor()).survey
        survey = replace(plain, strategies={"curricula.mine": "one"})
        assert self.key(survey, **{"sampling.kind": "mine"}) == self.key(
            plain, **{"sampling.kind": "mine"}
        )


CONFIG = """
base_model: nobody/has-this-model
mode: simulate
tasks: [docstring_kind]
search_space:
  lora_r: {low: 2, high: 32, log: true}
  curriculum.kind: [none, progressive, hard_first]
training: {sampling: {kind: long_texts_often}, loss: {weighting: inverse_frequency}}
evolution: {population_size: 4, generations: 2, selection: youngest}
objectives: [auroc_per_million, auroc]
output_dir: run
"""


class TestASimulatedRun:
    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> compose.Source:
        monkeypatch.chdir(tmp_path)
        shutil.copytree(THRIFTY, tmp_path / "plugins" / "thrifty")
        (tmp_path / "mine.yaml").write_text(CONFIG)
        return compose.Source(path=tmp_path / "mine.yaml")

    def start(self, source: compose.Source) -> list[tuple[str, str]]:
        observer = Noting()
        facts = compose.start_run(compose.load(source, {}), source, observer)
        assert facts["status"] == "finished"
        validation = facts["champion"]["metrics"]["validation"]
        expected = (validation["auroc"] - 0.5) / (1 + validation["trainable_parameters"] / 1e6)
        assert validation["auroc_per_million"] == pytest.approx(expected)
        return observer.noticed

    def test_what_it_knows_nothing_of_is_told(self, source: compose.Source) -> None:
        [(topic, told)] = self.start(source)
        assert topic == "strategies"
        assert told == (
            "a simulation knows nothing of curriculum hard_first, sampler long_texts_often,"
            " loss weighting inverse_frequency: without effect here"
        )

    def edit(self, source: compose.Source, before: str, after: str) -> None:
        file = source.path.parent / "plugins" / "thrifty" / "strategies.py"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))

    def test_it_does_not_go_on_with_a_plugin_that_has_changed(self, source: compose.Source) -> None:
        self.start(source)
        self.edit(source, "- 0.5", "- 0.6")
        with pytest.raises(RunError) as caught:
            compose.resume_run(Path("run"), compose.SilentObserver(), 1)
        told = str(caught.value)
        assert (
            "curricula.hard_first, objectives.auroc_per_million, samplers.long_texts_often" in told
        )
        assert "Bring back the earlier plugin" in told
        self.edit(source, "- 0.6", "- 0.5")
        assert compose.resume_run(Path("run"), compose.SilentObserver(), 1)["generation"] == 3

    def test_a_selection_may_be_mended_between_two_sittings(self, source: compose.Source) -> None:
        mended = source.path.parent / "plugins" / "lots" / "__init__.py"
        mended.parent.mkdir()
        mended.write_text("SELECTIONS = {'first': lambda pool, count, rng: range(count)}\n")
        config = compose.load(source, {"evolution.selection": "first"})
        compose.start_run(config, source, compose.SilentObserver())
        mended.write_text(f"{mended.read_text()}# mended\n")
        assert compose.resume_run(Path("run"), compose.SilentObserver(), 1)["generation"] == 3

    def test_a_strategy_of_two_plugins_is_refused_with_the_config(
        self, source: compose.Source
    ) -> None:
        shutil.copytree(THRIFTY, source.path.parent / "plugins" / "twin")
        with pytest.raises(StrategyError, match="exactly one plugin must provide it"):
            compose.load(source, {})


class Noting(compose.SilentObserver):
    """Remembers notices."""

    def __init__(self) -> None:
        self.noticed: list[tuple[str, str]] = []

    def on_notice(self, topic: str, text: str) -> None:
        self.noticed.append((topic, text))


def test_workers_are_told_of_the_strategies_that_train() -> None:
    space = SearchSpace(
        base=with_values(TrainingPlan(), {"sampling.kind": "mine", "loss.weighting": "none"}),
        genes=(ChoiceGene(path="curriculum.kind", options=("none", "steep")),),
    )
    spec = replace(MINE, space=space)
    assert trainer_payload(spec, [])["strategies"] == [
        ["curricula", "steep"],
        ["samplers", "mine"],
    ]
