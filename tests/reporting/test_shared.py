from __future__ import annotations

from dataclasses import replace

import pytest

from coral.evolution import EvolutionState
from coral.flops import step_cost
from coral.genome import ChoiceGene
from coral.ports import LinearModule, Survey
from coral.records import Candidate, Cost, Lineage, Outcome, Trial, Verdict
from coral.reporting.shared import shares_computed
from coral.sharing import start_of
from tests.reporting.runs import SPEC

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


def test_a_run_that_shares_nothing_tells_nothing() -> None:
    assert shares_computed(STATE, RUN, replace(SURVEY, shares_prefixes=False)) == []


def test_trials_without_training_don_t_count() -> None:
    idle = trial(1, 0, "top-1")
    nothing = replace(idle, outcomes=(replace(idle.outcomes[0], cost=Cost()),))
    assert shares_computed(replace(STATE, trials=(nothing,)), RUN, SURVEY) == []
