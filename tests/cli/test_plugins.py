"""``coral plugins new`` and ``check`` as an author meets them, and bad plugins as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from typer.testing import CliRunner

from coral.cli.app import app
from coral.compose import Source, find_config, load
from tests.tiny import write_project

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def invoke(*arguments: str, code: int = 0) -> str:
    """Run a command, and return what it said, results first."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout + result.stderr


def write_plugin(folder: str, source: str) -> Path:
    package = Path(folder)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(dedent(source))
    return package


FAKE = """
from coral.tasks import CLASSIFICATION_METRICS, classification_data, score_classification

class Fake:
    name, primary_metric, metrics = "fake", "auroc", CLASSIFICATION_METRICS
    def load(self, context):
        texts = [f"{c}{i}" for c in "ab" for i in range(50)]
        return classification_data(texts, [text[0] for text in texts])
    def score(self, labels, predictions):
        return score_classification(labels, predictions)

TASKS = {"fake": Fake}
"""


class TestNew:
    def test_what_is_written_passes_its_own_checks_and_test(self) -> None:
        told = invoke("plugins", "new", "product_reviews")
        folder = Path("plugins/product_reviews")
        assert told.endswith(
            f"next: coral plugins check {folder}    coral evolve product_reviews.yaml"
            f"    pytest {folder}\n"
        )
        assert told.count("wrote ") == 6
        for wanted in ("product_reviews", str(folder), f"{folder}/"):
            assert "all 18 checks passed" in invoke("plugins", "check", wanted)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
        done = subprocess.run(
            command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        assert "18 passed" in done.stdout

    def test_its_config_is_valid_and_its_evolution_can_be_simulated(self) -> None:
        invoke("plugins", "new", "reviews", "--output", "project")
        spec = load(Source(path=Path("project/reviews.yaml")), {}).spec
        assert spec.tasks[0].name == "reviews"
        invoke("evolve", "project/reviews.yaml", "--simulate")
        assert Path("runs/reviews-simulated/champion").is_dir()

    def test_it_tells_machines_what_it_wrote(self) -> None:
        facts = json.loads(invoke("plugins", "new", "reviews", "--json"))
        assert all(Path(file).is_file() for file in facts["files"])
        assert facts["config"] == "reviews.yaml"

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("Reviews", "must be a lower-case Python identifier, got 'Reviews'"),
            ("my-reviews", "must be a lower-case Python identifier, got 'my-reviews'"),
            ("../reviews", "must be a lower-case Python identifier, got '../reviews'"),
            ("_reviews", "must be a lower-case Python identifier, got '_reviews'"),
            ("", "must be a lower-case Python identifier, got ''"),
            ("kritik_für", "must be a lower-case Python identifier"),
            ("class", "must not be that of a Python module, got 'class'"),
            ("json", "must not be that of a Python module, got 'json'"),
            ("numpy", "must not be that of a Python module, got 'numpy'"),
            ("docstrings", "a plugin or task named 'docstrings' exists"),
            ("docstring_kind", "a plugin or task named 'docstring_kind' exists"),
        ],
    )
    def test_a_name_that_can_not_be_used_is_refused(self, name: str, told: str) -> None:
        assert told in invoke("plugins", "new", name, code=2)
        assert not Path("plugins").exists()

    def test_the_name_of_a_plugin_of_the_project_is_refused(self) -> None:
        write_plugin("project/plugins/letters", FAKE)
        for name in ("letters", "fake"):
            told = invoke("plugins", "new", name, "-o", "project", code=2)
            assert f"named {name!r} exists" in told

    @pytest.mark.parametrize("taken", ["plugins/reviews/notes.txt", "reviews.yaml"])
    def test_nothing_is_overwritten(self, taken: str) -> None:
        Path(taken).parent.mkdir(parents=True, exist_ok=True)
        Path(taken).write_text("mine")
        assert "must not be there yet" in invoke("plugins", "new", "reviews", code=2)
        assert Path(taken).read_text() == "mine"
        assert not Path("plugins/reviews/task.py").exists()

    def test_a_folder_that_can_not_be_made_is_one_message(self) -> None:
        Path("project").write_text("a file")
        told = invoke("plugins", "new", "reviews", "--output", "project", code=2)
        assert "can't be written" in told


