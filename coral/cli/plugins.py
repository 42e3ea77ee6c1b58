"""``coral plugins``: what is there, a new one, and checks of one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from coral.cli.common import Json, Plugins, reported, task_options

FAILED = 1

plugins_app = typer.Typer(help="List plugins; write and check one.")


@plugins_app.callback(invoke_without_command=True)
def list_plugins(context: typer.Context, *, plugins: Plugins = None, json: Json = False) -> None:
    """List plugins: where they come from, what they provide, and which are broken."""
    if context.invoked_subcommand is not None:
        if plugins or json:
            raise typer.BadParameter("write options behind the command they are for")
        return
    with reported():
        from coral.reporting import as_json
        from coral.tasks import discover

        found = discover(plugins or (), config_folder=Path()).plugins
        providers = Counter(name for plugin in found for name in plugin.tasks)
        listed = [
            {
                "name": plugin.name,
                "version": plugin.version,
                "origin": plugin.origin,
                "tasks": sorted(plugin.tasks),
                "strategies": {kind: sorted(own) for kind, own in plugin.strategies.items()},
                "error": plugin.error,
                "clashes": sorted(name for name in plugin.tasks if providers[name] > 1),
            }
            for plugin in found
        ]
        if json:
            typer.echo(as_json(listed))
            return
        for plugin in listed:
            typer.echo(f"{_title(plugin)}  {_told(plugin)}\n    {plugin['origin']}")


@plugins_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the plugin and its task, such as reviews.")],
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The project's folder.")
    ] = Path(),
    json: Json = False,
) -> None:
    """Write a plugin that works: task, example data, config, test, README."""
    with reported():
        from coral.authoring import write_plugin
        from coral.reporting import as_json

        facts = write_plugin(name, output)
        if json:
            typer.echo(as_json(facts))
            return
        for file in facts["files"]:
            typer.echo(f"wrote {file}")
        folder, config = facts["folder"], facts["config"]
        typer.echo(
            f"next: coral plugins check {folder}    coral evolve {config}    pytest {folder}"
        )


@plugins_app.command()
def check(
    wanted: Annotated[
        str, typer.Argument(metavar="NAME_OR_FOLDER", help="A task, a plugin, or its folder.")
    ],
    *,
    plugins: Plugins = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--options", metavar="KEY=VALUE", help="An option of the task; repeatable."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Longest that loading may take.")
    ] = 600,
    json: Json = False,
) -> None:
    """Check that a plugin's tasks keep to the rules; exit with 1 if one does not."""
    with reported():
        from coral.authoring import check_plugin
        from coral.reporting import as_json

        facts = check_plugin(wanted, plugins or (), task_options(options), timeout)
        if json:
            typer.echo(as_json(facts))
        else:
            _print_checks(facts)
    if not facts["passed"]:
        raise typer.Exit(FAILED)


def _title(plugin: dict[str, Any]) -> str:
    return " ".join(filter(None, (plugin["name"], plugin["version"])))


def _told(plugin: dict[str, Any]) -> str:
    from coral.strategies import TITLES

    if plugin["error"]:
        return f"broken: {plugin['error']}"
    own = plugin["strategies"].items()
    strategies = [f"{TITLES[kind]} {', '.join(names)}" for kind, names in own if names]
    told = "; ".join(filter(None, [", ".join(plugin["tasks"]), *strategies]))
    if not plugin["clashes"]:
        return told
    return f"{told}  (another plugin has {', '.join(plugin['clashes'])} too)"


def _print_checks(facts: dict[str, Any]) -> None:
    typer.echo(f"{_title(facts)}  {facts['origin']}")
    for task in facts["tasks"]:
        typer.echo(f"{task['task']}")
        for line in task["error"].splitlines():
            typer.echo(f"  {line}")
        for result in task["checks"]:
            typer.echo(f"  {'ok    ' if result['passed'] else 'FAILED'}  {result['check']}")
            if not result["passed"]:
                typer.echo(f"          {result['rule']}\n          {result['remedy']}")
    failed = [task["task"] for task in facts["tasks"] if not task["passed"]]
    checks = sum(len(task["checks"]) for task in facts["tasks"])
    typer.echo(f"failed: {', '.join(failed)}" if failed else f"all {checks} checks passed")
