"""From conversations and prompts to tokens, and which of them are trained.

Every example becomes one text with the spans of characters that a model shall learn to write. The
text is what the tokenizer's own chat template makes of it, so the spans have to be found in it:
templates trim what is said, move it, and leave out thoughts of earlier turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from coral.errors import ModelError, TaskError
from coral.ports import CausalSettings, Examples

PLAIN = "plain"
"""Name of ``PLAIN_TEMPLATE`` in configs."""

PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""``User: …``, ``Assistant: …``, a line a turn; the end-of-text token ends an answer."""

PROBES = ("first", "second")
"""Put in an answer's place to see where a template writes it; they begin and end differently."""

Message = Mapping[str, str]
Render = Callable[[Sequence[Message], bool], str]
"""Messages, and whether the beginning of an answer follows; gives the template's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """An example as one text, special tokens included.

    Attributes:
        trained: ``(start, end)`` of the characters that are learned.
        prompt: what an answer is generated from; the text without its last answer.
        answer: the last answer as the data has it.
    """

    text: str
    trained: tuple[tuple[int, int], ...]
    prompt: str = ""
    answer: str = ""


class Renderer:
    """Writes a task's examples as a tokenizer's model expects them."""

    def __init__(
        self, task: str, tokenizer: PreTrainedTokenizerBase, settings: CausalSettings
    ) -> None:
        """Raises:
        ModelError: the tokenizer tells no end of text, or not where its tokens begin.
        """
        self._task = task
        self._tokenizer = tokenizer
        self._settings = settings
        if tokenizer.eos_token is None:
            raise ModelError(
                "tasks of type sft need a tokenizer with an end-of-text token (`eos_token`), by"
                " which answers end; this one has none.\nName a model that was made to generate."
            )
        if not tokenizer.is_fast:
            raise ModelError(
                "tasks of type sft need a tokenizer that tells where its tokens begin in a text (a"
                ' "fast" one, with a tokenizer.json); this one doesn\'t.\nSave it once more with a'
                " current version of transformers, or name another model."
            )
        template = settings.chat_template
        self._template = PLAIN_TEMPLATE if template == PLAIN else template

    def render(self, split: Examples) -> list[Rendered]:
        """Return a split's examples as texts.

        Raises:
            ModelError: the tokenizer has no chat template, and the task names none.
            TaskError: the template refuses a conversation.
        """
        if "messages" in split.inputs:
            self._require_template()
            return [self._conversation(messages) for messages in split.inputs["messages"]]
        pairs = zip(split.inputs["prompt"], split.inputs["answer"], strict=True)
        return [self._prompted(prompt, answer) for prompt, answer in pairs]

    def asked(self, question: str) -> Rendered:
        """Return somebody's question as an example whose answer is yet to be written.

        Raises: as ``render`` does.
        """
        form = self._settings.prompt_format
        if form is not None:
            return self._prompted(form.replace("{prompt}", question), PROBES[0])
        self._require_template()
        said = (("user", question), ("assistant", PROBES[0]))
        return self._conversation([{"role": role, "content": content} for role, content in said])

    def _prompted(self, prompt: str, answer: str) -> Rendered:
        begun = f"{self._opening}{prompt}"
        text = f"{begun}{answer}{self._tokenizer.eos_token}"
        start = 0 if self._settings.train_on_inputs else len(begun)
        return Rendered(text=text, trained=((start, len(text)),), prompt=begun, answer=answer)

    @property
    def _opening(self) -> str:
        """What the tokenizer itself puts before a text."""
        opening = self._tokenizer.bos_token
        if opening is None:
            return ""
        first = self._tokenizer("a")["input_ids"][0]
        return str(opening) if first == self._tokenizer.bos_token_id else ""

    def _conversation(self, messages: Sequence[Message]) -> Rendered:
        try:
            text, spans = answers_in(messages, self._apply)
            last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
            prompt = self._apply(messages[:last], True) if last else ""
        except TemplateError as error:
            raise TaskError(
                f"task {self._task!r}: the chat template refuses a conversation: {error}\nIt begins"
                f" {messages[0]['role']}: {messages[0]['content'][:60]!r}. Correct or remove it, or"
                f" choose another template with `chat_template:`, such as {PLAIN}."
            ) from error
        trained = ((0, len(text)),) if self._settings.train_on_inputs else spans
        return Rendered(text=text, trained=trained, prompt=prompt, answer=messages[last]["content"])

    def _apply(self, messages: Sequence[Message], begins_answer: bool) -> str:
        text: Any = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=self._template,
            add_generation_prompt=begins_answer,
            tokenize=False,
        )
        return str(text)

    def _require_template(self) -> None:
        if self._template is None and self._tokenizer.chat_template is None:
            raise ModelError(
                f"task {self._task!r} needs a chat template, and the base model's tokenizer has"
                " none.\nName a base model with one (often the one called -Instruct or -it), or"
                f" choose a plain one with `chat_template: {PLAIN}`."
            )


def answers_in(
    messages: Sequence[Message], render: Render
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return a conversation as text, and where in it the assistant's turns are.

    A turn begins where the template would let the model begin, and ends with what ends a turn;
    blanks after that are left out. It is found by what changes when the turn says something else.
    """
    whole = render(messages, False)
    spans: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        one, two = (render(_saying(messages, i, probe), False) for probe in PROBES)
        start = _common([whole, one, two])
        after = _common([text[::-1] for text in (whole, one, two)])
        end = max(start, len(whole) - after)
        before = spans[-1][1] if spans else 0
        spans.append((_opened(whole, messages[:i], before, start, render), end))
        spans[-1] = (spans[-1][0], end + _closing(whole[end:], messages[: i + 1], render))
    return whole, tuple(spans)


