"""``omni-graph run``: one request through a graph; text to stdout as it comes, speech to a WAV, the waterfall to stderr.

Whatever can be refused without a stage is refused before one is started. What was refused leaves no file behind.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_graph.cli.options import (
    DeployOption,
    LauncherOption,
    LogLevel,
    LogLevelOption,
    SetOption,
    TokenOption,
)
from omni_graph.cli.pausing import says_when_paused
from omni_graph.cli.sources import R, Running, Serving, Source, attach, served
from omni_graph.cli.stopping import INTERRUPTED, abandon, abandon_output, leave_with_threads_since, stoppable
from omni_graph.errors import OmniGraphError, RequestError

if TYPE_CHECKING:
    from omni_graph.cli.places import Door
    from omni_graph.cli.playing import Player
    from omni_graph.cli.reading import Reader
    from omni_graph.cli.request import Request
    from omni_graph.graph import Graph
    from omni_graph.plan import Plan
    from omni_graph.spec import DeploySpec

Many = list[str] | None
FAILED = 1


@dataclass(frozen=True, slots=True)
class Report:
    """Where the answer goes."""

    speech: Path
    trace: Path | None
    as_json: bool


def run(
    graph: Annotated[
        str | None,
        typer.Argument(
            metavar="GRAPH", help="A graph file, or the name of a graph in the package; with --url not needed."
        ),
    ] = None,
    deploy: DeployOption = None,
    launcher: LauncherOption = None,
    settings: SetOption = None,
    text: Annotated[str | None, typer.Option(metavar="T", help="What the user says.")] = None,
    image: Annotated[Many, typer.Option(metavar="FILE", help="A picture for the user's message.")] = None,
    audio: Annotated[Many, typer.Option(metavar="FILE", help="A sound for the user's message.")] = None,
    video: Annotated[Many, typer.Option(metavar="FILE", help="A video for the user's message.")] = None,
    audio_in_video: Annotated[bool, typer.Option("--audio-in-video", help="Use the videos' own sound.")] = False,
    live_audio: Annotated[
        str | None, typer.Option(metavar="FILE", help="A sound that is played in real time, as if it were said now.")
    ] = None,
    live_video: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A video that is shown in real time; with --audio-in-video also heard."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="S", help="The system prompt; none unless given.")] = None,
    messages: Annotated[Path | None, typer.Option(metavar="FILE", help="A conversation as JSON messages.")] = None,
    inputs: Annotated[Many, typer.Option("--input", metavar="NAME=VALUE", help="A graph input.")] = None,
    outputs: Annotated[str | None, typer.Option(metavar="A,B", help="The outputs wanted; all unless given.")] = None,
    params: Annotated[Many, typer.Option("--param", metavar="NODE.KEY=V", help="A stage's parameter.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Temperature 0 in every stage that samples.")] = False,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=2**63 - 1, help="For every random draw; drawn unless given.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=1, help="thinker.max_tokens.")] = None,
    speech: Annotated[Path, typer.Option(metavar="OUT.wav", help="Where sound is written.")] = Path("speech.wav"),
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Record the request for omni-graph trace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object to stdout instead of text.")] = False,
    log_level: LogLevelOption = LogLevel.INFO,
    session: Annotated[
        str | None, typer.Option(metavar="KEY", help="Prefer the replicas that served this session before.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Run it on the deployment that `omni-graph up` holds there.")
    ] = None,
    token: TokenOption = None,
) -> None:
    """Run one request through a graph.

    Text streams to stdout; speech is written while it is made; the waterfall of the stages goes to stderr.
    """
    from omni_graph.cli.request import Flags, make_request
    from omni_graph.plan import make_plan

    flags = Flags(
        text, image or (), audio or (), video or (), audio_in_video, system, messages, inputs or (), outputs,
        params or (), greedy, max_tokens, seed, session, live_audio, live_video,
    )  # fmt: skip
    source = Source(graph, deploy, settings or (), launcher, log_level)
    report = Report(speech, trace, as_json)
    threads = threading.enumerate()
    try:
        with stoppable(), _quiet_log():
            door = None if url is None else attach(url, token, source)
            loaded, deployment = source.load() if door is None else served(door, source)
            plan = make_plan(loaded, deployment)
            request = make_request(flags, plan)
            _check_files(plan, request, report)
            if door is None:
                _launch_and_run(loaded, deployment, source, plan, request, report)
            else:
                _run_there(door, plan, request, report)
    except KeyboardInterrupt:
        leave_with_threads_since(threads, INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None
    except OmniGraphError:
        leave_with_threads_since(threads, FAILED)
        raise
    except BrokenPipeError:
        abandon_output()
        raise typer.Exit(FAILED) from None


def _check_files(plan: Plan, request: Request, report: Report) -> None:
    from omni_graph.cli.reading import speaks
    from omni_graph.cli.wav import check_writable

    if speaks(plan, request.outputs):
        check_writable(report.speech)
    if report.trace is not None:
        check_writable(report.trace)


def _launch_and_run(
    graph: Graph,
    deploy: DeploySpec | None,
    source: Source,
    plan: Plan,
    request: Request,
    report: Report,
) -> None:
    from omni_graph.cli.starting import starting
    from omni_graph.runtime.app import launch

    with starting(plan, request.outputs) as on_change:
        level = source.log_level.upper()
        app = launch(graph, deploy, source.launcher, outputs=request.outputs, on_change=on_change, log_level=level)
    with app:
        _one_request(app, plan, request, report)


def _run_there(door: Door, plan: Plan, request: Request, report: Report) -> None:
    from omni_graph.cli.remote import Remote, RemoteApp

    _one_request(RemoteApp(Remote(door), plan), plan, request, report)


def _one_request(app: Serving[R], plan: Plan, request: Request, report: Report) -> None:
    from omni_graph.cli.playing import Player
    from omni_graph.cli.reading import Reader

    handle = app.start(
        request.inputs,
        request.outputs,
        request.params,
        request.seed,
        folder=request.folder,
        session=request.session,
        live=[one.name for one in request.live],
    )
    player = Player(request.live, handle) if request.live else None
    with closing(Reader(plan, request.outputs, report.speech, quiet=report.as_json)) as reader:
        try:
            with says_when_paused(app), player.playing() if player else nullcontext():
                for event in handle:
                    if player:
                        player.heard(event.packet)
                    reader.read(event)
        except KeyboardInterrupt:
            _interrupted(handle, reader)
            raise
        except RequestError:
            reader.end_line()
            raise
        reader.complete()
        reader.end_line()
        _tell(app, handle, reader, report, player)


def _interrupted(handle: Running, reader: Reader) -> None:
    """The files are made valid, and what waits to be written to a reader that does not read is let go."""
    import sys

    handle.cancel()
    reader.complete()
    abandon(sys.stdout)
    reader.end_line(err=True)
    typer.echo("; ".join(filter(None, ("interrupted", reader.written()))), err=True)


def _tell(app: Serving[R], handle: R, reader: Reader, report: Report, player: Player | None) -> None:
    from omni_graph.cli.terminal import console
    from omni_graph.observe.waterfall import Waterfall

    record = app.trace(handle)
    if report.trace is not None:
        record.write(report.trace)
    if report.as_json:
        timing = {
            "timing": record.timing() | ({"live": player.timing()} if player else {}),
            "retries": handle.retries,
            "trace_id": record.trace_id,
            "seed": handle.seed,
        }
        typer.echo(json.dumps(reader.result() | timing))
        return
    screen = console(stderr=True)
    screen.print(Waterfall(record))
    if player:
        screen.print(f" {player.summary()}", style="bold", markup=False)
    screen.print(f" {reader.written()}".rstrip(), style="dim", markup=False)


@contextmanager
def _quiet_log() -> Iterator[None]:
    """What goes wrong comes out as an exception, with the replica's last lines; of the log only a crash of ours is shown."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.CRITICAL)
    logger = logging.getLogger("omni_graph")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
