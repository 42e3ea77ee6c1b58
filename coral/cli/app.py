"""The command line. Heavy imports wait inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coral.cli import stored
from coral.cli.common import Json, Plugins, RunFolder, key_values, reported, task_options
from coral.cli.plugins import plugins_app

if TYPE_CHECKING:
    from coral.cli.screen import Screen
    from coral.compose import Source
    from coral.settings import RunSpec
    from coral.spec import LoadedConfig

app = typer.Typer(
    name="coral",
    help="Evolve LoRA genomes: which rank, targets, learning rate and data order are best.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # Rich's Markdown alone would take a third of the time of --help
    pretty_exceptions_enable=False,
)

KEPT = "; what was finished is kept. next: coral resume {run}"

Config = Annotated[str, typer.Argument(help="A YAML file, or a bundled config's name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as evolution.generations=5."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="The same as an option; repeatable."),
]
Simulate = Annotated[
    bool,
    typer.Option(
        "--simulate", help="Train nothing, ask a fitted response surface; as mode=simulate."
    ),
]
ForceFresh = Annotated[
    bool,
    typer.Option(
        "--force-fresh",
        help="Ignore every checkpoint there is; train what is needed, and keep it apart.",
    ),
]


def _overrides(*groups: list[str] | None, simulate: bool) -> dict[str, str]:
    pairs = key_values(*groups)
    return {**pairs, "mode": "simulate"} if simulate else pairs


def _screen(spec: RunSpec) -> Screen:
    from rich.console import Console

    from coral.cli.screen import Screen

    return Screen(spec, Console(stderr=True, highlight=False))


def _load(
    config: str, pairs: dict[str, str], plugins: list[Path] | None
) -> tuple[LoadedConfig, Source]:
    from coral import compose

    source = compose.Source(path=compose.find_config(config), plugin_folders=tuple(plugins or ()))
    loaded = compose.load(source, pairs)
    for note in loaded.notes:
        typer.echo(note, err=True)
    return loaded, source


def _start(
    loaded: LoadedConfig,
    source: Source,
    real: list[str],
    *,
    json: bool,
    force_fresh: bool = False,
) -> None:
    """Run a config from the start; ``real`` is the command that trains it for real."""
    from coral import compose

    with _screen(loaded.spec) as screen:
        facts = compose.start_run(loaded, source, screen, force_fresh=force_fresh)
    _finish(facts, shlex.join(real), json=json)


def _real(command: list[str], pairs: dict[str, str], plugins: list[Path] | None) -> list[str]:
    """Return the words of a command that does for real what was simulated."""
    mode = [] if "mode" in pairs else ["mode=real"]  # the file itself says simulate
    others = [f"{key}={value}" for key, value in pairs.items() if key != "mode"]
    folders = [word for folder in plugins or () for word in ("--plugins", str(folder))]
    return ["coral", *command, *others, *mode, *folders]


def _finish(facts: dict[str, Any], real: str, *, json: bool) -> None:
    """Print a finished run on stdout, with the path of what it made and the next command.

    Args:
        real: what to do after a simulated run.
    """
    from rich.console import Console
    from rich.text import Text

    from coral.cli.tables import print_run
    from coral.reporting import as_json

    if json:
        typer.echo(as_json(facts))
        return
    console = Console(highlight=False)
    print_run(facts, console)
    run = facts["run"]
    then = real if facts["simulation"] else f'coral predict {run} "some text"'
    line = f"next: coral show {run}    {then}"
    console.print(Text(line), soft_wrap=True)


@app.command()
def evolve(
    config: Config,
    overrides: Overrides = None,
    *,
    set_: SetOption = None,
    plugins: Plugins = None,
    simulate: Simulate = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, time a few steps, print the plan.")
    ] = False,
    force_fresh: ForceFresh = False,
    json: Json = False,
) -> None:
    """Evolve a population of LoRA genomes and hand over the best adapter."""
    with reported(KEPT.format(run="RUN (`coral runs` lists them)")):
        from rich.console import Console

        from coral import compose
        from coral.cli.outline import print_outline
        from coral.cli.tables import print_forecast
        from coral.reporting import as_json

        pairs = _overrides(overrides, set_, simulate=simulate)
        loaded, source = _load(config, pairs, plugins)
        if not dry_run:
            real = _real(["evolve", config], pairs, plugins)
            _start(loaded, source, real, json=json, force_fresh=force_fresh)
            return
        facts = compose.dry_run(loaded, source, compose.SilentObserver())
        if json:
            typer.echo(as_json(facts))
        elif facts["unchecked"]:
            print_outline(facts, Console(highlight=False))
        else:
            print_forecast(facts, Console(highlight=False))


@app.command()
def record(
    config: Config,
    overrides: Overrides = None,
    *,
    trials: Annotated[int, typer.Option(min=2, help="How many genomes to train.")] = 160,
    set_: SetOption = None,
    plugins: Plugins = None,
    simulate: Simulate = False,
    json: Json = False,
) -> None:
    """Train a Sobol design through all stages without pruning, to calibrate the simulation."""
    with reported(KEPT.format(run="RUN (`coral runs` lists them)")):
        pairs = _overrides(overrides, set_, simulate=simulate)
        loaded, source = _load(config, pairs, plugins)
        loaded = replace(loaded, spec=loaded.spec.recording(trials))
        real = _real(["record", config, "--trials", str(trials)], pairs, plugins)
        _start(loaded, source, real, json=json)


@app.command()
def calibrate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that `coral record` filled.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The profile to write.")
    ],
    *,
    json: Json = False,
) -> None:
    """Fit a simulation profile to recorded runs, and tell how far to trust it."""
    with reported():
        from rich.console import Console

        from coral.calibration import calibrate_runs
        from coral.cli.calibration import print_calibration
        from coral.reporting import as_json

        facts = calibrate_runs(runs, output)
        if json:
            typer.echo(as_json(facts))
        else:
            print_calibration(facts, Console(highlight=False))


@app.command()
def compare(
    config: Config = "quickstart",
    overrides: Overrides = None,
    *,
    population: Annotated[int, typer.Option(min=2, help="Genomes in a generation.")] = 8,
    generations: Annotated[int, typer.Option(min=1, help="Generations to breed.")] = 5,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="The comparison's folder; an interrupted one goes on."),
    ] = None,
    set_: SetOption = None,
    plugins: Plugins = None,
    simulate: Simulate = False,
    json: Json = False,
) -> None:
    """Run one population simulated, naively in full, and over the ladder; compare the three."""
    with reported():
        from rich.console import Console

        from coral import comparison
        from coral.cli.comparison import ComparisonScreen, print_comparison, save_markdown
        from coral.reporting import as_json

        size = {
            "evolution.population_size": str(population),
            "evolution.generations": str(generations),
        }
        pairs = size | _overrides(overrides, set_, simulate=simulate)
        loaded, source = _load(config, pairs, plugins)
        with ComparisonScreen(loaded.spec, Console(stderr=True, highlight=False)) as screen:
            facts = comparison.compare(loaded, source, screen, folder)
        save_markdown(facts)
        if json:
            typer.echo(as_json(facts))
        else:
            print_comparison(facts, Console(highlight=False))


@app.command()
def resume(
    run: RunFolder,
    generations: Annotated[
        int | None, typer.Option(min=1, help="Extend the run by this many generations.")
    ] = None,
    *,
    force_fresh: ForceFresh = False,
    json: Json = False,
) -> None:
    """Go on with a run after an interruption, or extend a finished one."""
    with reported(KEPT.format(run=run)):
        from coral import compose, stored_run

        with _screen(stored_run.read_spec(run, more=generations)) as screen:
            facts = compose.resume_run(run, screen, generations, force_fresh=force_fresh)
        _finish(facts, "coral evolve CONFIG", json=json)


@app.command()
def init(
    data: Annotated[str, typer.Argument(help="A file, folder, glob, URL or hub id.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Of the task, such as text=review label=stars."
        ),
    ] = None,
    *,
    base_model: Annotated[
        str | None, typer.Option(help="A hub id, a local folder, or package:<module>/<folder>.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE")] = Path("coral.yaml"),
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Look at your data and write a commented config that runs."""
    with reported():
        from coral.reporting import as_json
        from coral.starter import write_starter

        given = task_options(options)
        facts = write_starter(data, output, base_model, plugins or (), given)
        if json:
            typer.echo(as_json(facts))
            return
        chosen: dict[str, Any] = facts["options"]
        columns = ", ".join(
            f"{role}: {names if isinstance(names, str) else ' and '.join(names)}"
            for role, names in chosen.items()
            if role != "path"
        )
        labels = facts["labels"]
        shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
        typer.echo(f"read as {facts['type']} ({columns})")
        typer.echo(f"{facts['asked']}: {shown}" if labels else facts["asked"])
        typer.echo(
            f"{facts['train_examples']:,} texts to train on, {facts['validation_examples']:,} to"
            f" validate, {facts['test_examples']:,} to test"
        )
        typer.echo(f"wrote {output}    next: coral evolve {output}")


