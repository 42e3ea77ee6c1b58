"""Simulated runs as a user meets them: never mistaken for real ones, and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import coral
from coral import compose
from coral.cli.app import app
from coral.records import Event
from coral.simulation import FORMAT, dump_profile, find_profile, read_profile

CONFIG = """\
base_model: package:not_installed/model
tasks: [docstring_kind]
search_space:
  lora_r: {low: 2, high: 16, log: true}
  learning_rate: {low: 5e-4, high: 5e-3, log: true}
evolution: {population_size: 4, generations: 2}
training_stages:
  - {name: short, epoch_budget: 0.2, data_percentage: 20, survival_rate: 0.5}
  - {name: long, epoch_budget: 1.0, data_percentage: 100, survival_rate: 0.5}
prune: []
execution: {workers: 3}
simulation:
  profile: mine.yaml
"""
RUN = "runs/tiny-simulated"
SOURCE = compose.Source(path=Path("tiny.yaml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a config and a profile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    (tmp_path / "mine.yaml").write_bytes(find_profile("minilm-docstrings").read_bytes())
    return tmp_path


def _coral(*arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command in this process and return what it says on stdout and on stderr."""
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def _json(*arguments: str) -> Any:
    return json.loads(_coral(*arguments, "--json")[0])


class StopAfter:
    """Interrupts a run after a number of events."""

    def __init__(self, events: int) -> None:
        self._left = events

    def on_event(self, event: Event, state: Any) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt

    def on_progress(self, progress: object) -> None: ...

    def on_notice(self, topic: str, text: str) -> None: ...


@pytest.fixture
def interrupted(here: Path) -> Path:
    """A simulated run that was interrupted within its first generation."""
    with pytest.raises(KeyboardInterrupt):
        coral.evolve("tiny.yaml", simulate=True, observer=StopAfter(3))
    return here / RUN


def test_a_simulated_run_is_called_so_wherever_it_is_shown(here: Path) -> None:
    out, errors = _coral("evolve", "tiny.yaml", "--simulate")
    assert errors.startswith("simulating with profile mine.yaml\n")
    assert "loading" not in errors
    for text in (out, _coral("show", RUN)[0]):
        assert text.startswith(f"{RUN}  simulated, finished")
        assert "on 3 virtual workers, simulated in" in text
    assert f"{RUN}  simulated  " in _coral("runs")[0]


def test_the_next_command_after_a_simulated_run_is_the_real_one(here: Path) -> None:
    last = f"next: coral show {RUN}    coral "
    given = ["tiny.yaml", "seed=3", "--simulate"]
    assert _coral("evolve", *given)[0].endswith(f"{last}evolve tiny.yaml seed=3\n")
    (here / "simulated.yaml").write_text(f"{CONFIG}mode: simulate\n")
    (here / "plug ins").mkdir()
    out, _ = _coral("evolve", "simulated.yaml", "--plugins", "plug ins")
    assert out.endswith("coral evolve simulated.yaml mode=real --plugins 'plug ins'\n")


def test_a_simulated_run_hands_over_plans_marked_as_simulated(here: Path) -> None:
    facts = coral.evolve("tiny.yaml", simulate=True)
    members = [f"pareto/trial-{row['trial']}" for row in facts["pareto"]]
    for folder in (here / RUN / name for name in ("champion", *members)):
        assert [file.name for file in folder.iterdir()] == ["coral.json"]
        assert json.loads((folder / "coral.json").read_text())["simulated"] is True


@pytest.mark.parametrize("folder", [RUN, f"{RUN}/champion"])
def test_a_simulated_run_cannot_predict(folder: str, here: Path) -> None:
    coral.evolve("tiny.yaml", simulate=True)
    out, errors = _coral("predict", folder, "some text", code=2)
    assert out == ""
    assert errors.startswith(f"coral: {folder} was simulated")
    with pytest.raises(coral.CoralError, match="was simulated"):
        coral.predict(folder, ["some text"])


def test_an_unfinished_simulated_run_does_not_promise_predictions(interrupted: Path) -> None:
    _, errors = _coral("predict", RUN, "some text", code=2)
    assert errors.startswith(f"coral: {RUN} was simulated")


