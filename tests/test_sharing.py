from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.plan import TrainingPlan, with_values
from coral.ports import LinearModule, Survey, TaskSurvey
from coral.sharing import entrances, most_useful

DEPTH = 6
TASK = TaskSurvey(
    name="task",
    metrics={"auroc": "max"},
    primary_metric="auroc",
    label_names=("a", "b"),
    train_examples=80,
    validation_examples=10,
    test_examples=10,
)
SURVEY = Survey(
    model_digest="model",
    data_digest="data",
    depth=DEPTH,
    linear_modules=tuple(
        LinearModule(name=f"layer.{i}.query", layer=i, in_features=8, out_features=8)
        for i in range(DEPTH)
    ),
    tasks=(TASK,),
    device="cpu",
    mean_tokens=20.0,
    shares_prefixes=True,
    hidden_size=8,
)
EACH = 100 * 20 * 8 * 4
"""Bytes of all examples' activations before one layer."""


def plans(*layers: str) -> list[TrainingPlan]:
    return [with_values(TrainingPlan(), {"adapter.layers": each}) for each in layers]


POPULATION = plans("all", "top-1", "top-1", "top-2", "top-4")


@pytest.mark.parametrize(
    ("room", "expected"), [(0, ()), (1, (4,)), (2, (2, 4)), (3, (2, 4, 5)), (4, (2, 4, 5))]
)
def test_what_fits_is_what_saves_most(room: int, expected: tuple[int, ...]) -> None:
    assert entrances(POPULATION, SURVEY, room * EACH + 1) == expected


def test_half_precision_makes_room_for_twice_as_many() -> None:
    half = replace(SURVEY, prefix_feature_bytes=2)
    assert entrances(POPULATION, half, EACH + 1) == entrances(POPULATION, SURVEY, 2 * EACH + 1)


def test_with_room_for_all_any_layer_will_do() -> None:
    assert entrances(POPULATION, SURVEY, (DEPTH - 1) * EACH) is None
    assert entrances(POPULATION, SURVEY, None) is None


def test_where_nothing_is_shared_nothing_is_chosen() -> None:
    assert entrances(POPULATION, replace(SURVEY, shares_prefixes=False), 1) is None


@given(
    lowest=st.dictionaries(st.integers(1, 9), st.integers(1, 20), max_size=6),
    room=st.integers(0, 7),
)
def test_no_other_choice_skips_more(lowest: dict[int, int], room: int) -> None:
    def skipped(chosen: tuple[int, ...]) -> int:
        return sum(
            count * max((entry for entry in chosen if entry <= layer), default=0)
            for layer, count in lowest.items()
        )

    found = most_useful(lowest, room)
    choices = [c for size in range(room + 1) for c in combinations(sorted(lowest), size)]
    assert len(found) <= room
    assert skipped(found) == max(map(skipped, choices))
