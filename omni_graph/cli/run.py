"""``omni-graph run``: one request through a graph; text to stdout as it comes, speech to a WAV, the waterfall to stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_graph.cli.options import DeployOption, GraphArgument, SetOption

if TYPE_CHECKING:
    from omni_graph.plan import Plan
    from omni_graph.runtime.app import App, Handle

INTERRUPTED = 130
Many = list[str] | None


def run(
    graph: GraphArgument,
    deploy: DeployOption = None,
    launcher: Annotated[
        str | None, typer.Option(metavar="L", help="threads or processes; else the deploy file's.")
    ] = None,
    settings: SetOption = None,
    text: Annotated[str | None, typer.Option(metavar="T", help="What the user says.")] = None,
    image: Annotated[Many, typer.Option(metavar="FILE", help="A picture for the user's message.")] = None,
    audio: Annotated[Many, typer.Option(metavar="FILE", help="A sound for the user's message.")] = None,
    video: Annotated[Many, typer.Option(metavar="FILE", help="A video for the user's message.")] = None,
    audio_in_video: Annotated[bool, typer.Option("--audio-in-video", help="Use the videos' own sound.")] = False,
    system: Annotated[str | None, typer.Option(metavar="S", help="The system prompt; none unless given.")] = None,
    messages: Annotated[Path | None, typer.Option(metavar="FILE", help="A conversation as JSON messages.")] = None,
    inputs: Annotated[Many, typer.Option("--input", metavar="NAME=VALUE", help="A graph input.")] = None,
    outputs: Annotated[str | None, typer.Option(metavar="A,B", help="The outputs wanted; all unless given.")] = None,
    params: Annotated[Many, typer.Option("--param", metavar="NODE.KEY=V", help="A stage's parameter.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Temperature 0 in every stage that samples.")] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="For every random draw; drawn unless given.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="thinker.max_tokens.")] = None,
    speech: Annotated[Path, typer.Option(metavar="OUT.wav", help="Where sound is written.")] = Path("speech.wav"),
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Record the request for omni-graph trace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object to stdout instead of text.")] = False,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="Of the replicas' log files.")] = "INFO",
) -> None:
    """Run one request through a graph.

    Text streams to stdout; speech is written while it is made; the waterfall of the stages goes to stderr.
    """
    from omni_graph.cli.request import Flags, make_request
    from omni_graph.cli.starting import starting
    from omni_graph.load import load_deploy, load_graph
    from omni_graph.plan import make_plan
    from omni_graph.runtime.app import launch

    loaded = load_graph(graph, settings=settings or (), environ=os.environ)
    deployment = load_deploy(deploy) if deploy is not None else None
    plan = make_plan(loaded, deployment)
    flags = Flags(
        text, image or (), audio or (), video or (), audio_in_video, system, messages, inputs or (), params or (),
        greedy, max_tokens,
    )  # fmt: skip
    request = make_request(flags, plan)
    asked = tuple(outputs.split(",")) if outputs is not None else tuple(plan.outputs)
    with _stoppable(), starting(plan, asked) as on_change:
        app = launch(loaded, deployment, launcher, outputs=asked, on_change=on_change, log_level=log_level)
    with app:
        code = _one_request(app, plan, request, asked, seed, speech, trace, as_json)
    raise typer.Exit(code)


def _one_request(
    app: App,
    plan: Plan,
    request: Any,
    outputs: Sequence[str],
    seed: int | None,
    speech: Path,
    trace: Path | None,
    as_json: bool,
) -> int:
    from omni_graph.cli.reading import Reader

    with _stoppable():
        handle = app.start(request.inputs, outputs, request.params, seed, folder=request.folder)
    reader = Reader(plan, outputs, speech, quiet=as_json)
    interrupted = False
    try:
        with _stoppable(), _says_when_paused(app):
            for event in handle:
                reader.read(event)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        handle.cancel()
        reader.close()
    if interrupted:
        typer.echo(f"interrupted; {reader.written()}", err=True)
        return INTERRUPTED
    _report(app, handle, reader, trace, as_json)
    return 0


def _report(app: App, handle: Handle, reader: Any, trace: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from omni_graph.observe.waterfall import waterfall

    record = app.trace(handle)
    if trace is not None:
        record.write(trace)
    if as_json:
        result = reader.result() | {"timing": record.timing(), "retries": 0, "trace_id": record.trace_id}
        typer.echo(json.dumps(result | {"seed": handle.seed}))
        return
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 150)
    console.print(waterfall(record))
    console.print(f" {reader.written()}", style="dim")


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: as a KeyboardInterrupt, so that everything is taken down in order."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _says_when_paused(app: App) -> Iterator[None]:
    """When whoever reads our output is slow, the graph waits; say so, once a pause."""
    done = threading.Event()

    def watch() -> None:
        said = False
        while not done.wait(1.0):
            paused = app.paused > 0
            if paused and not said:
                typer.echo("paused: waiting for the reader", err=True)
            said = paused

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
