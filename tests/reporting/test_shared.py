from __future__ import annotations

from dataclasses import replace

import pytest

from coral.evolution import EvolutionState
from coral.flops import BEGINNING, evaluation_cost, step_cost
from coral.genome import ChoiceGene
from coral.ports import LinearModule, Survey
from coral.records import Candidate, Cost, Lineage, Outcome, Trial, Verdict
from coral.reporting.shared import shares_computed
from coral.sharing import start_of
from tests.reporting.runs import SPEC
from tests.test_sharing import TASK

LAYERS = ("all", "top-1")
RUN = replace(
    SPEC, space=replace(SPEC.space, genes=(ChoiceGene(path="adapter.layers", options=LAYERS),))
)
SURVEY = Survey(
    model_digest="m",
    data_digest="d",
    depth=4,
    linear_modules=tuple(
        LinearModule(name=f"layer.{i}.query", layer=i, in_features=8, out_features=8)
        for i in range(4)
    ),
    tasks=(),
    device="cpu",
    mean_tokens=8.0,
    shares_prefixes=True,
    hidden_size=8,
)


def trial(number: int, generation: int, layers: str) -> Trial:
    """Return a trial that cost what eight tokens of its plan do."""
    candidate = Candidate(
        number=number,
        generation=generation,
        genome={"adapter.layers": layers},
        digest=str(number),
        lineage=Lineage(operator="sobol"),
    )
    plan = RUN.plan_of(candidate)
    shape = (SURVEY.linear_modules, SURVEY.depth, SURVEY.hidden_size)
    spent = step_cost(plan.adapter, *shape, start_of(plan, SURVEY)).teraflops(1, 8)
    outcome = Outcome(key=str(number), stage=0, cost=Cost(teraflops=spent))
    return Trial(
        candidate=candidate, outcomes=(outcome,), verdict=Verdict(status="completed", stage=0)
    )


STATE = EvolutionState(
    train_examples=160, trials=(trial(0, 0, "all"), trial(1, 0, "top-1"), trial(2, 1, "top-1"))
)


def test_what_deep_adapters_share_little_of_counts_by_what_it_takes() -> None:
    def operations(layers: str) -> float:
        plan = RUN.plan_of(trial(0, 0, layers).candidate)
        return step_cost(plan.adapter, SURVEY.linear_modules, 4, 8).teraflops(1, 8)

    spent = [each.outcomes[0].cost.teraflops for each in STATE.trials]
    deep, top = operations("all"), operations("top-1")
    expected = [(spent[0] + spent[1]) / (deep + top), spent[2] / top]
    assert shares_computed(STATE, RUN, SURVEY) == pytest.approx(expected)
    assert expected[1] < expected[0] < 1


def test_scoring_counts_where_a_head_answers() -> None:
    state = replace(STATE, trials=STATE.trials[2:])
    written = replace(TASK, name="written", problem="causal_lm", validation_examples=1000)
    shape = (SURVEY.linear_modules, SURVEY.depth, SURVEY.hidden_size)
    plan = RUN.plan_of(state.trials[0].candidate)
    start = start_of(plan, SURVEY)
    scored = TASK.validation_examples * RUN.training_stages[0].evaluation_percentage / 100
    computed, whole = (
        step_cost(plan.adapter, *shape, begin).teraflops(1, 8)
        + scored * evaluation_cost(*shape, begin).teraflops(1, 8)
        for begin in (start, BEGINNING)
    )
    shared = replace(TASK, name="shared", validation_examples=TASK.validation_examples // 2)
    survey = replace(SURVEY, tasks=(TASK, shared, written))
    assert shares_computed(state, RUN, survey) == pytest.approx([computed / whole])
    assert computed / whole < shares_computed(state, RUN, SURVEY)[0]


def test_a_run_that_shares_nothing_tells_nothing() -> None:
    assert shares_computed(STATE, RUN, replace(SURVEY, shares_prefixes=False)) == []


def test_trials_that_computed_nothing_don_t_count() -> None:
    idle = trial(1, 0, "top-1")
    nothing = replace(idle, outcomes=(replace(idle.outcomes[0], cost=Cost()),))
    assert shares_computed(replace(STATE, trials=(nothing,)), RUN, SURVEY) == []
