from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from coral.bundled import bundled_folder
from coral.errors import TaskError
from coral.ports import DataContext
from coral.tasks import Plugin, Registry, discover, registry

TASK_SOURCE = """
from dataclasses import dataclass

@dataclass
class Fake:
    size: int = 3
    @property
    def name(self): return "fake"
    @property
    def metrics(self): return {"auroc": "max"}
    @property
    def primary_metric(self): return "auroc"
    def load(self, context): raise NotImplementedError
    def score(self, labels, probabilities): return {"auroc": 0.5}
"""


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


def write_plugin(folder: Path, name: str, source: str, **modules: str) -> Path:
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(dedent(source))
    for module, text in modules.items():
        (package / f"{module}.py").write_text(dedent(text))
    return package


def write_fake(folder: Path, name: str, task: str) -> Path:
    source = f"from .tasks import Fake\n__version__ = '1.2'\nTASKS = {{{task!r}: Fake}}\n"
    return write_plugin(folder, name, source, tasks=TASK_SOURCE)


def registry_of(**tasks: Any) -> Registry:
    return Registry(plugins=(Plugin(name="inline", origin="here", tasks=tasks),))


def test_a_folder_plugin_is_found_and_its_task_is_built(tmp_path: Path) -> None:
    package = write_fake(tmp_path / "own", "letters", "vowels")
    found = discover([tmp_path / "own"])
    assert [(p.name, p.origin, p.version, p.error) for p in found.plugins] == [
        ("letters", str(package), "1.2", None)
    ]
    assert found.task_names() == ("vowels",)
    assert vars(found.build("vowels", {"size": 5})) == {"size": 5}


def test_a_folder_that_is_a_plugin_itself_is_taken_as_one(tmp_path: Path) -> None:
    package = write_fake(tmp_path, "letters", "vowels")
    assert discover([package]).task_names() == ("vowels",)


def test_plugins_beside_the_config_are_found_and_may_be_absent(tmp_path: Path) -> None:
    assert discover(config_folder=tmp_path).plugins == ()
    write_fake(tmp_path / "plugins", "letters", "vowels")
    assert discover(config_folder=tmp_path).task_names() == ("vowels",)


def test_plugins_come_in_the_order_named_beside_bundled_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake(tmp_path / "named", "z_named", "a")
    write_fake(tmp_path / "plugins", "y_beside", "b")
    write_fake(tmp_path / "bundled", "x_bundled", "c")
    monkeypatch.setattr(registry, "bundled_folder", lambda kind: tmp_path / "bundled")
    point = EntryPoint(name="installed", value="json:no_such", group="coral.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda group: (point,))
    found = discover([tmp_path / "named"], config_folder=tmp_path)
    names = [plugin.name for plugin in found.plugins]
    assert names == ["z_named", "y_beside", "x_bundled", "installed"]


def test_the_bundled_plugins_of_a_checkout_lie_beside_the_package() -> None:
    assert (bundled_folder("plugins") / "docstrings" / "__init__.py").is_file()


def test_the_same_folder_reached_twice_is_one_plugin(tmp_path: Path) -> None:
    package = write_fake(tmp_path / "plugins", "letters", "vowels")
    (tmp_path / "link").symlink_to(tmp_path / "plugins")
    (tmp_path / "package_link").symlink_to(package)
    folders = [tmp_path / "plugins", tmp_path / "link", package, tmp_path / "package_link"]
    assert len(discover(folders, config_folder=tmp_path).plugins) == 1


def test_folders_without_init_and_hidden_ones_are_no_plugins(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    write_fake(tmp_path, ".hidden", "a")
    write_fake(tmp_path, "_private", "b")
    assert discover([tmp_path]).plugins == ()


def test_a_named_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"absent: it must be an existing folder\.\nCorrect"):
        discover([tmp_path / "absent"])


def test_plugins_of_the_same_name_live_side_by_side_and_off_the_path(tmp_path: Path) -> None:
    path = list(sys.path)
    write_fake(tmp_path / "one", "letters", "a")
    write_fake(tmp_path / "two", "letters", "b")
    found = discover([tmp_path / "one", tmp_path / "two"])
    assert type(found.build("a", {})) is not type(found.build("b", {}))
    assert sys.path == path


def test_discovering_again_gives_the_same_classes(tmp_path: Path) -> None:
    write_fake(tmp_path, "letters", "vowels")
    first, second = (discover([tmp_path]).build("vowels", {}) for _ in range(2))
    assert type(first) is type(second)


def test_a_broken_plugin_keeps_its_error_and_harms_no_other(tmp_path: Path) -> None:
    broken = write_plugin(
        tmp_path, "broken", "from . import part\n", part="x = 1\nimport no_such_module\n"
    )
    write_fake(tmp_path, "letters", "vowels")
    before = set(sys.modules)
    found = discover([tmp_path])
    assert found.task_names() == ("vowels",)
    expected = "ModuleNotFoundError: No module named 'no_such_module'"
    assert found.plugins[0].error == f"{expected} ({broken / 'part.py'}:2)"
    assert not [name for name in set(sys.modules) - before if "broken" in name]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("", "TypeError: TASKS must be a mapping of task names to factories, got None"),
        ("TASKS = {'a': 1}", "TypeError: TASKS must map names to factories, got 'a': 1"),
        ("TASKS = {", "SyntaxError: '{' was never closed (__init__.py, line 1)"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
    ],
)
def test_a_plugin_without_usable_tasks_says_why(tmp_path: Path, source: str, error: str) -> None:
    write_plugin(tmp_path, "odd", source)
    (plugin,) = discover([tmp_path]).plugins
    assert plugin.tasks == {}
    assert plugin.error is not None
    assert plugin.error.startswith(error)


