"""Generated answers, and how they are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coral.plan import InferencePlan
from coral.ports import CausalSettings
from coral.training.base import load_base
from coral.training.conversations import Renderer, turn_ends
from coral.training.generation import exact_match, generate, rouge_l
from tests.training.language import build_tokenizer, save_language_model
from tests.training.test_conversations import GEMMA, TALK, chat, pairs


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The cat sat.", "the CAT, sat", 1.0),
        ("the cat sat on the mat", "the mat", 0.5),
        ("a b c d", "d c b a", 0.25),
        ("Привет, мир", "привет мир", 1.0),
        ("yes", "no", 0.0),
        ("", "", 1.0),
        ("yes", "", 0.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(
    expected: str, answer: str, score: float
) -> None:
    assert rouge_l(expected, answer) == pytest.approx(score)


def test_an_exact_match_forgives_blanks_around_and_nothing_else() -> None:
    assert exact_match("Lima.", " Lima.\n") == 1
    assert exact_match("Lima.", "lima.") == 0


def test_each_prompt_is_continued_as_if_it_were_alone(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path, "qwen3")
    base = load_base(str(folder), device="cpu", trust_remote_code=False, causal=True)
    assert base.language is not None
    prompts = ["capital of Peru?", "Hi", "What is the capital of Norway, and who lives there?"]
    together = generate(base.language, base.tokenizer, prompts, InferencePlan(), max_new_tokens=6)
    for prompt, answer in zip(prompts, together, strict=True):
        ids = base.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        before = ids.shape[1]
        with torch.no_grad():
            for _ in range(6):
                following = base.language.model(input_ids=ids).logits[:, -1:].argmax(dim=-1)
                ids = torch.cat([ids, following], dim=1)
                if int(following) == base.tokenizer.eos_token_id:
                    break
        assert answer == base.tokenizer.decode(ids[0, before:], skip_special_tokens=True)


def test_answers_end_where_trained_turns_end() -> None:
    tokenizer = build_tokenizer(GEMMA)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    rendered = Renderer("t", tokenizer, CausalSettings()).render(chat(TALK))
    assert turn_ends(tokenizer, rendered) == {tokenizer.convert_tokens_to_ids("<end_of_turn>")}
    plain = Renderer("t", tokenizer, CausalSettings()).render(pairs(("Say: ", "yes")))
    assert turn_ends(tokenizer, plain) == {tokenizer.eos_token_id}
