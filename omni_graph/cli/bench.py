"""``omni-graph bench``: the benchmarks of the source tree. They are not installed with the package, and it says so."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from omni_graph.errors import OmniGraphError

SOURCE_TREE = Path(__file__).parents[2]


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="start, hop, total ...; an unknown one lists all.")],
    json: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Every sample and row, to OUT.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="OUT.svg", help="The ratios as a picture, to OUT.svg.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only see that it runs; its figures mean nothing.")] = False,
    streams: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="hop: only N requests over one link, against one.")
    ] = None,
) -> None:
    """Run one benchmark.

    Every figure is a ratio, measured side by side in one run; the table goes to stdout.
    """
    command = _command()
    if name not in command.BENCHES:
        raise typer.BadParameter(f"no benchmark {name!r}; there are: {', '.join(command.BENCHES)}")
    if streams is not None and name != "hop":
        raise typer.BadParameter("--streams belongs to hop")
    command.run(name, json, plot, command.Options(quick=quick, streams=streams))


def _command() -> Any:
    """The benchmarks' entry point; OmniGraphError where there is no source tree."""
    if not (SOURCE_TREE / "benchmarks" / "command.py").is_file():
        raise OmniGraphError(
            "the benchmarks are in the source tree, not in the installed package: "
            "run `omni-graph bench` from an editable install (pip install -e '.[dev]') of a checkout"
        )
    if str(SOURCE_TREE) not in sys.path:
        sys.path.insert(0, str(SOURCE_TREE))
    try:
        return import_module("benchmarks.command")
    except ModuleNotFoundError as error:
        raise OmniGraphError(f"the benchmarks need {error.name}: pip install -e '.[dev]'") from error
