"""Coral's command line, called in this process.

What a command imports stays imported, and worker processes are forked from one that is ready since
the first run: the next run begins at once.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from coral.cli.app import app


def coral(
    folder: Path, *arguments: str, stdin: str | None = None, cache: str = "cache"
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with a cache below it, and return what it printed.

    Raises:
        BaseException: what the command lets through, which a user would see as a traceback.
    """
    environment = {"CORAL_CACHE": str(folder / cache), "COLUMNS": "200"}
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, arguments, input=stdin, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)