def test_an_unknown_task_is_answered_with_those_that_exist_and_with_broken_plugins(
    tmp_path: Path,
) -> None:
    write_fake(tmp_path, "letters", "vowels")
    write_plugin(tmp_path, "broken", "1 / 0")
    with pytest.raises(TaskError) as caught:
        discover([tmp_path]).build("vowel", {})
    first, second, third = str(caught.value).splitlines()
    assert first == "task 'vowel': no plugin provides it (did you mean 'vowels'?)."
    assert second.startswith("Tasks that exist: vowels.")
    assert third.startswith(f"Broken plugin broken ({tmp_path / 'broken'}): ZeroDivisionError")


def test_a_task_of_two_plugins_is_refused_only_when_it_is_built(tmp_path: Path) -> None:
    write_fake(tmp_path, "one", "vowels")
    write_fake(tmp_path, "two", "vowels")
    write_fake(tmp_path, "three", "digits")
    found = discover([tmp_path])
    assert found.task_names() == ("digits", "vowels")
    found.build("digits", {})
    with pytest.raises(TaskError) as caught:
        found.build("vowels", {})
    assert str(tmp_path / "one") in str(caught.value)
    assert str(tmp_path / "two") in str(caught.value)


def test_an_unknown_option_is_answered_with_the_options_that_exist() -> None:
    def factory(*, size: int = 3, seed: int = 0) -> None: ...

    with pytest.raises(TaskError) as caught:
        registry_of(vowels=factory).build("vowels", {"sizes": 4})
    assert str(caught.value) == (
        "task 'vowels': 'sizes' isn't one of its options (did you mean 'size'?).\n"
        "Remove it; the options are seed, size."
    )


def test_a_missing_option_is_named() -> None:
    def factory(*, path: str) -> None: ...

    with pytest.raises(TaskError, match="the option 'path' is required"):
        registry_of(vowels=factory).build("vowels", {})


def test_a_value_that_the_factory_refuses_is_reported_with_its_reason() -> None:
    def factory(*, size: int) -> None:
        raise ValueError(f"size must be positive, got {size}")

    with pytest.raises(TaskError, match=r"ValueError: size must be positive, got -1") as caught:
        registry_of(vowels=factory).build("vowels", {"size": -1})
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_factory_that_takes_any_option_gets_them_all() -> None:
    def factory(**options: Any) -> Mapping[str, Any]:
        raise TaskError(f"got {options}")

    with pytest.raises(TaskError, match=r"^got {'depth': 1}$"):
        registry_of(vowels=factory).build("vowels", {"depth": 1})


