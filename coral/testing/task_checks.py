"""What every task must keep to, as plain functions, for pytest and ``coral plugins check``.

A check takes a ``Subject`` and raises ``CheckError`` with the rule, the value and the remedy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.capabilities import check_capabilities, difficulty_of, domains_of, proxies_of
from coral.errors import CoralError
from coral.ports import DataContext
from coral.testing.subject import Subject, digest_of, predictions_of
from coral.training.batches import build_index, fraction

FRACTIONS = (1.0, 5.0, 20.0, 50.0, 100.0)
"""Percentages of the train split, as stages have them."""
ODD_TEXTS = (
    "",
    " ",
    "a\nb\r\nc\td",
    "word " * 20_000,
    "na\u00efve \u4f60\u597d \u0645\u0631\u062d\u0628\u0627",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f600",
    "\x00\x1b[0m",
)
"""Empty, blank, of many lines, very long, in other scripts, emoji, control characters."""
STEADY = "Sort what comes from sets and folders, and draw from coral.rng.stream(seed, name)."
PROCESS_SECONDS = 600
"""Longest that another process may take to build and load a task."""


class CheckError(Exception):
    """A task breaks a rule."""

    def __init__(self, rule: str, remedy: str) -> None:
        self.rule = rule
        self.remedy = remedy
        super().__init__(f"{rule}.\n{remedy}")


Check = Callable[[Subject], None]


def the_task_declares_what_it_measures(subject: Subject) -> None:
    task = subject.task
    _require(
        task.primary_metric in task.metrics,
        f"primary_metric must be one of the metrics, got {task.primary_metric!r}",
        f"Choose one of {', '.join(task.metrics)}.",
    )
    _require(
        set(task.metrics.values()) <= {"max", "min"},
        f"metrics must map names to max or min, got {dict(task.metrics)}",
        "Say of each metric which direction is better.",
    )


def what_the_task_brings_is_well_formed(subject: Subject) -> None:
    check_capabilities(subject.task)
    difficulty_of(subject.task, subject.data.train)
    domains_of(subject.task, subject.data.train)


def no_split_is_empty(subject: Subject) -> None:
    for name, split in subject.splits.items():
        _require(len(split) > 0, f"{name} must hold examples, got none", f"Fill {name}.")


def splits_are_the_same_with_a_warm_and_with_an_empty_cache(subject: Subject) -> None:
    expected = digest_of(subject.data)
    with tempfile.TemporaryDirectory(prefix="coral-check-") as empty:
        for told, folder in (("the same", subject.cache_dir), ("an empty", Path(empty))):
            again = subject.calls.load(DataContext(cache_dir=folder))
            _require(
                digest_of(again) == expected,
                f"load() must return the same data each time; with {told} cache it did not",
                STEADY,
            )


def another_process_builds_and_loads_the_same_data(subject: Subject) -> None:
    source = subject.source
    if source is None:
        return
    request = {
        "name": source.name,
        "options": dict(source.options),
        "folders": [str(folder.resolve()) for folder in source.folders],
        "cache_dir": str(subject.cache_dir),
    }
    command = [sys.executable, "-m", "coral.testing.subject"]
    search_path = os.pathsep.join(filter(None, sys.path))
    # Another hash seed, so that the order of a set shows.
    environment = {**os.environ, "PYTHONPATH": search_path, "PYTHONHASHSEED": "4711"}
    try:
        done = subprocess.run(  # noqa: S603 (this very interpreter)
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            timeout=PROCESS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckError(
            f"another process must build and load it within {PROCESS_SECONDS} s; it did not",
            "Keep under context.cache_dir what takes long to make.",
        ) from None
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    _require(
        done.returncode == 0,
        f"another process must build and load it, but: {last}",
        "Keep no state outside of the factory's options; workers are processes of their own.",
    )
    _require(
        done.stdout.split()[-1:] == [digest_of(subject.data)],
        "another process must load the same data; it did not",
        STEADY,
    )


def no_text_is_in_two_splits(subject: Subject) -> None:
    for (one, first), (two, second) in combinations(subject.splits.items(), 2):
        shared = sorted(set(first.texts) & set(second.texts))
        _require(
            not shared,
            f"{one} and {two} must share no text, got {len(shared)}, such as {_shown(shared)}",
            "Split by text, as coral.tasks.classification_data does.",
        )


def texts_are_texts(subject: Subject) -> None:
    for name, split in subject.splits.items():
        for i, text in enumerate(split.texts):
            _require(
                isinstance(text, str) and bool(text.strip()),
                f"{name} must hold texts that say something, got {text!r} at {i}",
                "Leave the example out.",
            )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise CheckError(
                    f"{name} must hold texts that UTF-8 can encode, got {error.reason} at {i}",
                    "Decode the source with errors='replace'.",
                ) from error


def each_text_has_a_label_that_has_a_name(subject: Subject) -> None:
    classes = len(subject.data.label_names)
    for name, split in subject.splits.items():
        labels = split.labels
        _require(
            labels.dtype == np.int64 and labels.shape == (len(split.texts),),
            f"labels of {name} must be int64 of shape ({len(split.texts)},), got"
            f" {labels.dtype} of shape {labels.shape}",
            "Give one class index a text: np.array(labels, np.int64).",
        )
        _require(
            labels.min() >= 0 and labels.max() < classes,
            f"labels of {name} must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}",
            "Give each class a name in label_names.",
        )


def label_names_are_two_or_more_and_distinct(subject: Subject) -> None:
    names = subject.data.label_names
    _require(
        len(set(names)) == len(names) >= 2,
        f"label_names must be two or more, all different, got {list(names)}",
        "Name each class once.",
    )


def every_class_is_in_the_train_split(subject: Subject) -> None:
    present = set(subject.data.train.labels.tolist())
    missing = [name for i, name in enumerate(subject.data.label_names) if i not in present]
    _require(
        not missing,
        f"train must hold every class, {', '.join(missing)} is missing",
        "Drop the class, or stratify the splits.",
    )


def small_fractions_lie_in_large_ones_and_hold_more_than_one_class(subject: Subject) -> None:
    train = subject.data.train
    domains = domains_of(subject.task, train)
    index = build_index(
        {"task": train.labels},
        {"task": np.array([len(text) for text in train.texts], np.int64)},
        seed=0,
        domains={} if domains is None else {"task": domains},
    )
    parts = [set(fraction(index, 0, share).tolist()) for share in FRACTIONS]
    for (small, one), (large, two) in pairwise(zip(FRACTIONS, parts, strict=True)):
        _require(
            one <= two,
            f"{small:g} % of the train split must lie in {large:g} %",
            "Keep labels and domains the same at every call.",
        )
    for share, rows in zip(FRACTIONS[1:], parts[1:], strict=True):
        classes = len(set(train.labels[sorted(rows)].tolist()))
        _require(
            classes > 1,
            f"{share:g} % of {len(train)} train examples must hold two classes, got {classes}",
            "Bring more train examples.",
        )


def scores_are_finite_and_have_the_declared_names(subject: Subject) -> None:
    task, labels = subject.task, subject.data.validation.labels
    for quality, predictions in predictions_of(subject.data).items():
        scores = task.score(labels, predictions)
        _require(
            set(scores) == set(task.metrics),
            f"score() must return the declared metrics {sorted(task.metrics)}, got"
            f" {sorted(scores)}",
            "Return every metric, and no other.",
        )
        for name, value in scores.items():
            _require(
                bool(np.isfinite(value)),
                f"{name} must be finite on {quality} predictions, got {value}",
                "Define the metric where a class is missing or all predictions are alike.",
            )


def scoring_is_repeatable_and_leaves_its_input_alone(subject: Subject) -> None:
    labels = subject.data.validation.labels.copy()
    predictions = predictions_of(subject.data)["random"]
    before = predictions.copy()
    first = subject.task.score(labels, predictions)
    _require(
        np.array_equal(predictions, before)
        and np.array_equal(labels, subject.data.validation.labels),
        "score() must leave labels and predictions as they are; it changed them",
        "Work on a copy.",
    )
    _require(
        subject.task.score(labels, predictions) == first,
        "score() must return the same for the same predictions; it did not",
        "Draw no random numbers, or draw them from coral.rng.stream(seed, name).",
    )


def perfect_predictions_score_better_than_random_ones(subject: Subject) -> None:
    made, labels = predictions_of(subject.data), subject.data.validation.labels
    perfect, random = (subject.task.score(labels, made[name]) for name in ("perfect", "random"))
    for metric, direction in subject.task.metrics.items():
        sign = 1 if direction == "max" else -1
        _require(
            sign * perfect[metric] > sign * random[metric],
            f"{metric} ({direction}) must be better for perfect than for random predictions, got"
            f" {perfect[metric]:g} and {random[metric]:g}",
            "Correct the metric, or its direction.",
        )


def a_few_examples_can_be_scored(subject: Subject) -> None:
    """A bootstrap's resample, or a small share of a split, may hold one example or one class."""
    labels = subject.data.validation.labels
    predictions = predictions_of(subject.data)["random"]
    one_class = np.flatnonzero(_alike(labels))
    for told, rows in (("one example", one_class[:1]), ("one class", one_class)):
        try:
            scores = subject.task.score(labels[rows], predictions[rows])
        except Exception as error:
            raise CheckError(
                f"score() must work on {told}, but raised {type(error).__name__}: {error}",
                "Return NaN where a metric is not defined.",
            ) from error
        _require(
            set(scores) == set(subject.task.metrics),
            f"score() must return every metric on {told}, got {sorted(scores)}",
            "Return NaN where a metric is not defined.",
        )