def test_all_of_it_is_json_for_machines(here: Path) -> None:
    made = _json("evolve", "tiny.yaml", "--simulate")
    shown, (listed,) = _json("show", RUN), _json("runs")
    resumed = _json("resume", RUN)
    for facts in (made, shown, listed, resumed):
        assert (facts["mode"], facts["simulation"]["profile"]) == ("simulate", "mine.yaml")
        assert list(facts["makespan_seconds"]) == ["1", "2", "3", "4"]
        assert facts["workers"] == 3


def test_more_workers_never_take_longer(here: Path) -> None:
    seconds = list(coral.evolve("tiny.yaml", simulate=True)["makespan_seconds"].values())
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1] > 0


def test_a_recording_trains_every_genome_through_every_stage(here: Path) -> None:
    out, _ = _coral("record", "tiny.yaml", "--trials", "6", "--simulate")
    assert out.endswith("coral record tiny.yaml --trials 6\n")
    facts = _json("show", "runs/tiny-record-simulated")
    assert facts["trials"] == {"total": 6, "completed": 6, "pruned": 0, "failed": 0}
    again = coral.record("tiny.yaml", trials=6, simulate=True)
    assert again["run"] == "runs/tiny-record-simulated-2"
    assert again["trials"] == facts["trials"]


def test_a_dry_run_tells_how_far_stages_are_expected_to_agree(here: Path) -> None:
    out, _ = _coral("evolve", "tiny.yaml", "--simulate", "--dry-run")
    assert out.startswith("tiny  simulated  ")
    assert "of virtual time" in out
    assert "over the search space: short 0." in out
    assert not (here / "runs").exists()


@pytest.mark.parametrize("wanted", [-0.3, 0.1, 0.8])
def test_a_dry_run_tells_the_agreement_that_the_config_wants(wanted: float, here: Path) -> None:
    given = ["tiny.yaml", "--simulate", "--dry-run", f"simulation.agreement.short={wanted}"]
    found = _json("evolve", *given)["simulation"]["expected_agreement"]
    assert found == {"short": pytest.approx(wanted, abs=0.02)}


def test_an_agreement_is_null_where_every_genome_fails(here: Path) -> None:
    profile = read_profile(Path("mine.yaml"))
    surface = replace(profile.surface, collapse_rate=-9.0, collapse_width=0.01, nan_share=1.0)
    Path("mine.yaml").write_text(dump_profile(replace(profile, surface=surface)))
    spec = compose.load(SOURCE, {"mode": "simulate"}).spec
    assert compose.expected_agreement(spec, []) == {"short": None}


def test_a_dry_run_has_none_of_the_faults_of_the_run(here: Path) -> None:
    _coral("evolve", "tiny.yaml", "--simulate", "--dry-run", "simulation.faults.crash=1")


def test_a_config_for_gpus_is_simulated_without_one(here: Path) -> None:
    given = ["execution.device=cuda", "execution.workers=auto"]
    _coral("evolve", "tiny.yaml", "--simulate", "--dry-run", *given)


def test_an_interrupted_simulation_ends_as_if_it_had_not_been(interrupted: Path) -> None:
    text, _ = _coral("show", RUN)
    assert text.startswith(f"{RUN}  simulated, interrupted")
    out, errors = _coral("resume", RUN)
    assert errors.startswith("simulating with profile mine.yaml\n")
    assert out.startswith(f"{RUN}  simulated, finished")
    whole = coral.evolve("tiny.yaml", simulate=True)["run"]
    assert _coral("show", RUN, "--trials") == _coral("show", whole, "--trials")


def test_an_extended_run_counts_up_to_its_new_end(here: Path) -> None:
    coral.evolve("tiny.yaml", simulate=True)
    out, errors = _coral("resume", RUN, "--generations", "1")
    assert "gen 3/3" in errors
    assert "generation 3 of 3" in out


def test_a_run_whose_profile_has_changed_does_not_go_on(interrupted: Path) -> None:
    path = Path("mine.yaml")
    profile = read_profile(path)
    path.write_text(dump_profile(replace(profile, cost=replace(profile.cost, seconds_per_step=9))))
    _, errors = _coral("resume", RUN, code=2)
    assert "the run's simulation profile mine.yaml must be the one that it began with" in errors
    assert "base model" not in errors


