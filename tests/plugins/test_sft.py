"""Conversations, instructions and texts from files, described in the config alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coral.errors import TaskError
from coral.ports import DataContext, Task, TaskData
from coral.tasks import discover
from coral.testing import TaskConformance

Load = Callable[..., TaskData]


def talk(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"What is {number} + 1?"},
        {"role": "assistant", "content": str(number + 1)},
    ]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(rows: list[Any], **options: Any) -> TaskData:
        path = write_lines(tmp_path / "data.jsonl", rows)
        task = discover().build("sft", {"path": str(path), "name": "assist", **options})
        return task.load(DataContext(cache_dir=tmp_path / "cache"))

    return load


def test_conversations_are_split_and_none_is_lost(load: Load) -> None:
    data = load([{"messages": talk(i)} for i in range(40)])
    splits = [data.train, data.validation, data.test]
    assert [len(split) for split in splits] == [32, 4, 4]
    found = [messages for split in splits for messages in split.inputs["messages"]]
    assert sorted(found, key=str) == sorted((talk(i) for i in range(40)), key=str)
    first = data.train.inputs["messages"][0]
    assert data.train.texts[0] == f"user: {first[0]['content']}\nassistant: {first[1]['content']}"
    assert data.causal is not None and not data.causal.train_on_inputs


def test_conversations_that_are_alike_stay_in_one_split(load: Load) -> None:
    data = load([{"messages": talk(i % 10)} for i in range(60)])
    assert not set(data.train.texts) & set(data.test.texts)


def test_messages_may_be_written_as_sharegpt_does(load: Load) -> None:
    said = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
    ]
    data = load([{"conversations": [*said, {"from": "human", "value": str(i)}]} for i in range(20)])
    roles = [message["role"] for message in data.train.inputs["messages"][0]]
    assert roles == ["system", "user", "assistant", "user"]


def test_instructions_become_alpaca_s_prompts(load: Load) -> None:
    rows = [
        {"instruction": f"Add 1 to {i}.", "input": "please" if i % 2 else "", "output": str(i + 1)}
        for i in range(20)
    ]
    data = load(rows, format="alpaca", generate_examples=2)
    for prompt, answer in zip(
        data.train.inputs["prompt"], data.train.inputs["answer"], strict=True
    ):
        assert prompt.endswith("### Response:\n")
        assert ("### Input:\nplease" in prompt) == (int(answer) % 2 == 0)
        assert f"Add 1 to {int(answer) - 1}." in prompt


def test_instructions_may_be_asked_in_the_chat_template(load: Load) -> None:
    rows = [{"instruction": f"Add 1 to {i}.", "input": "please", "output": "ok"} for i in range(20)]
    data = load(rows, format="alpaca-chat")
    asked, answered = data.train.inputs["messages"][0]
    assert asked["role"] == "user"
    assert asked["content"].startswith("Add 1 to ")
    assert asked["content"].endswith(".\nplease")
    assert answered == {"role": "assistant", "content": "ok"}


def test_of_many_rows_the_first_are_taken(load: Load) -> None:
    data = load([{"messages": talk(i)} for i in range(40)], max_rows=20)
    splits = (data.train, data.validation, data.test)
    assert sum(map(len, splits)) == 20
    assert all(int(text.split()[3]) < 20 for split in splits for text in split.texts)


def test_texts_are_learned_whole(load: Load) -> None:
    data = load([{"story": f"Once {i}"} for i in range(20)], format="completion", text="story")
    assert set(data.train.inputs["prompt"]) == {""}
    assert tuple(data.train.inputs["answer"]) == data.train.texts


GOOD = {"messages": talk(1)}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([GOOD], {"max_rows": 0}, r"max_rows must be at least 1, got 0"),
        ([{"text": "hi"}], {}, r"can't be guessed.*\n.*`messages:`.*columns are text"),
        ([GOOD], {"messages": "talks"}, r"'talks' isn't in the data"),
        ([{"messages": talk(1), "dialog": talk(2)}], {}, r"could be messages or dialog"),
        ([GOOD, {"messages": []}], {}, r"row 1: a conversation must be a list of messages"),
        (
            [GOOD, {"messages": [{"role": "bot", "content": "hi"}]}],
            {},
            r"row 1: the role of message 0 must be one of .*got 'bot'",
        ),
        (
            [GOOD, {"messages": [{"role": "user", "content": "hi"}]}],
            {},
            r"row 1: a conversation must have a turn of the assistant, got only user",
        ),
        (
            [GOOD, {"messages": [{"role": "assistant", "content": None}]}],
            {},
            r"row 1: the content of message 0 must be a text, got None",
        ),
        ([{"instruction": "x"}], {"format": "alpaca"}, r"needs the column 'output'"),
        (
            [{"instruction": "x", "output": 3}],
            {"format": "alpaca"},
            r"'output' must hold texts, but row 0 holds 3",
        ),
        ([{"a": "x"}], {"format": "completion"}, r"'text' isn't in the data.*\n.*columns are a"),
        (
            [GOOD],
            {"format": "dpo"},
            r"format must be chat, alpaca, alpaca-chat, completion, got 'dpo'",
        ),
        ([GOOD], {"format": "completion", "generate_examples": 3}, r"no answers to compare"),
        ([GOOD], {"split": "train_sft"}, r"no split 'train_sft'.*\n?.*Name one of train"),
        ([GOOD], {"max_new_tokens": 0}, r"max_new_tokens at least 1, got 0 and 0"),
        ([GOOD], {}, r"too few to make a test split"),
    ],
)
def test_what_is_wrong_is_one_message_that_says_where(
    load: Load, rows: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        load(rows, **options)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": talk(1)}, {"format": "chat", "messages": "messages"}),
        ({"instruction": "a", "input": "", "output": "b"}, {"format": "alpaca"}),
    ],
)
def test_files_of_conversations_and_instructions_are_recognized(
    tmp_path: Path, row: dict[str, Any], expected: dict[str, str]
) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [row] * 3)
    context = DataContext(cache_dir=tmp_path / "cache")
    assert discover().suggest(str(path), context) == ("sft", {"path": str(path), **expected})


def test_the_score_is_over_tokens_and_over_generated_answers_alone() -> None:
    task = discover().build("sft", {"path": "x", "generate_examples": 2})
    nothing = float("nan")
    statistics = np.array(
        [
            [4.0, 2, 1, 1, 1.0],
            [0.0, 6, 6, 0, 0.5],
            [4.0, 8, 1, nothing, nothing],
        ]
    )
    scores = task.score(np.zeros(3, dtype=np.int64), statistics)
    assert set(scores) == set(task.metrics)
    assert scores["perplexity"] == pytest.approx(np.exp(8 / 16))
    assert scores["token_accuracy"] == 8 / 16
    assert (scores["exact_match"], scores["rouge_l"]) == (0.5, 0.75)


def test_nothing_to_score_is_not_a_number() -> None:
    task = discover().build("sft", {"path": "x"})
    assert np.isnan(task.score(np.zeros(1, dtype=np.int64), np.zeros((1, 3)))["perplexity"])


class TestConformance(TaskConformance):
    @pytest.fixture(params=[0, 4])
    def task(self, tmp_path: Path, request: pytest.FixtureRequest) -> Task:
        rows = [{"instruction": f"say {i}", "input": "", "output": f"it is {i}"} for i in range(60)]
        path = tmp_path / "asked.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"path": str(path), "format": "alpaca", "generate_examples": request.param}
        return discover().build("sft", {**options, "name": "asked"})
