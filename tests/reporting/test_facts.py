"""A run as facts: what ``coral show --json`` prints and ``coral.evolve`` returns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coral.ports import Survey, TaskSurvey
from coral.records import Cost, Event
from coral.reporting import adapter_card, as_json, export_state, finite
from coral.reporting.facts import audit_facts, makespan_facts
from tests.reporting.runs import (
    SIMULATED,
    SPEC,
    WARM,
    bred,
    confirmed,
    facts_of,
    finished,
    hopeless,
    outcome,
    rematched,
    state_of,
    unpromoted,
)

RUNS: dict[str, list[Event]] = {
    "confirmed": confirmed(),
    "confirmed without the default recipe": confirmed(reference=False),
    "confirmed with rematches": rematched(),
    "with inherited weights": bred(),
    "not yet confirmed": finished(),
    "all failed": hopeless(),
    "none promoted": unpromoted(),
    "under way": finished()[:4],
    "just begun": [],
}

SHAPE: dict[str, Any] = {
    "run": str,
    "mode": str,
    "status": str,
    "generation": int,
    "champion": {
        "digest": str,
        "genome": dict,
        "stage": str,
        "metrics": {"validation": dict, "test": dict},
        "trainable_parameters": int,
        "cumulative_steps": int,
        "path": str,
    },
    "baseline": {"genome": dict, "metrics": {"validation": dict, "test": dict}},
    "pareto": list,
    "trials": {"total": int, "completed": int, "pruned": int, "failed": int},
    "cost": {
        "optimizer_steps": int,
        "naive_optimizer_steps": int,
        "epochs_spent": float,
        "epochs_saved": float,
        "wall_seconds": float,
    },
    "makespan_seconds": {"1": float},
}
"""The keys that scripts rely on. More may come; none may go."""


def _lacking(shape: dict[str, Any], facts: Any, path: str = "") -> list[str]:
    found = []
    for key, kind in shape.items():
        name = f"{path}.{key}"
        if not isinstance(facts, dict) or key not in facts:
            found.append(name)
        elif isinstance(kind, dict):
            found += _lacking(kind, facts[key], name)
        elif not isinstance(facts[key], kind):
            found.append(f"{name} is {facts[key]!r}")
    return found


def _forbid(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_a_finished_run_has_the_keys_that_scripts_rely_on() -> None:
    facts = json.loads(as_json(facts_of(confirmed())))
    assert _lacking(SHAPE, facts) == []


@pytest.mark.parametrize("events", RUNS.values(), ids=RUNS.keys())
def test_every_run_has_the_outer_keys(events: list[Event]) -> None:
    assert set(SHAPE) <= set(facts_of(events))


@pytest.mark.parametrize("events", RUNS.values(), ids=RUNS.keys())
def test_json_has_no_nan_and_no_infinity(events: list[Event]) -> None:
    json.loads(as_json(facts_of(events)), parse_constant=_forbid)


def test_the_champion_is_shown_with_its_validation_and_test_scores() -> None:
    champion = facts_of(confirmed())["champion"]
    assert (champion["trial"], champion["stage"], champion["operator"]) == (1, "S1", "recipe")
    assert champion["metrics"]["validation"]["auroc"] == 0.9
    assert champion["metrics"]["test"]["auroc"] == 0.88
    assert champion["genome"]["adapter.target_modules"] == ["query", "value"]
    assert (champion["trainable_parameters"], champion["cumulative_steps"]) == (2000, 10)
    assert champion["path"] == "runs/tiny/champion"
    assert champion["intervals"]["auroc"]["estimate"] == 0.88


def test_the_baseline_is_the_default_recipe_at_the_full_budget() -> None:
    baseline = facts_of(confirmed())["baseline"]
    assert baseline["trial"] == 0
    assert baseline["metrics"] == {
        "validation": pytest.approx(
            {"auroc": 0.75, "accuracy": 0.65, "log_loss": math.nan, "trainable_parameters": 1000},
            nan_ok=True,
        ),
        "test": {"auroc": 0.72, "log_loss": math.inf},
    }


def test_the_comparison_is_champion_minus_baseline_on_test() -> None:
    assert facts_of(confirmed())["comparison"]["auroc"]["estimate"] == 0.16
    assert facts_of(confirmed(reference=False))["comparison"] is None
    assert facts_of(finished())["comparison"] is None


@pytest.mark.parametrize(
    ("make", "champion", "baseline", "front"),
    [
        (finished, True, True, 2),
        (hopeless, False, False, 0),
        (unpromoted, True, False, 2),
        (list, False, False, 0),
    ],
)
def test_what_a_run_lacks_is_null(
    make: Callable[[], list[Event]], champion: bool, baseline: bool, front: int
) -> None:
    facts = facts_of(make())
    assert (facts["champion"] is not None, facts["baseline"] is not None) == (champion, baseline)
    assert len(facts["pareto"]) == front


def test_a_champion_has_no_path_and_no_test_score_before_it_is_confirmed() -> None:
    champion = facts_of(finished())["champion"]
    assert champion["path"] is None
    assert champion["metrics"]["test"] is None
    assert champion["intervals"] is None


def test_trials_are_counted_by_their_verdict() -> None:
    trials = {"total": 4, "completed": 2, "pruned": 1, "failed": 1}
    assert facts_of(confirmed())["trials"] == trials


def test_costs_are_measured_against_training_every_genome_in_full() -> None:
    cost = facts_of(confirmed())["cost"]
    assert cost["optimizer_steps"] == 30  # six stages of five
    assert cost["naive_optimizer_steps"] == 40  # four genomes of ten
    assert cost["epochs_spent"] == 3.0  # 480 examples of 160
    assert cost["epochs_saved"] == 1.0
    assert cost["wall_seconds"] == 12.5


def test_the_champion_of_a_lineage_is_shown_with_the_scores_of_its_own_weights() -> None:
    facts = facts_of(rematched(winner=2), spec=WARM)
    assert facts["champion"]["trial"] == 7
    assert facts["champion"]["metrics"]["test"]["auroc"] == 0.94
    assert facts["baseline"]["metrics"]["test"]["auroc"] == 0.72
    assert facts["comparison"]["auroc"]["estimate"] == 0.22


def test_a_trial_tells_whose_weights_it_has() -> None:
    child, soup = (
        next(row for row in facts_of(bred(), spec=WARM)["pareto"] if row["trial"] == number)
        for number in (7, 4)
    )
    assert child["inherits"] == [{"trial": 1, "stage": "S1", "weight": 1.0}]
    assert (child["retained_energy"], child["derivation"]) == (1.0, None)
    assert [item["weight"] for item in soup["inherits"]] == [0.75, 0.25]
    assert soup["derivation"] == {"kind": "soup", "rank": 8, "energy": None}
    first = facts_of(bred(), spec=WARM)["baseline"]
    assert (first["inherits"], first["retained_energy"], first["derivation"]) == ([], None, None)


def test_a_confirmation_names_every_contestant_and_the_winner() -> None:
    confirmation = facts_of(rematched(winner=2), spec=WARM)["confirmation"]
    kinds = [contestant["kind"] for contestant in confirmation["contestants"]]
    assert kinds == ["lineage", "cold", "cold", "long default", "default"]
    assert confirmation["contestants"][2]["seed"] == 72
    assert confirmation["winner"] == 2
    assert confirmation["decided_on"] == "validation auroc"


def test_the_seeds_of_a_genome_are_told_by_mean_and_deviation() -> None:
    groups = facts_of(rematched(winner=2), spec=WARM)["confirmation"]["groups"]
    lineage, cold, *defaults = groups
    assert (lineage["seeds"], lineage["validation"]) == (1, {"mean": 0.95, "std": None})
    assert (cold["seeds"], cold["optimizer_steps"], cold["wins"]) == (2, 10, True)
    assert cold["validation"] == pytest.approx({"mean": 0.91, "std": 0.0141}, rel=1e-2)
    assert cold["test"] == pytest.approx({"mean": 0.9, "std": 0.0141}, rel=1e-2)
    assert [(group["kind"], group["wins"]) for group in defaults] == [
        ("long default", False),
        ("default", False),
    ]


def test_a_cost_has_no_test_score() -> None:
    spec = replace(WARM, objectives=WARM.objectives[::-1])
    groups = facts_of(rematched(), spec=spec)["confirmation"]["groups"]
    assert groups[0]["test"] == {"mean": None, "std": None}


def test_a_run_without_contestants_has_no_confirmation() -> None:
    assert facts_of(confirmed())["confirmation"] is None
    assert facts_of(bred(), spec=WARM)["confirmation"] is None


def test_stages_are_trusted_by_the_trials_that_ended_both() -> None:
    facts = facts_of(bred(), spec=WARM)
    (trust,) = facts["audit"]["stage_trust"]
    assert trust["trials"] == 4  # 0, 1, 9 and 10; the others came in at the last stage


def test_a_soup_is_no_measure_for_those_that_were_pruned() -> None:
    state = state_of(rematched(), WARM)
    condemned = replace(
        state.trials[10], candidate=replace(state.trials[10].candidate, generation=0)
    )
    better = replace(condemned, outcomes=(*condemned.outcomes[:1], outcome(10, 1, 0.905)))
    trials = (*state.trials[:10], better)
    (_, rule) = audit_facts(replace(state, trials=trials), WARM, {})["rules"]
    assert (rule["rule"], rule["false_kills"]) == ("exploited", 1)


def test_derived_trials_are_counted_apart() -> None:
    facts = facts_of(bred(), spec=WARM)
    assert facts["trials"] == {"total": 12, "completed": 9, "pruned": 2, "failed": 1}
    assert facts["derived"] == 3
    assert facts_of(confirmed())["derived"] == 0


def test_a_real_run_has_no_simulation() -> None:
    facts = facts_of(confirmed())
    assert (facts["mode"], facts["simulation"]) == ("real", None)


def test_a_simulated_run_says_what_it_believes() -> None:
    facts = json.loads(as_json(facts_of(confirmed(), spec=SIMULATED)))
    assert facts["mode"] == "simulate"
    assert facts["simulation"]["profile"] == "mine"
    assert facts["simulation"]["agreement"] == {"S0": -0.5}
    assert facts["simulation"]["faults"]["crash"] == 0.25
    assert facts["simulation"]["memory_bytes"] == 2e9


def test_a_makespan_is_told_for_powers_of_two_up_to_the_population_and_for_the_workers() -> None:
    # Jobs of two seconds: four in the first stage, and two in the last, which waits for them.
    facts = facts_of(confirmed())
    assert facts["workers"] == 3
    assert facts["makespan_seconds"] == {"1": 12.0, "2": 6.0, "3": 6.0, "4": 4.0}


def test_generations_wait_for_each_other() -> None:
    state = state_of(confirmed())
    late = [
        replace(trial, candidate=replace(trial.candidate, generation=1)) for trial in state.trials
    ]
    both = replace(state, trials=(*state.trials, *late))
    assert makespan_facts(both, 4, None) == {"1": 24.0, "2": 12.0, "4": 8.0}


def test_scoring_belongs_to_the_makespan() -> None:
    state = state_of(confirmed())
    trial = state.trials[1]
    slow = replace(trial.outcomes[0], cost=Cost(train_seconds=1.0, evaluation_seconds=4.0))
    alone = replace(state, trials=(replace(trial, outcomes=(slow,)),))
    assert makespan_facts(alone, 2, None) == {"1": 5.0, "2": 5.0}


def test_a_run_that_has_just_begun_took_no_time() -> None:
    assert facts_of([])["makespan_seconds"] == {"1": 0, "2": 0, "3": 0, "4": 0}


def test_a_failure_is_shown_with_its_stage_kind_and_traceback() -> None:
    (failure,) = facts_of(finished())["failures"]
    assert (failure["trial"], failure["stage"], failure["kind"]) == (3, "S0", "oom")
    assert failure["traceback"] == "Traceback: [bold]line 1"


def test_equal_runs_export_equal_bytes_whatever_the_clock_says() -> None:
    text = export_state(state_of(confirmed()))
    assert text == export_state(state_of(confirmed()))
    assert "seconds" not in text
    assert "memory_bytes" not in text
    assert len(json.loads(text, parse_constant=_forbid)) == 4


def test_finite_replaces_only_what_json_lacks() -> None:
    value = {"a": [1.5, math.nan, (math.inf, "x")], "b": None, "c": True}
    assert finite(value) == {"a": [1.5, None, [None, "x"]], "b": None, "c": True}


@pytest.fixture
def survey() -> Survey:
    """What the model and the data of a tiny run turn out to be."""
    task = TaskSurvey(
        name="origin",
        metrics={"auroc": "max"},
        primary_metric="auroc",
        label_names=("numpy", "scipy"),
        train_examples=160,
        validation_examples=10,
        test_examples=10,
    )
    return Survey(
        model_digest="m",
        data_digest="d",
        depth=1,
        linear_modules=(),
        tasks=(task,),
        device="cpu",
        mean_tokens=8.0,
        versions={"torch": "2"},
    )


def test_the_card_beside_an_adapter_says_where_it_came_from(survey: Survey) -> None:
    state = state_of(confirmed())
    card = adapter_card(state.trials[1], state, SPEC, survey, "0.1.0")
    json.loads(as_json(card), parse_constant=_forbid)
    assert card["format"] == 1
    assert card["base_model"] == "org/encoder"
    assert card["plan"]["schedule"]["learning_rate"] == 1e-3
    assert card["tasks"] == {
        "origin": {
            "labels": ["numpy", "scipy"],
            "primary_metric": "auroc",
            "problem": "single_label",
            "center": [],
            "spread": [],
            "texts": 1,
        }
    }
    assert card["metrics"]["test"]["auroc"] == 0.88
    assert card["versions"] == {"coral": "0.1.0", "torch": "2"}


def test_the_card_of_a_winner_tells_of_the_weights_that_it_stands_beside(survey: Survey) -> None:
    state = state_of(rematched(winner=2), WARM)
    assert state.confirmation is not None
    winner = state.confirmation.contestants[2]
    card = adapter_card(state.trials[7], state, WARM, survey, "0.1.0", winner)
    assert card["weights"] == {"kind": "cold", "seed": 72}
    assert card["metrics"]["validation"] == {"auroc": 0.92}
    assert card["metrics"]["test"]["auroc"] == 0.91
    assert card["cumulative_steps"] == 10


def test_the_card_of_a_child_tells_its_inheritance(survey: Survey) -> None:
    state = state_of(rematched(), WARM)
    lineage = adapter_card(state.trials[4], state, WARM, survey, "0.1.0")["lineage"]
    assert [item["trial"] for item in lineage["inherits"]] == [1, 0]
    assert lineage["retained_energy"] == 0.99
    assert lineage["derivation"]["kind"] == "soup"


def test_the_card_of_a_rematch_tells_of_its_weights_though_the_trial_of_the_search_failed(
    survey: Survey,
) -> None:
    state = state_of(rematched(), WARM)
    assert state.confirmation is not None
    winner = next(c for c in state.confirmation.contestants if c.kind == "long default")
    winner = replace(winner, metrics={**winner.metrics, "trainable_parameters": 96.0})
    confirmation = replace(
        state.confirmation, contestants=(winner,), scores=state.confirmation.scores[:1]
    )
    failed = replace(state.trials[winner.trial], outcomes=())
    card = adapter_card(
        failed, replace(state, confirmation=confirmation), WARM, survey, "0.1.0", winner
    )
    assert card["stage"] == WARM.training_stages[-1].name
    assert card["trainable_parameters"] == 96
    assert card["metrics"]["validation"] == winner.metrics