def odd_texts_do_no_harm(subject: Subject) -> None:
    """Who trains on other splits, or labels new texts, brings whatever there is."""
    labels = np.resize(
        subject.data.train.labels, (len(ODD_TEXTS), *subject.data.train.labels.shape[1:])
    )
    odd = dataclasses.replace(subject.data.train, texts=ODD_TEXTS, labels=labels)
    for method, ask in (("difficulty", difficulty_of), ("domains", domains_of)):
        for examples in (odd, subject.data.train):
            try:
                ask(subject.task, examples)
            except Exception as error:
                told = " ".join(f"{type(error).__name__}: {error}".split())
                raise CheckError(
                    f"{method}() must take any texts, but raised {told}",
                    "Mind empty texts, long ones, line breaks and other scripts.",
                ) from error


def proxies_are_finite(subject: Subject) -> None:
    labels = subject.data.validation.labels
    for name, proxy in proxies_of(subject.task).items():
        for quality, predictions in predictions_of(subject.data).items():
            value = proxy.score(labels, predictions)
            _require(
                isinstance(value, int | float | np.number) and bool(np.isfinite(value)),
                f"the proxy {name} must be a finite number on {quality} predictions, got {value!r}",
                "Define it where a class is missing or all predictions are alike.",
            )


CHECKS: tuple[Check, ...] = (
    the_task_declares_what_it_measures,
    no_split_is_empty,
    what_the_task_brings_is_well_formed,
    splits_are_the_same_with_a_warm_and_with_an_empty_cache,
    another_process_builds_and_loads_the_same_data,
    no_text_is_in_two_splits,
    texts_are_texts,
    each_text_has_a_label_that_has_a_name,
    label_names_are_two_or_more_and_distinct,
    every_class_is_in_the_train_split,
    small_fractions_lie_in_large_ones_and_hold_more_than_one_class,
    scores_are_finite_and_have_the_declared_names,
    scoring_is_repeatable_and_leaves_its_input_alone,
    perfect_predictions_score_better_than_random_ones,
    a_few_examples_can_be_scored,
    proxies_are_finite,
    odd_texts_do_no_harm,
)
"""In the order in which they are worth reading."""


