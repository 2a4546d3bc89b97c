"""``omni-graph checkpoint``: random checkpoints in a family's real file layout, tiny to try things out, or to measure."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from omni_graph.cli.stopping import INTERRUPTED, stoppable
from omni_graph.errors import OmniGraphError

TINY, BENCH = "omni_graph.tiny_checkpoints", "omni_graph.bench_checkpoints"  # entry points: build(folder, seed=...)

Family = Annotated[str, typer.Argument(metavar="FAMILY", help="A model family, such as qwen2_5_omni.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; must not exist yet.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="The weights are a function of it.")]

checkpoint = typer.Typer(add_completion=False, no_args_is_help=True, help="Make checkpoints.", rich_markup_mode=None)


@checkpoint.callback()
def _checkpoint() -> None:
    pass


@checkpoint.command()
def tiny(family: Family, folder: Folder, seed: Seed = 0) -> None:
    """Write a tiny random checkpoint in the family's real layout; transformers loads it too."""
    _build(TINY, family, folder, seed)


@checkpoint.command()
def bench(family: Family, folder: Folder, seed: Seed = 0) -> None:
    """The same, large enough that compute dominates: what the benchmarks measure."""
    _build(BENCH, family, folder, seed)


def _build(group: str, family: str, folder: Path, seed: int) -> None:
    builders = {one.name: one for one in entry_points(group=group)}
    if family not in builders:
        raise typer.BadParameter(f"no family {family!r}; there are: {', '.join(sorted(builders)) or 'none'}")
    try:
        with stoppable():
            builders[family].load()(folder, seed=seed)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        if folder.exists():
            raise OmniGraphError(f"{folder}: exists; a checkpoint is built into a new folder") from None
        raise OmniGraphError(f"{folder}: cannot be written: {error.strerror or error}") from None
    except ImportError as error:
        raise OmniGraphError(f"{family} needs what is not installed: {error}") from None
    typer.echo(f"wrote {folder}", err=True)
