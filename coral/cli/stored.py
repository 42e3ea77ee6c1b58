"""Commands on runs that exist: looking at them, using them, tidying up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from coral.cli.common import Json, RunFolder, reported
from coral.errors import CoralError, RunError


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
    with reported():
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
    with reported():
        from rich.console import Console

        from coral import stored_run
        from coral.cli.lineage import print_lineage
        from coral.reporting import as_json

        facts = stored_run.read_lineage(run, trial)
        if json:
            typer.echo(as_json(facts))
        else:
            print_lineage(facts, Console(highlight=False))


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
    with reported():
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


def runs(
    root: Annotated[Path, typer.Argument(help="The folder that holds the runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs, the newest first."""
    with reported():
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


def predict(
    run: RunFolder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts, pairs divided by a tab; none or `-` reads lines from stdin."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A text file, one text or pair a line.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", hidden=True)] = False,
    json: Json = False,
) -> None:
    """Label or answer texts with a run's champion."""
    with reported():
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
                if shares is None:
                    console.print(Text(f"  {task}: no answer, not sure enough"))
                    continue
                if isinstance(shares, str):
                    console.print(Text(f"  {task}: {shares}"), soft_wrap=True)
                    continue
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
