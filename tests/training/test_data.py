from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.ports import Examples
from coral.training.base import BaseModel
from coral.training.data import build_train_set, data_digest
from coral.training.evaluation_sets import build_evaluation_set, evaluation_part
from coral.training.texts import tokenize
from tests.training.models import VOCABULARY, animals, colours, load

WORD = {word: number for number, word in enumerate(VOCABULARY)}
CLS, SEP = WORD["[CLS]"], WORD["[SEP]"]


def examples(texts: list[str]) -> Examples:
    return Examples(texts=tuple(texts), labels=np.arange(len(texts)) % 2)


def test_texts_are_padded_on_the_right_and_the_mask_marks_what_is_real(base: BaseModel) -> None:
    ids, mask, _ = tokenize(base.tokenizer, ("red w1", "blue"), 8).pad(np.array([1, 0]))
    assert ids.tolist() == [[CLS, WORD["blue"], SEP, 0], [CLS, WORD["red"], WORD["w1"], SEP]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_long_texts_are_cut_and_keep_their_special_tokens(base: BaseModel) -> None:
    ids, _, _ = tokenize(base.tokenizer, ("red " + "w1 " * 30,), 5).pad(np.array([0]))
    assert ids.tolist() == [[CLS, WORD["red"], WORD["w1"], WORD["w1"], SEP]]


def test_the_train_set_holds_all_tasks_one_after_another(base: BaseModel) -> None:
    tasks = load(colours(5), animals(4))
    train_set = build_train_set(tasks, base.tokenizer, 16, seed=0)
    assert len(train_set.index) == 9
    assert train_set.index.task.tolist() == [0] * 5 + [1] * 4
    for row, text in enumerate(tasks["colour"].data.train.texts + tasks["animal"].data.train.texts):
        ids, mask, _ = train_set.texts.pad(np.array([row]))
        assert ids[0].tolist() == [CLS, *(WORD[word] for word in text.split()), SEP]
        assert train_set.index.length[row] == mask.sum()
    for number, name in enumerate(("colour", "animal")):
        assert train_set.labels[number].tolist() == tasks[name].data.train.labels.tolist()


def test_a_text_that_tasks_share_is_held_once(base: BaseModel) -> None:
    splits = {"one": examples(["red", "blue", "red"]), "two": examples(["blue", "green"])}
    held = build_evaluation_set(splits, base.tokenizer, 8)
    assert len(held.texts.lengths) == 3
    assert held.rows["one"].tolist() == [0, 1, 0]
    assert held.rows["two"].tolist() == [1, 2]


@given(size=st.integers(1, 60), smaller=st.floats(0.5, 100), larger=st.floats(0.5, 100))
@settings(max_examples=50, deadline=None)
def test_a_smaller_part_of_the_evaluation_lies_within_a_larger_one(
    size: int, smaller: float, larger: float
) -> None:
    smaller, larger = sorted((smaller, larger))
    split = examples([f"text {number}" for number in range(size)])
    few, many = (evaluation_part(split, percentage) for percentage in (smaller, larger))
    assert set(few.texts) <= set(many.texts)
    assert len(few) == max(1, int(np.ceil(size * smaller / 100 - 1e-9)))
    for part in (few, many):
        positions = [int(text.split()[1]) for text in part.texts]
        assert positions == sorted(positions)
        assert part.labels.tolist() == [position % 2 for position in positions]


def test_the_whole_evaluation_is_the_split() -> None:
    split = examples([f"text {number}" for number in range(10)])
    whole = evaluation_part(split, 100)
    assert whole.texts == split.texts
    assert whole.labels.tolist() == split.labels.tolist()


def test_the_data_digest_tells_a_changed_text_label_and_name() -> None:
    digests = {data_digest(load(colours(5))), data_digest(load(colours(6)))}
    tasks = load(colours(5))
    tasks["colour"].data.validation.labels[0] += 1
    digests.add(data_digest(tasks))
    digests.add(data_digest({"hue": load(colours(5))["colour"]}))
    assert len(digests) == 4
    assert data_digest(load(colours(5))) == data_digest(load(colours(5)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_moving_a_text_from_one_split_to_another_changes_the_data_digest(split: str) -> None:
    before = load(colours(6))
    digest = data_digest(before)
    data = before["colour"].data
    moved = Examples(texts=data.validation.texts[1:], labels=data.validation.labels[1:])
    other = getattr(data, split)
    grown = Examples(
        texts=(*other.texts, data.validation.texts[0]),
        labels=np.append(other.labels, data.validation.labels[0]),
    )
    object.__setattr__(data, "validation", moved)
    object.__setattr__(data, split, grown)
    assert data_digest(before) != digest