IN_ANOTHER_PROCESS = another_process_builds_and_loads_the_same_data
"""The check that a subject without a source passes unchecked."""


def sentence(check: Check) -> str:
    """Return what a check demands, in words."""
    return str(check.__name__).replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How a check ended: ``rule`` and ``remedy`` are empty if it passed."""

    check: str
    rule: str = ""
    remedy: str = ""

    @property
    def passed(self) -> bool:
        return not self.rule


def run_checks(subject: Subject) -> Iterator[CheckResult]:
    """Yield the result of each check; whatever a plugin raises is one.

    Raises:
        TaskError: the data can't be loaded, so that there is nothing to check.
    """
    _ = subject.data
    for check in CHECKS:
        yield _result(check, subject)


def _result(check: Check, subject: Subject) -> CheckResult:
    name = sentence(check)
    try:
        check(subject)
    except CheckError as error:
        return CheckResult(check=name, rule=error.rule, remedy=error.remedy)
    except (Exception, SystemExit) as error:
        rule, _, remedy = str(error).partition("\n")
        return CheckResult(
            check=name,
            rule=rule if isinstance(error, CoralError) else f"{type(error).__name__}: {rule}",
            remedy=remedy or "Correct the method that raises.",
        )
    return CheckResult(check=name)


def _alike(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which examples have the first one's label."""
    same: NDArray[np.bool_] = (labels == labels[0]).reshape(len(labels), -1).all(axis=1)
    return same


def _require(condition: bool, rule: str, remedy: str) -> None:
    if not condition:
        raise CheckError(rule, remedy)


def _shown(texts: list[str]) -> str:
    text = texts[0] if texts else ""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
