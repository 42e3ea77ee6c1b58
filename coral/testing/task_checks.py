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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.capabilities import (
    check_capabilities,
    difficulty_of,
    domains_of,
    proxies_of,
    view_scores_of,
    viewed,
    views_of,
)
from coral.errors import CoralError
from coral.ports import PLAIN, DataContext, Task
from coral.testing.subject import Subject, digest_of, predictions_of
from coral.training.batches import build_index, fraction, strata

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
    """Of pairs, neither is the same pair."""
    for (one, first), (two, second) in combinations(subject.splits.items(), 2):
        shared = sorted(set(first.contents) & set(second.contents))
        _require(
            not shared,
            f"{one} and {two} must share no text, got {len(shared)}, such as {_shown(shared)}",
            "Split by text, as coral.tasks.classification_data does.",
        )


def texts_are_texts(subject: Subject) -> None:
    for name, split in subject.splits.items():
        _require(
            len(split.pairs) in (0, len(split)),
            f"pairs of {name} must be as many as texts, got {len(split.pairs)} for {len(split)}",
            "Give each example its second text, or none of them one.",
        )
        for i, text in enumerate((*split.texts, *split.pairs)):
            _require(
                isinstance(text, str) and bool(text.strip()),
                f"{name} must hold texts that say something, got {text!r} at {i % len(split)}",
                "Leave the example out.",
            )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise CheckError(
                    f"{name} must hold texts that UTF-8 can encode, got {error.reason} at"
                    f" {i % len(split)}",
                    "Decode the source with errors='replace'.",
                ) from error


def labels_are_those_of_the_problem(subject: Subject) -> None:
    data = subject.data
    count, expected = len(data.label_names), "float64" if data.problem == "regression" else "int64"
    for name, split in subject.splits.items():
        labels = split.labels
        whole = data.problem in ("single_label", "causal_lm")
        shape = (len(split),) if whole else (len(split), count)
        _require(
            labels.dtype == np.dtype(expected) and labels.shape == shape,
            f"labels of {name} must be {expected} of shape {shape}, got {labels.dtype} of shape"
            f" {labels.shape}",
            f"Write np.array(labels, np.{expected}); each column has a name in label_names.",
        )
        if data.problem == "regression":
            _require(
                bool(np.isfinite(labels).all()),
                f"labels of {name} must be finite, {int((~np.isfinite(labels)).sum())} are not",
                "Leave the examples out.",
            )
            continue
        highest = {"multi_label": 1, "causal_lm": 0}.get(data.problem, count - 1)
        _require(
            bool(labels.min() >= 0 and labels.max() <= highest),
            f"labels of {name} must lie in 0..{highest}, got {labels.min()}..{labels.max()}",
            "Give each class a name in label_names."
            if data.problem == "single_label"
            else "Write 1 for each label that an example has, else 0.",
        )


def label_names_are_distinct(subject: Subject) -> None:
    names = subject.data.label_names
    least = {"single_label": 2, "causal_lm": 0}.get(subject.data.problem, 1)
    _require(
        len(set(names)) == len(names) >= least,
        f"label_names must be {least} or more, all different, got {list(names)}",
        "Name each class, label or number once.",
    )


def the_train_split_holds_examples_of_everything(subject: Subject) -> None:
    data, labels = subject.data, subject.data.train.labels
    if data.problem == "causal_lm":
        return
    if data.problem == "single_label":
        present = np.bincount(labels, minlength=len(data.label_names)) > 0
    else:
        present = labels.min(axis=0) != labels.max(axis=0)
    missing = [name for name, there in zip(data.label_names, present, strict=True) if not there]
    _require(
        not missing,
        f"train must hold every class, and different values of every label; {', '.join(missing)}"
        " is missing, or always the same",
        "Drop it, or stratify the splits.",
    )