class TestCheck:
    def test_a_failed_check_says_rule_and_remedy_and_exits_with_1(self) -> None:
        write_plugin("plugins/letters", FAKE.replace("range(50)", "range(30)"))
        source = Path("plugins/letters/__init__.py")
        source.write_text(
            source.read_text().replace(
                "return score_classification(labels, predictions)",
                "return {**score_classification(labels, predictions), 'auroc': float('nan')}",
            )
        )
        told = invoke("plugins", "check", "letters", code=1)
        assert "FAILED  scores are finite and have the declared names" in told
        assert "auroc must be finite on perfect predictions, got nan\n" in told
        assert "  Define the metric where" in told
        assert told.endswith("failed: fake\n")

    def test_it_tells_machines_the_result_of_each_check(self) -> None:
        write_plugin("plugins/letters", FAKE)
        facts = json.loads(invoke("plugins", "check", "fake", "--json"))
        assert facts["passed"] is True
        [task] = facts["tasks"]
        assert (task["task"], len(task["checks"])) == ("fake", 18)
        assert {"check", "passed", "rule", "remedy"} == set(task["checks"][0])

    def test_options_reach_the_task_and_other_folders_the_registry(self) -> None:
        source = FAKE.replace(
            'name, primary_metric, metrics = "fake",', "primary_metric, metrics ="
        )
        source = source.replace(
            "def load", "def __init__(self, size): self.size = size\n    def load"
        )
        source = source.replace("range(50)", "range(self.size)").replace(
            "class Fake:", 'class Fake:\n    name = "fake"'
        )
        write_plugin("elsewhere/letters", source)
        found = ("--plugins", "elsewhere")
        assert "all 18 checks" in invoke("plugins", "check", "fake", *found, "--options", "size=60")
        told = invoke("plugins", "check", "fake", *found, code=1)
        assert "the option 'size' is required" in told
        told = invoke("plugins", "check", "fake", *found, "--options", "size", code=2)
        assert "an override is KEY=VALUE" in told

    @pytest.mark.parametrize(
        ("wanted", "told"),
        [
            ("nothing", "task 'nothing': no plugin provides it"),
            ("plugins/", "must be a plugin's folder, it has no __init__.py"),
            ("broken", "can't be imported: ZeroDivisionError: division by zero ("),
            ("plugins/broken", "can't be imported: ZeroDivisionError: division by zero ("),
        ],
    )
    def test_what_can_not_be_checked_exits_with_2(self, wanted: str, told: str) -> None:
        write_plugin("plugins/broken", "1 / 0")
        assert told in invoke("plugins", "check", wanted, code=2)

    def test_a_load_that_hangs_ends_with_the_limit(self) -> None:
        source = FAKE.replace("texts = [", "import time; time.sleep(60)\n        texts = [")
        write_plugin("plugins/letters", source)
        told = invoke("plugins", "check", "fake", "--timeout", "1", code=1)
        assert "load() took longer than task_timeout_seconds = 1; it stands in load (" in told
        assert "letters/__init__.py:" in told

    def test_a_task_that_another_plugin_of_the_project_has_too_fails(self) -> None:
        write_plugin("elsewhere/letters", FAKE)
        assert "fake" in invoke("plugins", "check", "elsewhere/letters")
        write_plugin("plugins/others", FAKE)
        told = invoke("plugins", "check", "elsewhere/letters", code=1)
        assert "exactly one plugin must provide it" in " ".join(told.split())
        assert "plugins/others" in "".join(told.split())

    def test_it_needs_neither_pytest_nor_torch(self) -> None:
        write_plugin("plugins/letters", FAKE)
        code = (
            "import sys; sys.modules['pytest'] = None;"
            "from coral.authoring import check_plugin;"
            "assert check_plugin('fake')['passed'];"
            "print(*{'torch', 'transformers'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "\n"


class TestList:
    def test_tasks_of_two_plugins_are_marked(self) -> None:
        write_plugin("plugins/letters", FAKE)
        write_plugin("plugins/others", FAKE)
        told = invoke("plugins")
        assert "letters  fake  (another plugin has fake too)" in told
        listed = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json"))}
        assert listed["others"]["clashes"] == ["fake"]
        assert listed["docstrings"]["clashes"] == []


def test_options_before_a_command_are_not_swallowed() -> None:
    told = invoke("plugins", "--json", "check", "docstrings", code=2)
    assert "write options behind the command" in told


class TestBadPlugins:
    """A bad plugin is one message that names it; the others work on."""

    BAD = (
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            "def refuse(): raise RuntimeError('not today')\nTASKS = {'bad': refuse}",
            "its factory refused the options {}: RuntimeError: not today",
        ),
        (
            "class Bad:\n    name = 'bad'\n    primary_metric = 'f1'\n"
            "    load = score = None\n    @property\n    def metrics(self): return 1 / 0\n"
            "TASKS = {'bad': Bad}",
            "its metrics raised ZeroDivisionError: division by zero (",
        ),
        (
            FAKE.replace("fake", "bad") + "Fake.genes = 3\n",
            "genes must map fields of the plan to genes, as search_space does, got int",
        ),
    )

    @pytest.mark.parametrize(
        ("source", "told"), BAD, ids=["import", "exit", "factory", "metrics", "genes"]
    )
    def test_it_is_named_where_it_is_used_and_harms_nobody_else(
        self, source: str, told: str
    ) -> None:
        write_plugin("plugins/rotten", source)
        write_plugin("plugins/letters", FAKE)
        Path("bad.yaml").write_text("base_model: org/encoder\ntasks: [bad]\n")
        Path("good.yaml").write_text("base_model: org/encoder\ntasks: [fake]\n")
        message = invoke("evolve", "bad.yaml", "--simulate", code=2)
        assert told in message
        assert "plugins/rotten" in message
        assert "Traceback" not in message
        invoke("evolve", "good.yaml", "--simulate")
        listed = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json"))}
        assert listed["letters"]["tasks"] == ["fake"]

    def test_a_name_clash_names_both_and_stops_only_who_uses_it(self) -> None:
        write_plugin("plugins/one", FAKE)
        write_plugin("plugins/two", FAKE)
        Path("bad.yaml").write_text("base_model: org/encoder\ntasks: [fake]\n")
        Path("good.yaml").write_text("base_model: org/encoder\ntasks: [docstring_kind]\n")
        message = invoke("evolve", "bad.yaml", "--simulate", code=2)
        assert "exactly one plugin must provide it" in message
        assert "plugins/one" in message
        assert "plugins/two" in message
        invoke("evolve", "good.yaml", "--simulate")

    def test_a_load_that_raises_is_named_before_anything_is_written(self, here: Path) -> None:
        write_project(here)
        plugin = Path("plugins/toy/__init__.py")
        plugin.write_text(plugin.read_text().replace("return TaskData(", "return 1 / 0, TaskData("))
        message = invoke("data", "toy.yaml", code=2)
        assert "task 'colours': load() raised ZeroDivisionError: division by zero (" in message
        assert f"{here}/plugins/toy/__init__.py:" in message
        assert f"Correct the plugin toy ({here}/plugins/toy)" in message


@pytest.mark.parametrize(
    "command",
    [
        ("evolve", "--simulate"),
        ("record", "--simulate", "--trials", "4"),
        ("compare", "--simulate", "--population", "2", "--generations", "1"),
        ("evolve", "--simulate", "--dry-run"),
        ("data",),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_command_with_a_config_finds_plugins_elsewhere(
    command: tuple[str, ...], here: Path
) -> None:
    write_project(here)
    Path("plugins").rename("elsewhere")
    assert "no plugin provides it" in invoke(command[0], "toy.yaml", *command[1:], code=2)
    invoke(command[0], "toy.yaml", *command[1:], "--plugins", "elsewhere")


def test_the_bundled_configs_load_with_the_plugins_of_their_tasks() -> None:
    assert load(Source(path=find_config("quickstart")), {}).spec.tasks