@app.command()
def data(
    config: Config,
    overrides: Overrides = None,
    *,
    set_: SetOption = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Show what a config trains on: splits, classes, lengths, duplicates, examples."""
    with reported():
        from rich.console import Console

        from coral.cli.data import print_data
        from coral.reporting import as_json
        from coral.tasks import discover
        from coral.viewing import view_data

        pairs = _overrides(overrides, set_, simulate=False)
        loaded, source = _load(config, pairs, plugins)
        facts = view_data(loaded, discover(source.folders))
        if json:
            typer.echo(as_json(facts))
        else:
            print_data(facts, Console(highlight=False))


@app.command()
def doctor(
    config: Config = "quickstart",
    overrides: Overrides = None,
    *,
    set_: SetOption = None,
    plugins: Plugins = None,
    simulate: Simulate = False,
    json: Json = False,
) -> None:
    """Check versions, devices, memory, disk, network, model, data and plugins for a config."""
    with reported():
        from rich.console import Console

        from coral.cli.doctor import print_checks
        from coral.doctor import examine
        from coral.reporting import as_json

        pairs = _overrides(overrides, set_, simulate=simulate)
        facts = examine(config, pairs, tuple(plugins or ()))
        if json:
            typer.echo(as_json(facts))
        else:
            print_checks(facts, Console(highlight=False))
        if not facts["ok"]:
            raise typer.Exit(1)


app.add_typer(plugins_app, name="plugins")

for command in (stored.show, stored.lineage, stored.predict, stored.runs, stored.gc):
    app.command()(command)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config."""
    with reported():
        import json

        from coral.spec.schema import config_schema

        typer.echo(json.dumps(config_schema(), indent=2))


@app.command()
def version() -> None:
    """Print Coral's version."""
    from coral import __version__

    typer.echo(__version__)


def main() -> None:
    """Run the command line."""
    app()
