"""What all commands share: options, and how errors end them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from coral.errors import ConfigError, CoralError, Fault

INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on stdout.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugins", metavar="DIR", help="A folder of task plugins; repeatable."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def key_values(*groups: list[str] | None) -> dict[str, str]:
    """Return what texts such as ``evolution.generations=5`` say, by key.

    Raises:
        ConfigError: some are no KEY=VALUE.
    """
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
    return pairs


def task_options(texts: list[str] | None) -> dict[str, Any]:
    """Return options of a task from texts such as ``text=[premise, hypothesis]``.

    Raises:
        ConfigError: some are no KEY=VALUE, or a value is not YAML.
    """
    from coral.spec.document import Document, with_overrides

    given = with_overrides(Document(source="command line", data={}), key_values(texts)).data
    return {str(key): value for key, value in given.items()}


@contextmanager
def reported(run_hint: str = "") -> Iterator[None]:
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
