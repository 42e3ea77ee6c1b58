from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import TaskError
from coral.ports import TaskData
from coral.tasks import classification_data

TEXTS = [f"text {i}" for i in range(100)]
LABELS = [("good", "bad", "ugly", "good")[i % 4] for i in range(100)]


def pairs(data: TaskData, split: str) -> set[tuple[str, str]]:
    part = getattr(data, split)
    return {(text, data.label_names[i]) for text, i in zip(part.texts, part.labels, strict=True)}


def test_each_class_gives_its_share_to_each_split() -> None:
    data = classification_data(TEXTS, LABELS, validation_share=0.2, test_share=0.2)
    assert data.label_names == ("bad", "good", "ugly")
    for split, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        counts = [sum(1 for _, label in pairs(data, split) if label == c) for c in set(LABELS)]
        assert sorted(counts) == [25 * share, 25 * share, 50 * share]


def test_nothing_is_lost_and_every_text_keeps_its_label() -> None:
    data = classification_data(TEXTS, LABELS)
    found = pairs(data, "train") | pairs(data, "validation") | pairs(data, "test")
    assert found == set(zip(TEXTS, LABELS, strict=True))


@given(st.permutations(list(range(100))))
def test_the_splits_do_not_depend_on_the_order_of_the_rows(order: list[int]) -> None:
    turned = classification_data([TEXTS[i] for i in order], [LABELS[i] for i in order])
    data = classification_data(TEXTS, LABELS)
    for split in ("train", "validation", "test"):
        assert pairs(turned, split) == pairs(data, split)


def test_equal_texts_stay_together_also_with_different_labels() -> None:
    texts = [*TEXTS, *(text.upper() for text in TEXTS), *(f"  {text} " for text in TEXTS)]
    data = classification_data(texts, [*LABELS, *LABELS, *reversed(LABELS)])
    plain = [
        {" ".join(text.split()).casefold() for text in getattr(data, split).texts}
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, plain)) == len(set.union(*plain)) == 100


@pytest.mark.parametrize(
    ("texts", "labels", "shares", "told"),
    [
        (["a"], [], {}, "one label a text, got 1 texts and 0 labels"),
        ([], [], {}, "too few to make a test split"),
        (["a", "b"], ["x", "y"], {}, "too few to make a validation split"),
        (TEXTS, LABELS, {"test_share": 0.0}, "got 0.1 to validate and 0.0 to test"),
        (TEXTS, LABELS, {"test_share": 0.9}, "leave something to train on"),
    ],
)
def test_what_can_not_be_split_is_refused(
    texts: list[str], labels: list[str], shares: dict[str, float], told: str
) -> None:
    with pytest.raises(TaskError, match=told):
        classification_data(texts, labels, **shares)