def _saying(messages: Sequence[Message], place: int, content: str) -> list[Message]:
    """Return messages of which one says something else."""
    return [
        {**message, "content": content} if i == place else message
        for i, message in enumerate(messages)
    ]


def _opened(
    whole: str, earlier: Sequence[Message], before: int, content: int, render: Render
) -> int:
    """Return where the model begins a turn: behind what the template begins an answer with."""
    if not earlier:
        return content
    plain, begun = render(earlier, False), render(earlier, True)
    header = begun[len(plain) :] if begun.startswith(plain) else ""
    found = whole.rfind(header, before, content) if header else -1
    return content if found < 0 else found + len(header)


def _closing(rest: str, messages: Sequence[Message], render: Render) -> int:
    """Return how many characters end the last turn, of what follows its content in the whole."""
    probe = PROBES[0]
    ended = render(_saying(messages, len(messages) - 1, probe), False)
    tail = ended[ended.rfind(probe) + len(probe) :]
    shared = rest[: _common([rest, tail])]
    return len(shared.rstrip() or shared)


def _common(texts: Sequence[str]) -> int:
    """Return how many characters all texts begin with."""
    first, last = min(texts), max(texts)
    differing = (i for i, (one, two) in enumerate(zip(first, last, strict=False)) if one != two)
    return next(differing, min(len(first), len(last)))


def turn_ends(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Rendered]) -> frozenset[int]:
    """Return the special tokens with which examples' last answers end."""
    ends = set()
    for example in examples:
        start, end = example.trained[-1]
        last = tokenizer(example.text[start:end].rstrip(), add_special_tokens=False)["input_ids"]
        ends |= set(last[-1:]) & set(tokenizer.get_added_vocab().values())
    return frozenset(ends)


def encode(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Rendered], sequence_len: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.bool_]]]:
    """Return each text's tokens, cut to ``sequence_len``, and which of them are trained.

    A token is trained if it ends within a trained span. The first token of a text never is: there
    is nothing to tell it from.
    """
    encoded = tokenizer(
        [example.text for example in examples],
        add_special_tokens=False,
        truncation=True,
        max_length=sequence_len,
        return_offsets_mapping=True,
    )
    ends = [
        np.asarray(offsets, dtype=np.int64).reshape(-1, 2)[:, 1]
        for offsets in encoded["offset_mapping"]
    ]
    return (
        [np.asarray(own, dtype=np.int64) for own in encoded["input_ids"]],
        [_trained_tokens(own, one.trained) for own, one in zip(ends, examples, strict=True)],
    )


def _trained_tokens(ends: NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return ``(tokens,)``, given where each token ends."""
    trained = np.zeros(len(ends), dtype=np.bool_)
    for start, end in spans:
        trained |= (ends > start) & (ends <= end)
    trained[:1] = False
    return trained
