"""Strategies of plugins: found, checked as they are imported, and handed out by name."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from coral.errors import StrategyError
from coral.plan import CURRICULA
from coral.tasks import Plugin, Registry, discover, registry

BY_AGE = "def by_age(pool, count, rng):\n    return range(count)\n"


@pytest.fixture(autouse=True)
def nothing_bundled_or_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "bundled_folder", lambda kind: tmp_path / "nothing" / kind)
    monkeypatch.setattr(registry, "entry_points", lambda group: ())


@pytest.fixture(autouse=True)
def modules_restored() -> Any:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write_plugin(folder: Path, source: str, **modules: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(dedent(source))
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    return folder


def plugin_of(folder: Path, source: str) -> Plugin:
    [plugin] = discover([write_plugin(folder / "mine", source)]).plugins
    return plugin


def providing(kind: str, *names: str, plugin: str = "mine", digest: str = "abc") -> Plugin:
    def strategy(name: str) -> Any:
        return lambda *_: f"{plugin}.{name}"

    strategies = {kind: {name: strategy(name) for name in names}}
    return Plugin(name=plugin, origin="here", strategies=strategies, digest=digest)


def test_a_plugin_may_have_strategies_and_no_task(tmp_path: Path) -> None:
    source = f"{BY_AGE}SELECTIONS = {{'by_age': by_age}}\nCURRICULA = {{}}\n"
    found = discover([write_plugin(tmp_path / "mine", source)])
    assert found.plugins[0].error is None
    assert found.task_names() == ()
    assert found.strategy_names()["selections"] == ("nsga2", "nsga3", "tournament", "by_age")
    assert found.strategies([("selections", "by_age")]).selections["by_age"](None, 2, None) == (  # type: ignore[arg-type]
        range(2)
    )


def test_a_package_without_any_mapping_is_still_a_broken_plugin(tmp_path: Path) -> None:
    assert "TASKS must be a mapping" in (plugin_of(tmp_path, "x = 1").error or "")


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("SAMPLERS = ['a']", "SAMPLERS must be a mapping of names to strategies"),
        ("SAMPLERS = {'a': 3}", "SAMPLERS must map names to callables, got 'a': 3"),
        ("SAMPLERS = {'a.b': max}", "a name is a letter, then letters, digits, _ or -, got 'a.b'"),
        ("CURRICULA = {'none': max}", "CURRICULA must not redefine 'none', which Coral brings"),
        ("OBJECTIVES = {'a': max}", "'a' must have a direction, 'max' or 'min', got None"),
    ],
)
def test_a_mapping_that_breaks_the_rules_breaks_the_plugin(
    source: str, rule: str, tmp_path: Path
) -> None:
    plugin = plugin_of(tmp_path, source)
    assert rule in (plugin.error or "")
    assert not plugin.strategies


def test_corals_own_strategies_are_always_there() -> None:
    own = Registry(plugins=()).strategies(())
    assert own.curricula == CURRICULA
    assert set(own.samplers) == {"uniform", "balanced"}
    assert set(own.loss_weightings) == {"none", "inverse_frequency"}


def test_a_strategy_that_nobody_provides_is_refused_with_those_that_exist() -> None:
    broken = Plugin(name="broken", origin="there", error="SyntaxError: no")
    found = Registry(plugins=(providing("samplers", "by_age"), broken))
    with pytest.raises(StrategyError) as caught:
        found.strategies([("samplers", "by_ago")])
    told = str(caught.value)
    assert "samplers.by_ago: no plugin provides it (did you mean 'by_age'?)." in told
    assert "Those that exist: uniform, balanced, by_age. Name a folder" in told
    assert "Broken plugin broken (there): SyntaxError: no" in told


def test_a_strategy_that_two_plugins_provide_is_refused_only_where_it_is_used() -> None:
    two = (providing("samplers", "odd", "even"), providing("samplers", "odd", plugin="other"))
    found = Registry(plugins=two)
    assert found.strategies([("samplers", "even")]).samplers["even"](None, None) == "mine.even"  # type: ignore[arg-type,comparison-overlap]
    with pytest.raises(StrategyError, match=r"exactly one plugin must provide it, got mine \(here"):
        found.strategies([("samplers", "odd")])


def test_an_installed_plugin_provides_strategies_by_their_own_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "ages.py"
    source.write_text(f"{BY_AGE}SELECTIONS = {{'by_age': by_age}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint(name="ages", value="ages:SELECTIONS", group="coral.selections"),
        EntryPoint(name="odd", value="ages:by_age", group="coral.samplers"),
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point for point in points if point.group == group]
    )
    ages, odd = discover().plugins
    assert list(ages.strategies["selections"]) == ["by_age"]
    assert ages.tasks == {}
    assert "SAMPLERS must be a mapping" in (odd.error or "")
    [before] = discover().strategy_digests([("selections", "by_age")]).values()
    source.write_text(source.read_text() + "# changed\n")
    [after] = discover().strategy_digests([("selections", "by_age")]).values()
    assert before != after


def test_a_plugins_identity_follows_every_python_file_in_it_and_its_version(tmp_path: Path) -> None:
    source = f"{BY_AGE}SELECTIONS = {{'by_age': by_age}}\n"

    def digest(name: str, text: str, **modules: str) -> str:
        found = discover([write_plugin(tmp_path / name / "mine", text, **modules)])
        return found.strategy_digests([("selections", "by_age")])["selections.by_age"]

    same = digest("one", source, other="x = 1")
    assert digest("two", source, other="x = 1") == same
    assert digest("three", source, other="x = 2") != same
    assert digest("four", source, another="x = 1") != same
    assert digest("five", f"__version__ = '2'\n{source}", other="x = 1") != same


def test_a_plugin_without_strategies_is_not_read_for_its_identity(tmp_path: Path) -> None:
    assert plugin_of(tmp_path, "TASKS = {}").digest == ""


def test_objectives_are_listed_with_the_direction_that_is_better() -> None:
    objective = ModuleType("objective")
    objective.direction = "min"  # type: ignore[attr-defined]
    plugin = Plugin(name="mine", origin="here", strategies={"objectives": {"size": objective}})
    assert Registry(plugins=(plugin,)).objective_directions() == {"size": "min"}
