"""The command line. Heavy imports wait inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coral.errors import ConfigError, CoralError, Fault, RunError

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

INTERRUPTED = 130
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
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugins", metavar="DIR", help="A folder of task plugins; repeatable."),
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
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on stdout.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


@contextmanager
def _reported(run_hint: str = "") -> Iterator[None]:
    """Turn errors into a message and an exit code; SIGTERM ends a run as Ctrl-C does.

    Args:
        run_hint: what is left of a run that is interrupted, and the next command.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except ConfigError as error:
        typer.echo(str(error), err=True)  # a line begins with file:line, as editors like it
        raise typer.Exit(error.exit_code) from error
    except CoralError as error:
        typer.echo(f"coral: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        typer.echo(f"\ninterrupted{run_hint}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(0) from None


def _overrides(*groups: list[str] | None, simulate: bool) -> dict[str, str]:
    pairs: dict[str, str] = {}
    faults = []
    for text in (item for group in groups for item in group or []):
        key, equals, value = text.partition("=")
        if not equals or not key:
            faults.append(
                Fault(
                    where="command line",
                    key="",
                    rule=f"an override is KEY=VALUE, got {text}.",
                    remedy="Write, for example, evolution.generations=5.",
                )
            )
        pairs[key] = value
    if faults:
        raise ConfigError(faults)
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
    return compose.load(source, pairs), source


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
    with _reported(KEPT.format(run="RUN (`coral runs` lists them)")):
        from rich.console import Console

        from coral import compose
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
    with _reported(KEPT.format(run="RUN (`coral runs` lists them)")):
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
    with _reported():
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
    with _reported():
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
    with _reported(KEPT.format(run=run)):
        from coral import compose, stored_run

        with _screen(stored_run.read_spec(run, more=generations)) as screen:
            facts = compose.resume_run(run, screen, generations, force_fresh=force_fresh)
        _finish(facts, "coral evolve CONFIG", json=json)


@app.command()
def show(
    run: RunFolder,
    json: Json = False,
    failures: Annotated[
        bool, typer.Option("--failures", help="Print every failure with its traceback.")
    ] = False,
    trials: Annotated[
        bool, typer.Option("--trials", help="Print every trial as canonical JSON, times left out.")
    ] = False,
) -> None:
    """Show a run: champion, default recipe, front, cost and audit."""
    with _reported():
        from rich.console import Console

        from coral import stored_run
        from coral.cli.tables import print_failures, print_run
        from coral.reporting import as_json

        if trials:
            typer.echo(stored_run.export_trials(run))
            return
        facts = stored_run.read_run(run)
        if json:
            typer.echo(as_json(facts))
        elif failures:
            print_failures(facts, Console(highlight=False))
        else:
            print_run(facts, Console(highlight=False))


@app.command()
def lineage(
    run: RunFolder,
    trial: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIGEST]",
            help="How a trial's digest begins, or its number; else the champion.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show whose weights went into a trial's, and the schedule that they really saw."""
    with _reported():
        from rich.console import Console

        from coral import stored_run
        from coral.cli.lineage import print_lineage
        from coral.reporting import as_json

        facts = stored_run.read_lineage(run, trial)
        if json:
            typer.echo(as_json(facts))
        else:
            print_lineage(facts, Console(highlight=False))


@app.command()
def gc(
    run: RunFolder,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
    limit: Annotated[
        str | None,
        typer.Option(
            "--bytes", metavar="SIZE", help="Go on down to this size, such as 200MB, if need be."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Remove a run's checkpoints that nobody needs any more."""
    with _reported():
        from rich.console import Console

        import coral
        from coral.cli.collection import print_collection
        from coral.reporting import as_json

        facts = coral.gc(run, limit=None if limit is None else _size(limit), dry_run=dry_run)
        if json:
            typer.echo(as_json(facts))
        else:
            print_collection(facts, Console(highlight=False))


def _size(text: str) -> int:
    from coral.spec import byte_count

    count = byte_count(text)
    if not count >= 0:  # NaN if it is no size
        raise typer.BadParameter(f"must be a number of bytes, such as 200MB or 1.5GB, got {text}")
    return int(count)


@app.command()
def runs(
    root: Annotated[Path, typer.Argument(help="The folder that holds the runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs, the newest first."""
    with _reported():
        from rich.console import Console

        from coral import stored_run
        from coral.cli.tables import print_runs
        from coral.reporting import as_json

        rows, broken = [], []
        for folder in stored_run.find_runs(root):
            try:
                rows.append(stored_run.read_run(folder))
            except CoralError as error:
                broken.append(str(error))
        if json:
            typer.echo(as_json(rows))
        elif rows:
            print_runs(rows, Console(highlight=False))
        else:
            typer.echo(f"No runs in {root}. Start one: coral evolve quickstart")
        for message in broken:
            typer.echo(f"coral: {message}", err=True)


@app.command()
def predict(
    run: RunFolder,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; none or `-` reads lines from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A text file, one text a line.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", hidden=True)] = False,
    json: Json = False,
) -> None:
    """Label texts with a run's champion."""
    with _reported():
        if simulate:
            raise RunError(
                "predictions can't be simulated: a simulation has no weights.\n"
                "  Leave --simulate out, and name a run that was trained."
            )
        from rich.console import Console
        from rich.text import Text

        import coral
        from coral.reporting import as_json
        from coral.stored_run import find_champion

        find_champion(run)  # before stdin is read
        given = _texts(texts, file)
        answers = coral.predict(run, given)
        if json:
            pairs = zip(given, answers, strict=True)
            typer.echo(as_json([{"text": text, "tasks": answer} for text, answer in pairs]))
            return
        console = Console(highlight=False)
        for text, answer in zip(given, answers, strict=True):
            console.print(Text(text, style="bold"), soft_wrap=True)
            for task, shares in answer.items():
                best = sorted(shares.items(), key=lambda item: -item[1])[:3]
                told = "  ".join(f"{label} {share:.2f}" for label, share in best)
                console.print(Text(f"  {task}: {told}"))


def _texts(texts: list[str] | None, file: Path | None) -> list[str]:
    if file is not None:
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{file} can't be read as text: {error}.\nName a UTF-8 file.") from error
        return [line for line in content.splitlines() if line.strip()]
    if not texts or texts == ["-"]:
        return [line for line in sys.stdin.read().splitlines() if line.strip()]
    return texts


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config."""
    with _reported():
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
