"""Which tokens of a conversation are trained, under the templates that models really have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from coral.errors import ModelError, TaskError
from coral.ports import CausalSettings, Examples
from coral.training.conversations import PLAIN, Renderer
from coral.training.texts import tokenize_answers
from tests.training.language import CHATML, build_tokenizer, conversation

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' </s>' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Thoughts stay in the last answer alone, which gets empty ones if it has none.
QWEN_3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' %}"
    "{% set said = c.split('</think>')[-1].lstrip('\n') %}"
    "{% set before = c.split('</think>')[0] if '</think>' in c else '' %}"
    "{% set thought = before.split('<think>')[-1].strip('\n') %}"
    "{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said }}"
    "{% else %}{{ c }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TALK = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
]


def chat(*talks: Sequence[dict[str, str]]) -> Examples:
    return Examples(
        texts=tuple(str(talk) for talk in talks),
        labels=np.zeros(len(talks), dtype=np.int64),
        inputs={"messages": talks},
    )


def pairs(*examples: tuple[str, str]) -> Examples:
    prompts, answers = zip(*examples, strict=True)
    return Examples(
        texts=tuple(p + a for p, a in examples),
        labels=np.zeros(len(examples), dtype=np.int64),
        inputs={"prompt": prompts, "answer": answers},
    )


def trained_text(template: str, talk: Sequence[dict[str, str]], **settings: Any) -> list[str]:
    """What is trained of a conversation, span by span."""
    tokenizer = build_tokenizer(template)
    [example] = Renderer("t", tokenizer, CausalSettings(**settings)).render(chat(talk))
    return [example.text[start:end] for start, end in example.trained]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["Hello!<|im_end|>", "4<|im_end|>"]),
        (LLAMA_3, ["Hello!<|eot_id|>", "4<|eot_id|>"]),
        (LLAMA_2, ["Hello! </s>", "4 </s>"]),
        (GEMMA, ["Hello!<end_of_turn>", "4<end_of_turn>"]),
        (QWEN_3, ["Hello!<|im_end|>", "<think>\n\n</think>\n\n4<|im_end|>"]),
    ],
    ids=["chatml", "llama-3", "llama-2", "gemma", "qwen-3"],
)
def test_every_answer_is_trained_with_the_end_of_its_turn(
    template: str, expected: list[str]
) -> None:
    assert trained_text(template, TALK) == expected


def test_thoughts_are_trained_where_the_template_keeps_them() -> None:
    talk = [*TALK[:3], {"role": "assistant", "content": "<think>\nsum\n</think>\n\n4"}]
    told = trained_text(QWEN_3, talk)
    assert told == ["Hello!<|im_end|>", "<think>\nsum\n</think>\n\n4<|im_end|>"]


def test_an_answer_that_stands_in_the_question_too_is_trained_once() -> None:
    talk = conversation("Say yes. assistant\nyes", "yes")
    assert trained_text(CHATML, talk) == ["yes<|im_end|>"]


def test_inputs_are_trained_if_asked_for() -> None:
    [whole] = trained_text(CHATML, TALK, train_on_inputs=True)
    assert whole.startswith("<|im_start|>user") and whole.endswith("<|im_end|>\n")


def test_the_plain_template_is_readable_and_ends_answers() -> None:
    told = trained_text(CHATML, TALK, chat_template=PLAIN)
    assert told == [" Hello!<|im_end|>", " 4<|im_end|>"]


def test_tokens_are_those_of_the_tokenizer_and_trained_ones_read_as_the_answers() -> None:
    tokenizer = build_tokenizer()
    rendered = Renderer("t", tokenizer, CausalSettings()).render(chat(TALK, TALK[:2]))
    texts = tokenize_answers(tokenizer, rendered, 256)
    expected = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)
    assert texts.ids[: texts.starts[1]].tolist() == expected
    assert texts.trained is not None
    own = slice(0, texts.starts[1])
    assert tokenizer.decode(texts.ids[own][texts.trained[own]]) == "Hello!<|im_end|>4<|im_end|>"


def test_an_answer_behind_a_blank_is_trained_from_its_first_token() -> None:
    tokenizer = build_tokenizer(LLAMA_2)
    texts = tokenize_answers(
        tokenizer, Renderer("t", tokenizer, CausalSettings()).render(chat(TALK[:2])), 256
    )
    assert texts.trained is not None
    assert tokenizer.decode(texts.ids[texts.trained]).strip() == "Hello! </s>"


def test_cutting_keeps_the_beginning() -> None:
    tokenizer = build_tokenizer()
    rendered = Renderer("t", tokenizer, CausalSettings()).render(chat(TALK))
    whole, cut = (tokenize_answers(tokenizer, rendered, length) for length in (256, 5))
    assert cut.ids.tolist() == whole.ids[:5].tolist()
    assert cut.trained is not None
    assert not cut.trained.any()


def test_prompts_and_answers_end_with_the_end_of_text() -> None:
    tokenizer: PreTrainedTokenizerFast = build_tokenizer(None)
    [example] = Renderer("t", tokenizer, CausalSettings()).render(pairs(("Say: ", "yes")))
    assert (example.text, example.prompt, example.answer) == ("Say: yes<|im_end|>", "Say: ", "yes")
    texts = tokenize_answers(tokenizer, [example], 64)
    assert texts.trained is not None
    assert tokenizer.decode(texts.ids[texts.trained]) == "yes<|im_end|>"


def test_a_tokenizer_without_template_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"no(ne)?\.\n.*chat_template: plain"):
        Renderer("t", build_tokenizer(None), CausalSettings()).render(chat(TALK))


def test_a_conversation_that_the_template_refuses_is_named() -> None:
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    renderer = Renderer("t", build_tokenizer(LLAMA_2), CausalSettings())
    with pytest.raises(TaskError, match=r"Only user and assistant.*\n.*system: 'Be brief\.'"):
        renderer.render(chat(talk))


def test_a_tokenizer_without_end_of_text_is_refused() -> None:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-text"):
        Renderer("t", tokenizer, CausalSettings())
