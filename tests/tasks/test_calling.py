"""Plugins that raise, hang or answer with something else: one message each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coral.errors import TaskError
from coral.ports import DataContext, Examples, Proxy, TaskData
from coral.tasks import TaskCalls
from coral.tasks.registry import Plugin, Registry

PLUGIN = f"letters ({Path(__file__).parent})"
FEW = Examples(texts=("a", "b"), labels=np.array([0, 1]))
DATA = TaskData(train=FEW, validation=FEW, test=FEW, label_names=("x", "y"))


class Fake:
    """A task that does what a test gives it to do."""

    def __init__(self, load: Callable[[], Any] = lambda: DATA, **brought: Any) -> None:
        self.name = "fake"
        self.metrics = {"auroc": "max"}
        self.primary_metric = "auroc"
        self._load = load
        vars(self).update(brought)

    def load(self, context: DataContext) -> Any:
        return self._load()

    def score(self, labels: Any, probabilities: Any) -> dict[str, float]:
        return {"auroc": 0.5}


def calls(task: Any, seconds: float | None = 60) -> TaskCalls:
    plugin = Plugin(name="letters", origin=str(Path(__file__).parent))
    return TaskCalls(task=task, plugin=plugin, timeout_seconds=seconds)


def error_of(function: Callable[[], object]) -> str:
    with pytest.raises(TaskError) as caught:
        function()
    return str(caught.value)


def load(task: Fake, seconds: float | None = 60) -> TaskData:
    return calls(task, seconds).load(DataContext(cache_dir=Path()))


def test_what_a_task_loads_comes_through() -> None:
    assert load(Fake()) is DATA


def test_what_load_raises_names_the_plugin_the_method_and_the_line() -> None:
    told = error_of(lambda: load(Fake(lambda: {}[3])))
    assert told.startswith("task 'fake': load() raised KeyError: 3 (")
    assert "test_calling.py:" in told
    assert f"Correct the plugin {PLUGIN}" in told


def test_an_exit_inside_of_load_ends_no_process() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert "load() raised SystemExit: 3" in error_of(lambda: load(Fake(leave)))


def test_an_error_that_the_plugin_words_itself_stays_as_it_is() -> None:
    def complain() -> None:
        raise TaskError("reviews.csv is empty.\nFill it.")

    assert error_of(lambda: load(Fake(complain))) == "reviews.csv is empty.\nFill it."


def test_a_load_that_hangs_ends_in_one_message_that_says_where_it_stands() -> None:
    def hang() -> None:
        time.sleep(30)

    started = time.monotonic()
    told = error_of(lambda: load(Fake(hang), seconds=0.1))
    assert time.monotonic() - started < 5
    assert "load() took longer than task_timeout_seconds = 0.1; it stands in hang (" in told
    assert PLUGIN in told


@pytest.mark.parametrize(
    ("loaded", "told"),
    [
        (None, "must return a coral.ports.TaskData, got NoneType"),
        (
            TaskData(train=("a",), validation=FEW, test=FEW, label_names=("x",)),  # type: ignore[arg-type]
            "must give coral.ports.Examples as train, got tuple",
        ),
        (
            TaskData(
                train=FEW,
                validation=FEW,
                test=Examples(texts=(), labels=np.array([], np.int64)),
                label_names=("x",),
            ),
            "must give at least one example to test, got none",
        ),
        (
            replace(DATA, problem="ranking"),  # type: ignore[arg-type]
            "must name a problem (single_label, multi_label, regression, causal_lm), got 'ranking'",
        ),
    ],
)
def test_what_is_no_data_is_refused(loaded: Any, told: str) -> None:
    assert f"load() {told}" in error_of(lambda: load(Fake(lambda: loaded)))


def test_a_task_without_capabilities_is_asked_for_none() -> None:
    assert calls(Fake()).difficulty(FEW) is None
    assert calls(Fake()).domains(FEW) is None


def test_difficulty_and_domains_come_through() -> None:
    task = Fake(difficulty=lambda examples: [2, 1], domains=lambda examples: ["shop", "web"])
    difficulty = calls(task).difficulty(FEW)
    assert difficulty is not None
    assert difficulty.tolist() == [2.0, 1.0]
    assert calls(task).domains(FEW) == ("shop", "web")


@pytest.mark.parametrize(
    ("capability", "answer", "told"),
    [
        ("difficulty", [1.0], "got shape (1,) for 2 examples"),
        ("difficulty", [1.0, float("nan")], "got nan for example 1"),
        ("difficulty", ["easy", "hard"], "could not convert string to float"),
        ("domains", "ab", "got str"),
        ("domains", ["shop"], "got 1 for 2 examples"),
        ("domains", ["shop", 3], "got 3"),
    ],
)
def test_a_malformed_answer_about_examples_is_refused(
    capability: str, answer: Any, told: str
) -> None:
    task = Fake(**{capability: lambda examples: answer})
    message = error_of(lambda: getattr(calls(task), capability)(FEW))
    assert message.startswith(f"task 'fake': {capability}() must return one ")
    assert told in message
    assert PLUGIN in message


def test_what_difficulty_raises_names_the_plugin_and_the_method() -> None:
    task = Fake(difficulty=lambda examples: 1 / 0)
    told = error_of(lambda: calls(task).difficulty(FEW))
    assert "difficulty() raised ZeroDivisionError" in told
    assert PLUGIN in told


class RaisingMetrics(Fake):
    @property
    def metrics(self) -> Any:
        raise ValueError("no metrics today")

    @metrics.setter
    def metrics(self, value: Any) -> None: ...


class RaisingGenes(Fake):
    @property
    def genes(self) -> Any:
        raise ValueError("no genes today")


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (RaisingMetrics(), "its metrics raised ValueError: no metrics today"),
        (RaisingGenes(), "asking what it brings raised ValueError: no genes today"),
        (Fake(metrics={"auroc": "up"}), "metrics must map names to max or min"),
        (Fake(metrics=["auroc"]), "metrics must map names to max or min"),
        (Fake(name=3), "its name must be a text, got 3"),
        (Fake(genes=["lora_r"]), "genes must map fields of the plan to genes"),
        (Fake(genes={1: [1, 2]}), "genes must map fields of the plan to genes"),
        (Fake(proxies={"margin": 1}), "proxies must map names to coral.ports.Proxy"),
        (Fake(proxies=["margin"]), "proxies must map names to coral.ports.Proxy"),
        (Fake(profile=3), "profile must be a profile's name or its path, got 3"),
        (Fake(profile=Path("absent.yaml")), "profile must be a file that exists"),
        (Fake(difficulty=3), "difficulty must be a method"),
        (Fake(views=["loud"]), "a task with views must have the method view"),
        (Fake(views=["loud"], view=print), "a task with views must have the method score_views"),
        (
            Fake(views="loud", view=print, score_views=print),
            "views must be names of views, got str",
        ),
        (Fake(views=["plain"], view=print, score_views=print), "views other than 'plain'"),
        (Fake(collate=print), "a task with collate must have the method lengths"),
    ],
)
def test_a_malformed_task_is_refused_when_it_is_built(task: Any, told: str) -> None:
    origin = str(Path(__file__).parent)
    plugin = Plugin(name="letters", origin=origin, tasks={"fake": lambda: task})
    other = Plugin(name="other", origin="/plugins/other", tasks={"fine": Fake})
    registry = Registry(plugins=(plugin, other))
    message = error_of(lambda: registry.build("fake", {}))
    assert told in message
    assert f"Correct the plugin {PLUGIN}" in message
    assert registry.build("fine", {}).name == "fake"


@pytest.mark.parametrize(
    ("stage", "name", "told"),
    [
        (-1, "margin", "proxies.margin.stage must be a stage's index >= 0, got -1"),
        (0, "auroc", "proxies.auroc must not have the name of a metric"),
    ],
)
def test_a_malformed_proxy_is_refused(stage: int, name: str, told: str) -> None:
    task = Fake(proxies={name: Proxy(score=lambda labels, predictions: 0.0, stage=stage)})
    plugin = Plugin(name="letters", origin="/plugins/letters", tasks={"fake": lambda: task})
    assert told in error_of(lambda: Registry(plugins=(plugin,)).build("fake", {}))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stands_for": "f1"}, "proxies.margin.stands_for must be a metric, got 'f1'"),
        ({"view": "loud"}, "proxies.margin.view must be a view of the task, got 'loud'"),
    ],
)
def test_a_proxy_of_what_does_not_exist_is_refused(options: dict[str, str], told: str) -> None:
    task = Fake(proxies={"margin": Proxy(score=lambda labels, predictions: 0.0, **options)})
    plugin = Plugin(name="letters", origin="/plugins/letters", tasks={"fake": lambda: task})
    assert told in error_of(lambda: Registry(plugins=(plugin,)).build("fake", {}))


def test_a_factory_that_exits_is_refused_like_one_that_raises() -> None:
    def factory() -> Any:
        raise SystemExit("bye")

    plugin = Plugin(name="letters", origin="/plugins/letters", tasks={"fake": factory})
    assert "SystemExit: bye" in error_of(lambda: Registry(plugins=(plugin,)).build("fake", {}))