def test_what_is_not_a_task_is_refused() -> None:
    with pytest.raises(TaskError, match=r"got dict without name, metrics, .*load, score"):
        registry_of(vowels=dict).build("vowels", {})


def test_a_primary_metric_that_is_no_metric_is_refused(tmp_path: Path) -> None:
    wrong = TASK_SOURCE.replace('{"auroc": "max"}', '{"f1": "max"}')
    write_plugin(tmp_path, "odd", "from .tasks import Fake\nTASKS = {'a': Fake}\n", tasks=wrong)
    with pytest.raises(TaskError, match=r"one of its metrics \(f1\), got 'auroc'"):
        discover([tmp_path]).build("a", {})


def test_an_installed_plugin_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake(tmp_path, "letters_from_a_wheel", "vowels")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint(name="letters", value="letters_from_a_wheel:TASKS", group="coral.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda group: (point,))
    found = discover()
    assert found.plugins[0].origin == "letters_from_a_wheel:TASKS"
    assert vars(found.build("vowels", {})) == {"size": 3}


def test_an_installed_plugin_that_cannot_be_loaded_keeps_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint(name="gone", value="no_such_module:TASKS", group="coral.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda group: (point,))
    (plugin,) = discover().plugins
    assert plugin.error == "ModuleNotFoundError: No module named 'no_such_module'"


class TestSuggestions:
    """Who can look at somebody's data."""

    CONTEXT = DataContext(cache_dir=Path("unused"))

    def looking(self, found: dict[str, str] | str) -> Plugin:
        def suggest(
            data: str, context: DataContext, options: Mapping[str, Any]
        ) -> tuple[str, dict[str, Any]]:
            if isinstance(found, str):
                raise TaskError(found)
            return "able", {"path": data, **found, **options}

        return Plugin(name="looking", origin="here", suggest=suggest)

    def test_the_first_that_knows_the_data_suggests_its_options(self) -> None:
        one, two = self.looking("no texts"), self.looking({"text": "t"})
        able = Registry(plugins=(*registry_of(plain=object).plugins, one, two))
        assert able.suggest("d.csv", self.CONTEXT) == ("able", {"path": "d.csv", "text": "t"})
        given = able.suggest("d.csv", self.CONTEXT, {"text": "said"})
        assert given == ("able", {"path": "d.csv", "text": "said"})

    def test_where_none_does_the_first_says_why(self) -> None:
        blind = Registry(plugins=(self.looking("no texts"), self.looking("no images")))
        with pytest.raises(TaskError, match="no texts"):
            blind.suggest("d.csv", self.CONTEXT)

    def test_where_none_can_look_the_remedy_is_to_write_by_hand(self) -> None:
        with pytest.raises(TaskError, match="write the config by hand"):
            registry_of(plain=object).suggest("d.csv", self.CONTEXT)


HANGING = """
import time

def wait(size=3):
    time.sleep(600)

"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PATIENCE_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_an_import_that_never_ends_is_given_up_once_and_spares_the_others(tmp_path: Path) -> None:
    write_plugin(tmp_path, "endless", f"{HANGING}wait()\nTASKS = {{}}\n")
    write_fake(tmp_path, "quick", "fake")
    for patience in (10, 0.15):
        started = time.monotonic()
        endless, quick = discover([tmp_path]).plugins
        assert time.monotonic() - started < patience
        assert quick.error is None
        assert endless.error is not None
        assert "its import took longer than 0.2 s; it stands in wait (" in endless.error
        assert str(tmp_path / "endless" / "__init__.py") in endless.error


@pytest.mark.usefixtures("impatient")
def test_a_factory_that_never_ends_is_one_message_that_names_it(tmp_path: Path) -> None:
    write_plugin(tmp_path, "endless", f"{HANGING}TASKS = {{'slow': wait}}\n")
    with pytest.raises(TaskError) as error:
        discover([tmp_path]).build("slow", {})
    told = str(error.value)
    assert "task 'slow': its factory took longer than 0.2 s; it stands in wait (" in told
    assert "Correct the plugin endless" in told
