"""The command ``omni-graph``. A command is one line in COMMANDS; its module is imported when it is asked for.

Exit codes: 0 ok, 1 failed, 2 usage, 3 invalid graph or deploy. Our own errors become lines on stderr, never a traceback.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from omni_graph.errors import GraphError, OmniGraphError

if TYPE_CHECKING:
    from collections.abc import Callable

FAILED, INVALID_GRAPH = 1, 3

# name -> module:function; the function's docstring is its help
COMMANDS = {
    "run": "omni_graph.cli.run:run",
    "up": "omni_graph.cli.up:up",
    "status": "omni_graph.cli.status:status",
    "scale": "omni_graph.cli.scale:scale",
    "drain": "omni_graph.cli.drain:drain",
    "replace": "omni_graph.cli.replace:replace",
    "logs": "omni_graph.cli.logs:logs",
    "check": "omni_graph.cli.check:check",
    "draw": "omni_graph.cli.draw:draw",
    "nodes": "omni_graph.cli.nodes:nodes",
    "schema": "omni_graph.cli.schema:schema",
    "explain": "omni_graph.cli.explain:explain",
    "trace": "omni_graph.cli.trace:trace",
    "checkpoint": "omni_graph.cli.checkpoint:checkpoint",
    "bench": "omni_graph.cli.bench:bench",
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported one by one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _command(cmd_name, COMMANDS[cmd_name])
        return self.commands[cmd_name]


def _command(name: str, path: str) -> Any:
    module, _, function = path.partition(":")
    callback: Callable[..., None] | typer.Typer = getattr(import_module(module), function)
    if isinstance(callback, typer.Typer):
        return get_command(callback)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(name)(callback)
    return get_command(single)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Serve omni-modal models as a streaming graph of stages.",
)


@app.callback()
def _omni_graph() -> None:
    pass


def main() -> None:
    """The console script."""
    if sys.platform != "linux" or not (3, 11) <= sys.version_info[:2] <= (3, 13):
        seen = f"Python {sys.version_info.major}.{sys.version_info.minor} on {sys.platform}"
        typer.echo(f"omni-graph: {seen}; supported: Linux, Python 3.11 to 3.13", err=True)
        sys.exit(FAILED)
    try:
        app(prog_name="omni-graph")
    except GraphError as error:
        typer.echo(error, err=True)
        sys.exit(INVALID_GRAPH)
    except OmniGraphError as error:
        typer.echo(f"omni-graph: {error}", err=True)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
