"""A trial's lineage as facts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from coral.errors import RunError
from coral.evolution import EvolutionState
from coral.reporting import as_json, find_trial, lineage_facts
from tests.reporting.runs import WARM, bred, finished, hopeless, state_of

STATE = state_of(bred(), WARM)


def _facts(number: int, state: EvolutionState = STATE) -> dict[str, Any]:
    return lineage_facts(state.trials[number], state, WARM)


def _nodes(number: int) -> dict[tuple[int, str], dict[str, Any]]:
    return {(node["trial"], node["stage"]): node for node in _facts(number)["nodes"]}


def test_everything_whose_weights_went_in_is_a_node_once_for_each_stage() -> None:
    assert list(_nodes(8)) == [(8, "S1"), (4, "S1"), (1, "S1"), (0, "S1"), (0, "S0")]


def test_a_node_names_the_weights_that_it_is_made_of() -> None:
    assert _nodes(8)[8, "S1"]["inherits"] == [
        {"trial": 4, "stage": "S1", "weight": 1.0},
        {"trial": 0, "stage": "S0", "weight": 1.0},
    ]
    soup = _nodes(8)[4, "S1"]
    assert [item["weight"] for item in soup["inherits"]] == [0.75, 0.25]
    assert soup["derivation"] == {"kind": "soup", "rank": 8, "energy": None}
    assert soup["retained_energy"] == 0.99
    assert _nodes(8)[1, "S1"]["inherits"] == []
    assert _nodes(8)[1, "S1"]["retained_energy"] is None


def test_a_node_tells_what_the_trial_was_worth_when_its_weights_were_taken() -> None:
    early, late = _nodes(8)[0, "S0"], _nodes(8)[0, "S1"]
    assert (early["value"], late["value"]) == (0.7, 0.75)
    assert (early["optimizer_steps"], late["optimizer_steps"]) == (5, 10)
    assert (early["cumulative_steps"], late["cumulative_steps"]) == (5, 10)


def test_steps_of_its_own_are_told_from_those_inherited() -> None:
    child, soup = _nodes(8)[8, "S1"], _nodes(8)[4, "S1"]
    assert (child["optimizer_steps"], child["cumulative_steps"]) == (5, 15)
    assert (soup["optimizer_steps"], soup["cumulative_steps"]) == (0, 10)


def test_genes_are_compared_with_the_one_whose_weights_it_has() -> None:
    node = _nodes(8)[8, "S1"]  # its first parent by genes is trial 0
    assert node["changed_from"] == 4
    assert node["changed"] == [{"gene": "schedule.learning_rate", "from": 0.001, "to": 0.003}]


def test_a_cold_child_is_compared_with_the_parent_of_its_genes() -> None:
    node = _nodes(9)[9, "S1"]
    assert (node["inherits"], node["changed_from"]) == ([], 1)
    assert node["changed"] == [{"gene": "schedule.learning_rate", "from": 0.001, "to": 0.004}]


def test_a_gene_that_changes_from_one_list_to_another_is_plain() -> None:
    genome = {**STATE.trials[7].candidate.genome, "adapter.target_modules": "all-linear"}
    trials = list(STATE.trials)
    trials[7] = replace(trials[7], candidate=replace(trials[7].candidate, genome=genome))
    (node, _) = _facts(7, replace(STATE, trials=tuple(trials)))["nodes"]
    assert {"gene": "adapter.target_modules", "from": ["query", "value"], "to": "all-linear"} in (
        node["changed"]
    )


def test_the_schedule_follows_the_better_parents_from_the_oldest_on() -> None:
    segments = _facts(8)["schedule"]
    assert [(s["trial"], s["stages"], s["from_step"], s["to_step"]) for s in segments] == [
        (1, ["S0", "S1"], 0, 10),
        (4, [], 10, 10),
        (8, ["S1"], 10, 15),
    ]
    assert [segment["rank"] for segment in segments] == [16, 8, 16]
    assert [segment["batch_size"] for segment in segments] == [16, None, 16]


def test_a_segment_peaks_where_its_own_steps_lie_on_the_schedule() -> None:
    first, second = _facts(7)["schedule"]
    assert first["peak_learning_rate"] == pytest.approx(1e-3)
    # Step 5 of 10, one of them the warm-up: cosine, with the optimizer's moments inherited. Heirs
    # get half.
    assert second["peak_learning_rate"] == pytest.approx(2e-3 * 0.5868 / 2, rel=1e-3)


def test_a_segment_whose_moments_were_lost_warms_up_again() -> None:
    last = _facts(11)["schedule"][-1]
    # The first of its steps gets half of the schedule; the second, 6 of 10, is the peak.
    assert last["peak_learning_rate"] == pytest.approx(7e-3 * 0.4132 / 2, rel=1e-3)


def test_the_total_counts_every_trial_once() -> None:
    facts = _facts(8)
    assert (facts["trials"], facts["optimizer_steps"]) == (4, 25)


def test_the_facts_are_json() -> None:
    for trial in STATE.trials:
        if trial.best_stage >= 0:
            json.loads(as_json(_facts(trial.number)))


def test_a_trial_is_found_by_number_by_digest_or_as_the_champion() -> None:
    assert find_trial(STATE).number == STATE.champion == 7
    assert find_trial(STATE, "11").number == 11
    assert find_trial(STATE, "soup").number == 4
    assert find_trial(STATE, STATE.trials[2].candidate.digest[:6]).number == 2


def test_a_digest_of_figures_alone_is_no_number_that_the_run_lacks() -> None:
    trials = list(STATE.trials)
    candidate = replace(trials[1].candidate, digest="0815" + trials[1].candidate.digest)
    trials[1] = replace(trials[1], candidate=candidate)
    state = replace(STATE, trials=tuple(trials))
    assert find_trial(state, "0815").number == 1
    assert find_trial(state, "08").number == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("12", r"no trial has the number '12' or a digest .*\n  Name one from 0 to 11"),
        ("xyz", r"no trial has the number 'xyz'"),
        ("", r"no trial has the number ''"),
        ("squeeze", r"'squeeze' begins those of trials 5 \(squeeze-\), 6 \(squeeze-\)\.\n  Give"),
        ("3", r"trial 3 has no weights, .*: CUDA out of \[memory\]\n  Name another"),
    ],
)
def test_a_trial_that_cannot_be_told_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        find_trial(STATE, wanted)


def test_a_run_without_trials_or_champion_is_refused() -> None:
    with pytest.raises(RunError, match="no finished trial yet"):
        find_trial(state_of(finished()[:3]))
    with pytest.raises(RunError, match="no champion"):
        find_trial(state_of(hopeless()))
