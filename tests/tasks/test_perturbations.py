from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.ports import Examples
from coral.tasks import perturb, perturbed

TEXT = "Officials confirmed on Tuesday that 37 bridges were closed, e.g. near A-7."


def test_the_same_text_has_the_same_slips_and_another_seed_has_others() -> None:
    assert perturb(TEXT) == perturb(TEXT) != TEXT
    assert perturb(TEXT, seed=1) != perturb(TEXT)


def test_a_text_reads_like_itself_with_some_slips() -> None:
    assert perturb(TEXT, share=0.2) == (
        "Offiials confiRed on Teusday thaT 37 bridgse weer ClOsed, e.g. near A-7."
    )


@given(st.text(max_size=80), st.floats(0, 1))
def test_no_word_disappears_and_what_is_no_letter_stays(text: str, share: float) -> None:
    slipped = perturb(text, share)
    assert len(slipped.split()) == len(text.split())
    rest = [c for c in text if not c.isalpha()]
    assert [c for c in slipped if c in rest and not c.isalpha()] == rest


def test_a_share_of_nothing_changes_nothing() -> None:
    assert perturb(TEXT, share=0) == TEXT


def test_about_the_share_of_the_letters_is_touched() -> None:
    turned = perturb("ж" * 4000, 0.1).count("Ж")  # two of four slips: no key has it
    assert turned / 4000 == pytest.approx(0.05, abs=0.01)


def test_examples_keep_their_order_and_labels() -> None:
    examples = Examples(texts=("one text", "another text"), labels=np.array([1, 0]))
    changed = perturbed(examples)
    assert changed.texts == (perturb("one text"), perturb("another text"))
    assert changed.labels.tolist() == [1, 0]
