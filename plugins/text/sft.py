"""Supervised fine-tuning: a language model learns to write answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import CausalSettings, DataContext, Examples, TaskData
from coral.tasks import GENERATION_METRICS, LANGUAGE_METRICS, score_language
from coral.tasks.columns import texts_in
from coral.tasks.reading import Rows, read
from coral.tasks.splitting import Shares, split

from .conversing import (
    COMPLETION,
    PROMPT_FORMATS,
    Message,
    conversations_in,
    instructions_in,
    messages_column,
    questions_in,
)

FORMATS = ("chat", "alpaca", "alpaca-chat", "completion")

Inputs = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Write answers as the data's.

    Attributes:
        path: as for ``text-classification``.
        format: ``chat`` (a column of conversations), ``alpaca`` (columns instruction, input and
            output, in Alpaca's words), ``alpaca-chat`` (the same columns as a question and its
            answer in the chat template) or ``completion`` (a column of texts that are learned
            whole).
        name: of the task.
        subset, revision: of a hub id.
        split: the data's split that is trained on, and cut into splits; None takes its own.
        max_rows: most rows that are taken of the train split, the first ones; None takes all.
        messages: column of conversations; None for the only one that is named like one.
        text: column of texts of the format ``completion``.
        train_on_inputs: learn to write the prompts, too.
        sample_packing: let several examples share a row.
        chat_template: ``plain``, or a Jinja template; None for the tokenizer's own.
        validation_share, test_share: of the rows, where the data has no such split.
        split_seed: of the splits that are made.
        generate_examples: most examples of a split for which an answer is generated and compared
            with the data's; 0 is off.
        max_new_tokens: of an answer that is generated.
    """

    path: str
    _: KW_ONLY
    format: Literal["chat", "alpaca", "alpaca-chat", "completion"] = "chat"
    name: str = "sft"
    subset: str | None = None
    split: str | None = None
    max_rows: int | None = None
    revision: str | None = None
    messages: str | None = None
    text: str = "text"
    train_on_inputs: bool = False
    sample_packing: bool = False
    chat_template: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    generate_examples: int = 0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        Shares(validation=self.validation_share, test=self.test_share).check(self.name)
        if self.format not in FORMATS:
            raise TaskError(
                f"task {self.name!r}: format must be {', '.join(FORMATS)}, got {self.format!r}.\n"
                "Choose the one that the data has."
            )
        if self.max_rows is not None and self.max_rows < 1:
            raise TaskError(
                f"task {self.name!r}: max_rows must be at least 1, got {self.max_rows}.\n"
                "Correct it, or remove it to take all."
            )
        if self.generate_examples < 0 or self.max_new_tokens < 1:
            raise TaskError(
                f"task {self.name!r}: generate_examples must be at least 0 and max_new_tokens at"
                f" least 1, got {self.generate_examples} and {self.max_new_tokens}.\nCorrect them."
            )
        if self.generate_examples and self.format == COMPLETION:
            raise TaskError(
                f"task {self.name!r}: texts of the format completion hold no answers to compare"
                " with.\nRemove generate_examples, or bring prompts and answers as alpaca or chat."
            )

    @property
    def metrics(self) -> Mapping[str, Literal["max", "min"]]:
        generated = GENERATION_METRICS if self.generate_examples else {}
        return {**LANGUAGE_METRICS, **generated}

    @property
    def primary_metric(self) -> str:
        return "perplexity"

    def load(self, context: DataContext) -> TaskData:
        """Return the data's own splits, and those that are missing made of the train split.

        Raises:
            TaskError: the data can't be read, or is not what its format says.
        """
        found = read(
            self.name, self.path, self.subset, self.revision, context.cache_dir, self.split
        )
        if self.max_rows is not None:
            found = {**found, "train": found["train"].first(self.max_rows)}
        parts = {part: self._examples(rows) for part, rows in found.items()}
        if len(parts) < 3:
            train = parts["train"]
            shares = Shares(
                validation=0.0 if "validation" in parts else self.validation_share,
                test=0.0 if "test" in parts else self.test_share,
            )
            made = split(self.name, train.texts, train.labels, None, shares, self.split_seed)
            parts |= {part: train.take(rows) for part, rows in made.items()}
        return TaskData(
            train=parts["train"],
            validation=parts["validation"],
            test=parts["test"],
            label_names=(),
            problem="causal_lm",
            causal=CausalSettings(
                train_on_inputs=self.train_on_inputs,
                sample_packing=self.sample_packing,
                chat_template=self.chat_template,
                generate_examples=self.generate_examples,
                max_new_tokens=self.max_new_tokens,
                prompt_format=PROMPT_FORMATS.get(self.format),
            ),
        )

    def score(
        self, labels: NDArray[np.int64], predictions: NDArray[np.float64]
    ) -> Mapping[str, float]:
        return score_language(predictions)

    def _examples(self, rows: Rows) -> Examples:
        texts, inputs = self._texts_and_inputs(rows)
        labels = np.zeros(len(texts), dtype=np.int64)
        return Examples(texts=tuple(texts), labels=labels, inputs=inputs)

    def _texts_and_inputs(self, rows: Rows) -> tuple[Sequence[str], Inputs]:
        """Return each example as a text to know it by, and what is rendered of it."""
        columns = list(rows)
        if self.format in ("chat", "alpaca-chat"):
            talks = self._conversations(rows, columns)
            told = ["\n".join(f"{m['role']}: {m['content']}" for m in talk) for talk in talks]
            return told, {"messages": talks}
        if self.format == COMPLETION:
            if self.text not in columns:
                raise TaskError(
                    f"task {self.name!r}: the text column {self.text!r} isn't in the data.\nName it"
                    f" with `text:`; the data's columns are {', '.join(columns)}."
                )
            texts = texts_in(self.name, rows, self.text)
            return texts, {"prompt": ("",) * len(texts), "answer": texts}
        prompts, answers = instructions_in(self.name, rows)
        told = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        return told, {"prompt": prompts, "answer": answers}

    def _conversations(self, rows: Rows, columns: Sequence[str]) -> list[list[Message]]:
        if self.format == "alpaca-chat":
            return questions_in(self.name, rows)
        return conversations_in(self.name, rows, messages_column(self.name, columns, self.messages))