@pytest.mark.parametrize(
    ("name", "where", "remedy"),
    [
        ("gone.yaml", "tiny.yaml:13", "a bundled profile: "),
        ("minilm-docstring", "tiny.yaml:13", "Did you mean 'minilm-docstrings'?"),
        (".", "tiny.yaml:13", "a bundled profile: "),
    ],
)
def test_a_profile_that_does_not_exist_is_named_with_its_line(
    name: str, where: str, remedy: str, here: Path
) -> None:
    (here / "tiny.yaml").write_text(CONFIG.replace("mine.yaml", name))
    _, errors = _coral("evolve", "tiny.yaml", "--simulate", code=2)
    assert errors.startswith(
        f"{where}: simulation.profile: there is no such profile, got {name}.\n"
    )
    assert remedy in errors
    _coral("evolve", "tiny.yaml", "--simulate", "--dry-run", "simulation.profile=mine.yaml")


BROKEN = """\
format: 99
name: mine
fitted_to: dreams
model: {base_model: x, depth: six, mean_tokens: 8, modules: [{name: a, in_features: 4}]}
tasks:
  docstring_kind:
    metrics: {auroc: {direction: max, chance: 0.5, best: 1.0}}
    primary_metric: auc
    labels: 0
surfce: {}
"""


def test_every_fault_of_a_profile_is_told_at_once(here: Path) -> None:
    (here / "mine.yaml").write_text(BROKEN)
    _, errors = _coral("evolve", "tiny.yaml", "--simulate", code=2)
    told = [line for line in errors.splitlines() if line.startswith("mine.yaml")]
    assert told == [
        "mine.yaml:3: fitted_to: must be 'real', 'simulated' or 'nothing', got \"dreams\".",
        'mine.yaml:4: model.depth: must be a whole number, got "six".',
        "mine.yaml:4: model.modules[0].out_features: must be given.",
        "mine.yaml:9: tasks.docstring_kind.labels: must be > 0, got 0.",
        "mine.yaml:8: tasks.docstring_kind.primary_metric: must be one of auroc, got auc.",
        "mine.yaml:10: surfce: unknown key.",
    ]


def test_a_profile_of_another_format_is_refused_in_its_line(here: Path) -> None:
    profile = read_profile(Path("mine.yaml"))
    text = dump_profile(profile).replace(f"format: {FORMAT}\n", "format: 99\n")
    (here / "mine.yaml").write_text(f"# A comment.\n{text}")
    _, errors = _coral("evolve", "tiny.yaml", "--simulate", code=2)
    assert f"mine.yaml:2: format: must be {FORMAT}, got 99" in errors


def test_reading_a_run_does_not_make_it_the_newest(here: Path) -> None:
    names = [coral.evolve("tiny.yaml", simulate=True)["run"] for _ in range(2)]
    for name in (*names, *reversed(names)):
        coral.show(name)
        assert [facts["run"] for facts in _json("runs")] == names[::-1]


def test_a_simulated_run_loads_no_torch(here: Path) -> None:
    code = (
        "import sys, coral; coral.evolve('tiny.yaml', simulate=True);"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'scipy', 'sklearn'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"


def test_a_profile_is_calibrated_and_used_from_python_as_from_the_terminal(here: Path) -> None:
    run = coral.record("tiny.yaml", trials=24, simulate=True)["run"]
    facts = coral.calibrate([run], "fitted.yaml")
    assert facts["fitted_to"] == "simulated"
    assert facts["goodness"]["recorded_trials"] == 24
    told = CliRunner().invoke(app, ["calibrate", run, "-o", "again.yaml"])
    assert told.exit_code == 0, told.output
    assert "fitted to 24 simulated trials" in told.output
    assert Path("again.yaml").read_text() == Path("fitted.yaml").read_text().replace(
        "name: fitted", "name: again"
    )
    evolved = coral.evolve(
        "tiny.yaml", overrides={"simulation.profile": "fitted.yaml"}, simulate=True
    )
    assert evolved["simulation"]["profile"] == "fitted.yaml"


def test_a_calibration_with_too_few_trials_is_refused_with_exit_code_2(here: Path) -> None:
    run = coral.record("tiny.yaml", trials=4, simulate=True)["run"]
    told = CliRunner().invoke(app, ["calibrate", run, "-o", "few.yaml"])
    assert told.exit_code == 2
    assert "needs at least 24 trials" in told.output
    assert not Path("few.yaml").exists()


def test_a_comparison_from_python_holds_three_ways(here: Path) -> None:
    facts = coral.compare("tiny.yaml", population=4, generations=2, simulate=True)
    assert [way["way"] for way in facts["ways"]] == ["simulation", "multi-fidelity", "naive"]
