"""One request over a control connection: JSON lines of inputs come up while JSON lines of outputs go down.

Up: a head, then ``{"input", "packet"}`` and ``{"end": input}``; the end of the body ends all inputs. Down: ``{"request",
"seed", "trace_id"}``, ``{"output", "packet"}``, and one ``{"ended"}`` or ``{"error"}``. Both at the pace of the slower side:
an upload waits for the graph, and the graph for a client that does not read. Lines are taken in order: what the graph needs
first (the conversation, whole) is sent first. A client that goes away cancels.
"""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, JsonValue, PositiveFloat

from omni_graph.errors import Code, OmniGraphError, RequestError
from omni_graph.payload import max_packet_bytes
from omni_graph.runtime.app import App
from omni_graph.runtime.handle import Handle
from omni_graph.runtime.http_body import Body, BodyError, read_line
from omni_graph.runtime.inputs import check_inputs, check_outputs
from omni_graph.runtime.json_packets import packet_from_json, packet_to_json
from omni_graph.runtime.wire_errors import error_to_json

MAX_HEAD = 1 << 20
UPLOAD_PAUSE_S = 60.0
LAST_WORD_S = 2.0


class RunHead(BaseModel):
    """The first line of an upload; ``inputs`` are those that will be given."""

    model_config = ConfigDict(strict=True, extra="forbid")
    inputs: list[str]
    outputs: list[str] | None = None
    params: dict[str, dict[str, JsonValue]] = {}
    seed: int | None = None
    deadline_s: PositiveFloat | None = None
    session: str | None = None


class RunExchange:
    """``begin``, then ``serve``. BodyError or ValidationError: this is no request; RequestError: it was refused."""

    def __init__(
        self, app: App, connection: socket.socket, source: io.BufferedReader, headers: Mapping[str, str]
    ) -> None:
        self._app = app
        self._connection = connection
        self._source = source
        self._body = io.BufferedReader(Body(source, headers), 64 << 10)
        self._kinds: dict[str, type] = {}
        self._fault: OmniGraphError | None = None

    def begin(self) -> Handle:
        """Admit the request."""
        self._connection.settimeout(UPLOAD_PAUSE_S)
        head = RunHead.model_validate_json(read_line(self._body, MAX_HEAD) or b"")
        plan = self._app.plan
        outputs = check_outputs(plan, head.outputs)
        reads = check_inputs(plan, head.inputs, plan.needed(outputs))
        self._kinds = {name: one.type for name, one in reads.items() if name in head.inputs}
        return self._app.open(outputs, head.params, head.seed, head.deadline_s, head.session, head.inputs)

    def serve(self, handle: Handle) -> None:
        """Until the request has ended and its client has heard so, or has gone."""
        feeder = threading.Thread(target=self._feed, args=(handle,), name=f"inputs of {handle.request}", daemon=True)
        feeder.start()
        try:
            self._answer(handle)
        except OSError:  # the client has gone
            pass
        finally:
            handle.cancel()
            self._shut(socket.SHUT_WR)
            feeder.join(LAST_WORD_S)
            self._shut(socket.SHUT_RDWR)
            feeder.join()

    def _shut(self, how: int) -> None:
        try:
            self._connection.shutdown(how)
        except OSError:  # it is
            pass

    def _answer(self, handle: Handle) -> None:
        try:
            self._say(request=handle.request, seed=handle.seed, trace_id=handle.trace_id)
            for event in handle:
                self._say(output=event.output, packet=packet_to_json(event.packet))
            stages = dict(handle.timings())
            self._say(ended={"total_s": handle.total_s, "retries": handle.retries, "stages": stages})
        except RequestError as error:
            self._say(error=error_to_json(self._fault or error))

    def _say(self, **line: Any) -> None:
        self._connection.sendall(json.dumps(line).encode() + b"\n")

    # ---- in a thread of its own

    def _feed(self, handle: Handle) -> None:
        try:
            self._upload(handle)
            self._until_gone()
        except OmniGraphError as error:
            self._fault = error
        except OSError:  # gone, or silent for too long in the middle of its upload
            pass
        finally:
            handle.cancel()

    def _upload(self, handle: Handle) -> None:
        longest = 2 * max((max_packet_bytes(kind) for kind in self._kinds.values()), default=0) + MAX_HEAD
        while (line := read_line(self._body, longest)) is not None:
            said = _object(line)
            name = said.get("input", said.get("end"))
            if name not in self._kinds or len(said) != ("input" in said) + 1:
                known = ", ".join(self._kinds) or "none"
                raise BodyError(f'a line is {{"input", "packet"}} or {{"end"}} of an input named in the head: {known}')
            if "input" in said:
                handle.write(name, packet_from_json(self._kinds[name], said.get("packet")))
            else:
                handle.end(name)
        for name in self._kinds:
            handle.end(name)

    def _until_gone(self) -> None:
        self._connection.settimeout(None)
        while self._source.read1():
            pass


def _object(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise RequestError(
            "", Code.INVALID_INPUT, f"not a line of an upload: {len(line)} bytes that are no JSON object"
        )
    return said


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
