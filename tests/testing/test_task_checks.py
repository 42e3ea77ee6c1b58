"""Every check passes on a sound task, and fails on one that breaks its rule alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from coral.errors import TaskError
from coral.ports import DataContext, Examples, Proxy, TaskData
from coral.rng import stream
from coral.tasks import (
    CLASSIFICATION_METRICS,
    MULTILABEL_METRICS,
    REGRESSION_METRICS,
    Plugin,
    TaskCalls,
    classification_data,
    score_classification,
    score_multilabel,
    score_regression,
)
from coral.testing import task_checks
from coral.testing.subject import Source, Subject, digest_of
from coral.testing.task_checks import CHECKS, CheckResult, run_checks, sentence

Change = Callable[[TaskData], TaskData]


def confidence(labels: Any, predictions: Any) -> float:
    return float(predictions.max(axis=1).mean())


class Sound:
    """A task that keeps to every rule, and brings all that a task may bring."""

    name = "sound"
    metrics: Mapping[str, Any] = CLASSIFICATION_METRICS
    primary_metric = "auroc"
    genes: Mapping[str, Any] = {"lora_r": [2, 4]}
    profile = "minilm-docstrings"

    def __init__(self, change: Change = lambda data: data) -> None:
        self._change = change

    @property
    def proxies(self) -> Mapping[str, Proxy]:
        return {"confidence": Proxy(score=confidence)}

    def load(self, context: DataContext) -> TaskData:
        texts = [f"{word} number {i}" for word in ("good", "bad") for i in range(60)]
        return self._change(classification_data(texts, [text.split()[0] for text in texts]))

    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        return score_classification(labels, predictions)

    def difficulty(self, examples: Examples) -> Any:
        return [float(len(text)) for text in examples.texts]

    def domains(self, examples: Examples) -> list[str]:
        return ["even" if len(text) % 2 == 0 else "odd" for text in examples.texts]


def results_of(task: Any, folder: Path, source: Source | None = None) -> list[CheckResult]:
    calls = TaskCalls(task=task, plugin=Plugin(name="mine", origin="/plugins/mine"))
    return list(run_checks(Subject(calls=calls, cache_dir=folder, source=source)))


def failed_in(task: Any, folder: Path) -> dict[str, str]:
    return {result.check: result.rule for result in results_of(task, folder) if not result.passed}


def with_train(**fields: Any) -> Change:
    return lambda data: dataclasses.replace(data, train=dataclasses.replace(data.train, **fields))


def train_of(change: Callable[[Examples], Mapping[str, Any]]) -> Change:
    return lambda data: with_train(**change(data.train))(data)


class NanOnConstant(Sound):
    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        scores = score_classification(labels, predictions)
        return {**scores, "auroc": np.nan} if np.ptp(predictions) == 0 else scores


class Undeclared(Sound):
    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        return {**score_classification(labels, predictions), "kappa": 0.0}


class Moody(Sound):
    calls = 0

    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        self.calls += 1
        return {**score_classification(labels, predictions), "accuracy": self.calls / 1000}


class Clumsy(Sound):
    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        scores = score_classification(labels, predictions)
        predictions[0] = predictions[0][::-1].copy()
        return scores


class TurnedRound(Sound):
    metrics: Mapping[str, Any] = {**CLASSIFICATION_METRICS, "log_loss": "max"}


class NeedsBothClasses(Sound):
    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        if len(set(labels.tolist())) < 2:
            raise ValueError("two classes are needed")
        return score_classification(labels, predictions)


class Wavering(Sound):
    loads = 0

    def load(self, context: DataContext) -> TaskData:
        self.loads += 1
        data = super().load(context)
        first, *rest = data.train.texts
        return with_train(texts=(f"{first} {self.loads}", *rest))(data)


class AfraidOfEmptyTexts(Sound):
    def difficulty(self, examples: Examples) -> Any:
        return [float(ord(text[0])) for text in examples.texts]


class Unmeasured(Sound):
    primary_metric = "kappa"


class Sideways(Sound):
    metrics: Mapping[str, Any] = {**CLASSIFICATION_METRICS, "accuracy": "up"}


class NanProxy(Sound):
    @property
    def proxies(self) -> Mapping[str, Proxy]:
        return {
            "spread": Proxy(
                score=lambda labels, p: float(p.max() / np.ptp(p)) if np.ptp(p) else np.nan
            )
        }


class Viewed(Sound):
    """One more metric, on shouted texts."""

    metrics: Mapping[str, Any] = {**CLASSIFICATION_METRICS, "loud_auroc": "max"}
    views = ("loud",)

    def view(self, examples: Examples, name: str) -> Examples:
        return dataclasses.replace(examples, texts=tuple(text.upper() for text in examples.texts))

    def score_views(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        return {"loud_auroc": self.score(labels, predictions["loud"])["auroc"]}


class LooksAround(Viewed):
    def view(self, examples: Examples, name: str) -> Examples:
        longest = max(examples.texts, key=lambda text: (len(text), text))
        return dataclasses.replace(examples, texts=(longest,) * len(examples))


class BrokenGenes(Sound):
    genes: Any = ("lora_r",)


class FewDomains(Sound):
    def domains(self, examples: Examples) -> list[str]:
        return ["all"]


class LessDomains(Sound):
    """Domains that depend on the text alone where there are few."""

    def domains(self, examples: Examples) -> list[str]:
        if len(examples) < 20:
            raise ValueError("too few")
        return super().domains(examples)


BROKEN: Mapping[str, tuple[Any, str]] = {
    "the task declares what it measures": (Unmeasured(), "got 'kappa'"),
    "what the task brings is well formed": (BrokenGenes(), "genes must map fields"),
    "splits are the same with a warm and with an empty cache": (Wavering(), "with the same cache"),
    "no text is in two splits": (
        Sound(lambda data: dataclasses.replace(data, test=data.validation)),
        "validation and test must share no text, got 12, such as",
    ),
    "texts are texts": (
        Sound(train_of(lambda train: {"texts": (" \n", *train.texts[1:])})),
        "train must hold texts that say something, got ' \\n' at 0",
    ),
    "labels are those of the problem": (
        Sound(train_of(lambda train: {"labels": train.labels.astype(np.int32)})),
        "got int32 of shape (96,)",
    ),
    "label names are distinct": (
        Sound(lambda data: dataclasses.replace(data, label_names=("good", "good"))),
        "got ['good', 'good']",
    ),
    "small fractions lie in large ones and are not all alike": (
        Sound(train_of(lambda t: {"texts": t.texts[-52:], "labels": np.r_[[0], t.labels[-51:]]})),
        "5 % of 52 train examples must differ in their labels, all of 3 are alike",
    ),
    "scores are finite and have the declared names": (NanOnConstant(), "auroc must be finite"),
    "scoring is repeatable and leaves its input alone": (Clumsy(), "it changed them"),
    "perfect predictions score better than random ones": (TurnedRound(), "log_loss (max) must be"),
    "a few examples can be scored": (NeedsBothClasses(), "raised ValueError: two classes"),
    "views show each example by itself and the same each time": (
        LooksAround(),
        "view('loud') must show an example alone as among others",
    ),
    "proxies are finite": (NanProxy(), "the proxy spread must be a finite number on constant"),
    "odd texts do no harm": (AfraidOfEmptyTexts(), "difficulty() must take any texts"),
}


class OfLabels(Sound):
    """Any number of labels, on pairs of texts."""

    metrics: Mapping[str, Any] = MULTILABEL_METRICS

    def load(self, context: DataContext) -> TaskData:
        def examples(split: str, count: int) -> Examples:
            rng = stream(0, "labels", split)
            return Examples(
                texts=("the same",) * count,
                pairs=tuple(f"{split} {i}" for i in range(count)),
                labels=rng.integers(2, size=(count, 3)),
            )

        data = TaskData(
            train=examples("train", 100),
            validation=examples("validation", 40),
            test=examples("test", 40),
            label_names=("x", "y", "z"),
            problem="multi_label",
        )
        return self._change(data)

    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        return score_multilabel(labels, predictions)

    def difficulty(self, examples: Examples) -> Any:
        return examples.labels.sum(axis=1)


class OfNumbers(OfLabels):
    """Two numbers an example."""

    metrics: Mapping[str, Any] = REGRESSION_METRICS
    primary_metric = "spearman"

    def load(self, context: DataContext) -> TaskData:
        def examples(part: Examples) -> Examples:
            numbers = np.stack([part.labels.sum(axis=1), np.arange(len(part))], axis=1)
            return dataclasses.replace(part, labels=numbers.astype(np.float64))

        data = OfLabels().load(context)
        return self._change(
            dataclasses.replace(
                data,
                train=examples(data.train),
                validation=examples(data.validation),
                test=examples(data.test),
                label_names=("how many", "which"),
                problem="regression",
            )
        )

    def score(self, labels: Any, predictions: Any) -> Mapping[str, float]:
        return score_regression(labels, predictions)


@pytest.mark.parametrize("task", [OfLabels(), OfNumbers()], ids=["labels", "numbers"])
def test_sound_tasks_of_other_problems_pass_too(task: Any, tmp_path: Path) -> None:
    assert failed_in(task, tmp_path) == {}


@pytest.mark.parametrize(
    ("task", "check", "told"),
    [
        (
            OfLabels(train_of(lambda train: {"labels": train.labels[:, :2]})),
            "labels are those of the problem",
            "must be int64 of shape (100, 3), got int64 of shape (100, 2)",
        ),
        (
            OfLabels(train_of(lambda train: {"labels": train.labels * 2})),
            "labels are those of the problem",
            "must lie in 0..1, got 0..2",
        ),
        (
            OfLabels(train_of(lambda train: {"labels": train.labels * [1, 0, 1]})),
            "the train split holds examples of everything",
            "y is missing, or always the same",
        ),
        (
            OfLabels(train_of(lambda train: {"pairs": train.pairs[:3]})),
            "texts are texts",
            "pairs of train must be as many as texts, got 3 for 100",
        ),
        (
            OfLabels(train_of(lambda train: {"pairs": ("", *train.pairs[1:])})),
            "texts are texts",
            "got '' at 0",
        ),
        (
            OfNumbers(train_of(lambda train: {"labels": train.labels + np.inf})),
            "labels are those of the problem",
            "labels of train must be finite",
        ),
        (
            OfNumbers(lambda data: dataclasses.replace(data, label_names=("one", "one"))),
            "label names are distinct",
            "must be 1 or more, all different",
        ),
    ],
)
def test_what_breaks_the_rules_of_another_problem_is_found(
    task: Any, check: str, told: str, tmp_path: Path
) -> None:
    with np.errstate(all="ignore"):
        assert told in failed_in(task, tmp_path)[check]


def test_a_sound_task_passes_every_check(tmp_path: Path) -> None:
    results = results_of(Sound(), tmp_path)
    assert [result.check for result in results] == [sentence(check) for check in CHECKS]
    assert failed_in(Sound(), tmp_path) == {}


@pytest.mark.parametrize("check", BROKEN)
def test_a_check_fails_on_a_task_that_breaks_its_rule(check: str, tmp_path: Path) -> None:
    task, told = BROKEN[check]
    found = failed_in(task, tmp_path)
    assert check in found
    assert told in found[check]
    assert all(r.remedy for r in results_of(task, tmp_path) if not r.passed)


@pytest.mark.parametrize(
    ("task", "check", "told"),
    [
        (Undeclared(), "scores are finite and have the declared names", "kappa"),
        (Moody(), "scoring is repeatable and leaves its input alone", "must return the same"),
        (Sideways(), "the task declares what it measures", "must map names to max or min"),
        (FewDomains(), "what the task brings is well formed", "got 1 for 96 examples"),
        (LessDomains(), "odd texts do no harm", "domains() must take any texts"),
        (
            Sound(train_of(lambda train: {"texts": ("\ud800", *train.texts[1:])})),
            "texts are texts",
            "UTF-8 can encode",
        ),
        (
            Sound(train_of(lambda train: {"labels": train.labels + 1})),
            "labels are those of the problem",
            "must lie in 0..1, got 1..2",
        ),
        (
            Sound(train_of(lambda train: {"labels": np.zeros(96, np.int64)})),
            "the train split holds examples of everything",
            "every label; good is missing",
        ),
    ],
)
def test_other_ways_to_break_a_rule_are_found_too(
    task: Any, check: str, told: str, tmp_path: Path
) -> None:
    assert told in failed_in(task, tmp_path)[check]


def test_every_check_that_a_task_in_memory_can_break_is_seen_to_fail() -> None:
    seen = {*BROKEN, "the train split holds examples of everything"}
    never_here = {"no split is empty", "another process builds and loads the same data"}
    assert {sentence(check) for check in CHECKS} == seen | never_here


def test_an_empty_split_stops_before_the_checks(tmp_path: Path) -> None:
    nothing = Examples(texts=(), labels=np.array([], np.int64))
    task = Sound(lambda data: dataclasses.replace(data, test=nothing))
    with pytest.raises(TaskError, match=r"load\(\) must give at least one example to test"):
        results_of(task, tmp_path)


def write_letters(folder: Path, body: str) -> Source:
    """Write a plugin whose task holds some texts, and return how to find it."""
    package = folder / "letters"
    package.mkdir(parents=True)
    source = f"""
        import os
        from coral.tasks import (
            CLASSIFICATION_METRICS, classification_data, score_classification
        )
        class Letters:
            name, primary_metric, metrics = "letters", "auroc", CLASSIFICATION_METRICS
            def load(self, context):
                texts = [f"{{c}}{{i}}" for c in "ab" for i in range(50)]
                {body}
                return classification_data(texts, [text[0] for text in texts])
            def score(self, labels, predictions):
                return score_classification(labels, predictions)
        TASKS = {{"letters": Letters}}
    """
    (package / "__init__.py").write_text(dedent(source))
    return Source(name="letters", folders=(folder,))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("pass", ""),
        ("texts.append(f'a{os.getpid()}')", "another process must load the same data; it did not"),
        (
            "assert os.environ.get('PYTHONHASHSEED') != '4711', 'not here'",
            "another process must build and load it, but: ",
        ),
    ],
)
def test_another_process_must_load_the_same(tmp_path: Path, body: str, told: str) -> None:
    source = write_letters(tmp_path / "plugins", body)
    subject = Subject(calls=source.calls(), cache_dir=tmp_path, source=source)
    if told:
        with pytest.raises(task_checks.CheckError, match=told):
            task_checks.another_process_builds_and_loads_the_same_data(subject)
    else:
        task_checks.another_process_builds_and_loads_the_same_data(subject)


def test_the_digest_of_data_tells_texts_labels_and_names_apart() -> None:
    rng = stream(0, "digest")
    data = Sound().load(DataContext(cache_dir=Path()))
    others = [
        with_train(texts=(*data.train.texts[1:], data.train.texts[0]))(data),
        with_train(labels=rng.permutation(data.train.labels))(data),
        dataclasses.replace(data, label_names=("good", "bad")),
        dataclasses.replace(data, train=data.test, test=data.train),
    ]
    assert len({digest_of(each) for each in (data, *others)}) == 5
    assert digest_of(Sound().load(DataContext(cache_dir=Path()))) == digest_of(data)