def small_fractions_lie_in_large_ones_and_are_not_all_alike(subject: Subject) -> None:
    train = subject.data.train
    index = build_index(
        {"task": strata(subject.data.problem, train.labels, domains_of(subject.task, train))},
        {"task": np.array([len(text) for text in train.texts], np.int64)},
        seed=0,
    )
    parts = [set(fraction(index, 0, share).tolist()) for share in FRACTIONS]
    for (small, one), (large, two) in pairwise(zip(FRACTIONS, parts, strict=True)):
        _require(
            one <= two,
            f"{small:g} % of the train split must lie in {large:g} %",
            "Keep labels and domains the same at every call.",
        )
    for share, rows in zip(FRACTIONS[1:], parts[1:], strict=True):
        _require(
            subject.data.problem == "causal_lm"
            or len(np.unique(train.labels[sorted(rows)], axis=0)) > 1,
            f"{share:g} % of {len(train)} train examples must differ in their labels, all of"
            f" {len(rows)} are alike",
            "Bring more train examples.",
        )


def scores_are_finite_and_have_the_declared_names(subject: Subject) -> None:
    task, labels = subject.task, subject.data.validation.labels
    for quality, predictions in predictions_of(subject.data).items():
        scores = _scores(task, labels, predictions)
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
    for metric in perfect:
        direction = subject.task.metrics[metric]
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
            scores = _scores(subject.task, labels[rows], predictions[rows])
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
    train = subject.data.train
    odd = dataclasses.replace(
        train.take(np.resize(np.arange(len(train)), len(ODD_TEXTS)).tolist()),
        texts=ODD_TEXTS,
        pairs=ODD_TEXTS[::-1] if train.pairs else (),
    )
    for method, ask in (("difficulty", difficulty_of), ("domains", domains_of)):
        for examples in (odd, train):
            try:
                ask(subject.task, examples)
            except Exception as error:
                told = " ".join(f"{type(error).__name__}: {error}".split())
                raise CheckError(
                    f"{method}() must take any texts, but raised {told}",
                    "Mind empty texts, long ones, line breaks and other scripts.",
                ) from error


def views_show_each_example_by_itself_and_the_same_each_time(subject: Subject) -> None:
    task, train = subject.task, subject.data.train
    asked = (proxy.view for proxy in proxies_of(task).values() if proxy.view != PLAIN)
    few = train.take(range(min(3, len(train))))
    for name in dict.fromkeys((*views_of(task), *asked)):
        alone, among = viewed(task, few, name), viewed(task, train, name)
        _require(
            digest_of(alone) == digest_of(among.take(range(len(few)))),
            f"view({name!r}) must show an example alone as among others; it did not",
            "Draw from coral.rng.stream(seed, name, text), and look at no other example.",
        )


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
    labels_are_those_of_the_problem,
    label_names_are_distinct,
    the_train_split_holds_examples_of_everything,
    small_fractions_lie_in_large_ones_and_are_not_all_alike,
    scores_are_finite_and_have_the_declared_names,
    scoring_is_repeatable_and_leaves_its_input_alone,
    perfect_predictions_score_better_than_random_ones,
    a_few_examples_can_be_scored,
    views_show_each_example_by_itself_and_the_same_each_time,
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


def _scores(task: Task, labels: NDArray[Any], predictions: NDArray[np.float64]) -> dict[str, float]:
    """Return every metric, where all views are predicted alike."""
    alike = dict.fromkeys((PLAIN, *views_of(task)), predictions)
    return {**task.score(labels, predictions), **view_scores_of(task, labels, alike)}


def _alike(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which examples have the first one's label."""
    same: NDArray[np.bool_] = (labels == labels[0]).reshape(len(labels), -1).all(axis=1)
    return same


def _require(condition: bool, rule: str, remedy: str) -> None:
    if not condition:
        raise CheckError(rule, remedy)


def _shown(contents: Sequence[tuple[str, ...]]) -> str:
    text = " | ".join(contents[0]) if contents else ""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
