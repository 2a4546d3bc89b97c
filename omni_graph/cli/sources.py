"""Which graph ``run`` runs: one from a file, launched for it, or one that a deployment serves already."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from omni_graph.errors import OmniGraphError

if TYPE_CHECKING:
    from omni_graph.cli.options import LauncherName, LogLevel
    from omni_graph.cli.places import Door
    from omni_graph.graph import Graph
    from omni_graph.observe.trace import Trace
    from omni_graph.runtime.handle import PacketEvent
    from omni_graph.spec import DeploySpec


@dataclass(frozen=True, slots=True)
class Source:
    """What the user typed about the graph and how it is launched."""

    graph: str | None
    deploy: str | None
    settings: Sequence[str]
    launcher: LauncherName | None
    log_level: LogLevel

    def load(self) -> tuple[Graph, DeploySpec | None]:
        """From files. Raises GraphError."""
        from omni_graph.load import load_deploy, load_graph

        if self.graph is None:
            raise typer.BadParameter("name a graph, or a running deployment with --url", param_hint="'GRAPH'")
        graph = load_graph(self.graph, settings=self.settings, environ=os.environ)
        return graph, load_deploy(self.deploy) if self.deploy is not None else None


class Running(Protocol):
    """A request under way: a Handle, or one elsewhere."""

    seed: int
    retries: int

    def __iter__(self) -> Iterator[PacketEvent]: ...

    def cancel(self) -> None: ...

    def write(self, name: str, packet: Any) -> None: ...

    def end(self, name: str) -> None: ...


R = TypeVar("R", bound=Running)


class Serving(Protocol[R]):
    """What ``run`` needs of an App, here or elsewhere."""

    @property
    def paused(self) -> int: ...

    def start(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        params: Mapping[str, Mapping[str, Any]],
        seed: int | None,
        *,
        folder: Path,
        session: str | None,
        live: Sequence[str] = (),
    ) -> R: ...

    def trace(self, handle: R) -> Trace: ...


def attach(url: str, token: str | None, source: Source) -> Door:
    """The deployment at ``url``. Raises typer.BadParameter for flags that say how to launch one."""
    from omni_graph.cli.places import find, state_folder

    launching = {"--deploy": source.deploy, "--launcher": source.launcher, "--set": source.settings}
    for option, value in launching.items():
        if value:
            raise typer.BadParameter("says how a graph is launched; the one at --url runs already", param_hint=option)
    return find(url, token, state_folder(os.environ))


def served(door: Door, source: Source) -> tuple[Graph, DeploySpec | None]:
    """What it serves. Raises OmniGraphError where the user named another graph."""
    from omni_graph.graph import Graph
    from omni_graph.plan import make_plan

    if door.place is None:
        return source.load()
    graph, deploy = Graph(door.place.graph, Path(door.place.folder)), door.place.deploy
    if source.graph is not None and make_plan(source.load()[0]).wiring != make_plan(graph, deploy).wiring:
        raise OmniGraphError(f"{door.url} serves another graph than {source.graph}: {graph.name}; leave GRAPH out")
    return graph, deploy
