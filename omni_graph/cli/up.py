"""``omni-graph up``: a deployment that is held until a signal, and a control server for the other commands beside it.

Its URL is the one line on stdout. The first signal lets what runs finish, a second one does not; nothing is left.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import typer

from omni_graph.cli.options import DeployOption, GraphArgument, LauncherOption, LogLevel, LogLevelOption, SetOption
from omni_graph.cli.stopping import INTERRUPTED, leave_with_threads_since, stoppable

if TYPE_CHECKING:
    from omni_graph.graph import Graph
    from omni_graph.runtime.app import App
    from omni_graph.runtime.control import ControlServer
    from omni_graph.spec import DeploySpec

OK, FAILED = 0, 1
LOOK_S = 1.0


def up(
    graph: GraphArgument,
    deploy: DeployOption = None,
    launcher: LauncherOption = None,
    settings: SetOption = None,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Start a deployment and hold it until it is stopped.

    Prints its control URL, for status, scale, drain, logs and run --url. Ctrl-C or SIGTERM lets what runs finish.
    """
    from omni_graph.load import load_deploy, load_graph

    threads = threading.enumerate()
    code = FAILED
    try:
        with stoppable():
            _log_to_stderr(log_level)
            loaded = load_graph(graph, settings=settings or (), environ=os.environ)
            deployment = load_deploy(deploy) if deploy is not None else None
            app = _launch(loaded, deployment, launcher, log_level)
            code = _hold(app, loaded)
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        leave_with_threads_since(threads, code)
    raise typer.Exit(code)


def _launch(graph: Graph, deploy: DeploySpec | None, launcher: str | None, log_level: LogLevel) -> App:
    from omni_graph.cli.starting import starting
    from omni_graph.plan import make_plan
    from omni_graph.runtime.app import launch

    plan = make_plan(graph, deploy)
    with starting(plan, tuple(plan.outputs)) as on_change:
        return launch(graph, deploy, launcher, on_change=on_change, log_level=log_level.upper())


def _hold(app: App, graph: Graph) -> int:
    """Until a signal; the exit code. A deployment that fails by itself raises what it failed of."""
    from omni_graph.cli.places import Place, state_folder, written
    from omni_graph.runtime.control import ControlServer

    try:
        server = ControlServer(app)
        folder = str(graph.folder.resolve())
        place = Place(
            url=server.url, token=server.token, pid=os.getpid(), graph=graph.spec, folder=folder, deploy=app.plan.deploy
        )
        try:
            with written(place, app.run_folder, state_folder(os.environ)):
                typer.echo(server.url)
                return _until_stopped(app, server)
        finally:
            server.close(grace_s=0)
    finally:
        app.close()


def _until_stopped(app: App, server: ControlServer) -> int:
    try:
        while True:
            threading.Event().wait(LOOK_S)
            app.status()
    except KeyboardInterrupt:
        return _drain(app, server)


def _drain(app: App, server: ControlServer) -> int:
    """It can still be asked how it is while what runs finishes. Another signal ends that at once."""
    seconds = app.plan.deploy.drain_timeout_s
    try:
        with stoppable():
            typer.echo(f"stopping: what runs has {seconds:g} s to finish", err=True)
            app.close(seconds)
            server.close()
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _log_to_stderr(level: LogLevel) -> None:
    """What a person who holds a deployment should know of. Replicas that are our threads keep more, as ``level`` says."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("omni_graph")
    logger.setLevel(level.upper())
    logger.addHandler(handler)
