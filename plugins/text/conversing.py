"""Conversations and instructions in rows of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coral.errors import TaskError
from coral.tasks.columns import texts_in
from coral.tasks.reading import Rows

COMPLETION = "completion"
MESSAGES_NAMES = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat")
ALPACA_COLUMNS = ("instruction", "output")

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Roles in data, and what they are called here."""

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further"
    " context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes"
    " the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
"""Prompts of the format alpaca. Source: Taori et al. 2023 (Stanford Alpaca)."""

PROMPT_FORMATS = {
    "alpaca": WITHOUT_INPUT.format(instruction="{prompt}"),
    COMPLETION: "{prompt}",
}
"""How somebody's question becomes a prompt of a format; of chat it is said by the user."""

Message = dict[str, str]


def suggest_answers(data: str, columns: Sequence[str]) -> dict[str, Any] | None:
    """Return options for data that hold conversations or instructions; None for other data."""
    if set(ALPACA_COLUMNS) <= set(columns):
        return {"path": data, "format": "alpaca"}
    likely = [name for name in columns if name.lower() in MESSAGES_NAMES]
    return {"path": data, "format": "chat", "messages": likely[0]} if len(likely) == 1 else None


def messages_column(task: str, columns: Sequence[str], named: str | None = None) -> str:
    """Return the column of conversations: the one that is named, or the only usual one.

    Raises:
        TaskError: there is no such column, or it can't be guessed.
    """
    if named is not None and named in columns:
        return named
    likely = [name for name in columns if name.lower() in MESSAGES_NAMES]
    if named is None and len(likely) == 1:
        return likely[0]
    told = (
        f"the column of conversations {named!r} isn't in the data"
        if named is not None
        else f"the column of conversations could be {' or '.join(likely)}"
        if likely
        else "the column of conversations can't be guessed"
    )
    raise TaskError(
        f"task {task!r}: {told}.\nName it with `messages:`, or choose another format; the data's"
        f" columns are {', '.join(columns)}."
    )


def conversations_in(task: str, rows: Rows, column: str) -> list[list[Message]]:
    """Return a column of conversations as messages with ``role`` and ``content``.

    Raises:
        TaskError: one is empty, has no answer, an unknown role, or says something else than texts.
    """
    found = []
    for number, talk in enumerate(rows[column]):
        where = f"task {task!r}: column {column!r}, row {number}"
        if not isinstance(talk, Sequence) or isinstance(talk, str) or not len(talk):
            raise TaskError(
                f"{where}: a conversation must be a list of messages, got {talk!r}.\nCorrect or"
                " remove the row."
            )
        messages = [_message(where, place, said) for place, said in enumerate(talk)]
        if not any(message["role"] == "assistant" for message in messages):
            raise TaskError(
                f"{where}: a conversation must have a turn of the assistant, got only"
                f" {', '.join(dict.fromkeys(message['role'] for message in messages))}.\nCorrect or"
                " remove the row: there is nothing to learn in it."
            )
        found.append(messages)
    return found


def _message(where: str, place: int, said: Any) -> Message:
    """Return a message, also one written as ``from`` and ``value`` (ShareGPT)."""
    if not isinstance(said, Mapping):
        raise TaskError(
            f"{where}: message {place} must have `role` and `content`, got {said!r}.\nCorrect or"
            " remove the row."
        )
    role = said.get("role") or said.get("from")
    content = said.get("content") if "content" in said else said.get("value")
    if role not in ROLES:
        raise TaskError(
            f"{where}: the role of message {place} must be one of {', '.join(ROLES)}, got {role!r}."
            "\nCorrect or remove the row."
        )
    if not isinstance(content, str):
        raise TaskError(
            f"{where}: the content of message {place} must be a text, got {content!r}.\nCorrect or"
            " remove the row."
        )
    return {"role": ROLES[role], "content": content}


def instructions_in(task: str, rows: Rows) -> tuple[list[str], list[str]]:
    """Return prompts in Alpaca's words, and answers. Raises what ``alpaca_in`` does."""
    asked = alpaca_in(task, rows)
    prompts = [
        WITH_INPUT.format(instruction=instruction, input=extra)
        if extra
        else WITHOUT_INPUT.format(instruction=instruction)
        for instruction, extra, _ in asked
    ]
    return prompts, [answer for _, _, answer in asked]


def questions_in(task: str, rows: Rows) -> list[list[Message]]:
    """Return instructions as conversations of one turn each. Raises what ``alpaca_in`` does."""
    return [
        [
            {"role": "user", "content": f"{instruction}\n{extra}" if extra else instruction},
            {"role": "assistant", "content": answer},
        ]
        for instruction, extra, answer in alpaca_in(task, rows)
    ]


def alpaca_in(task: str, rows: Rows) -> list[tuple[str, str | None, str]]:
    """Return the ``instruction``, ``input`` and ``output`` of rows; there may be no input.

    Raises:
        TaskError: a column is missing, or a value isn't a text.
    """
    for column in ALPACA_COLUMNS:
        if column not in rows:
            raise TaskError(
                f"task {task!r}: the format alpaca needs the column {column!r}.\nThe data's columns"
                f" are {', '.join(rows)}; choose another format, or rename one."
            )
    instructions, answers = (texts_in(task, rows, column) for column in ALPACA_COLUMNS)
    further = rows["input"] if "input" in rows else [None] * len(answers)
    for number, extra in enumerate(further):
        if not (extra is None or isinstance(extra, str)):
            raise TaskError(
                f"task {task!r}: column 'input' must hold texts or nothing, but row {number} holds"
                f" {extra!r}.\nCorrect or remove the row."
            )
    return list(zip(instructions, further, answers, strict=True))
