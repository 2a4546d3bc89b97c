"""A deployment that another process holds: its control server's client, and a face like App's for one request.

Files are read here and sent as packets; nothing is loaded here, and no stage runs in this process.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omni_graph.cli.places import Door
from omni_graph.errors import Code, OmniGraphError, RequestError
from omni_graph.observe.trace import Trace, make_trace
from omni_graph.plan import Plan
from omni_graph.runtime.handle import PacketEvent
from omni_graph.runtime.inputs import read_inputs
from omni_graph.runtime.json_packets import packet_from_json, packet_to_json
from omni_graph.runtime.wire_errors import error_from_json

Params = Mapping[str, Mapping[str, Any]]
LAST_CHUNK = b"0\r\n\r\n"


class Remote:
    """Calls to one control server. Every call raises OmniGraphError where nothing answers, or what the server says."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def get(self, path: str) -> dict[str, Any]:
        """The object at ``path``."""
        return self._call("GET", path, None)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask for a change; returns when it is done."""
        return self._call("POST", path, json.dumps(body).encode())

    def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers)
            return _object(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            raise self.gone(error) from None
        finally:
            connection.close()

    @property
    def headers(self) -> dict[str, str]:
        """What lets us in."""
        return {"Authorization": f"Bearer {self._door.token}"}

    def connect(self) -> http.client.HTTPConnection:
        """A connection, not yet made."""
        parts = urlsplit(self._door.url)
        return http.client.HTTPConnection(str(parts.hostname), parts.port)

    def gone(self, error: Exception) -> OmniGraphError:
        """The one line."""
        return OmniGraphError(f"no deployment answers at {self._door.url}: {error or type(error).__name__}")


class RemoteApp:
    """What ``run`` needs of an App."""

    def __init__(self, remote: Remote, plan: Plan) -> None:
        self._remote = remote
        self._plan = plan

    def start(
        self,
        inputs: Mapping[str, Any],
        outputs: Iterable[str],
        params: Params,
        seed: int | None,
        folder: Path,
        session: str | None,
        live: Sequence[str] = (),
    ) -> RemoteHandle:
        """Submit a request; see App.start. Raises what its admission raises."""
        asked = tuple(outputs)
        packets = read_inputs(self._plan, inputs, asked, folder, live)
        supplied = {name: found for name, found in packets.items() if name not in live}
        head = {"inputs": list(packets), "outputs": asked, "params": params, "seed": seed, "session": session}
        return RemoteHandle(self._remote, self._plan, head, supplied)

    def trace(self, handle: RemoteHandle) -> Trace:
        """See App.trace."""
        return make_trace(self._plan, handle.trace_id, handle.request, handle.total_s, handle.stages)

    @property
    def paused(self) -> int:
        """See App.paused."""
        return int(self._remote.get("/status")["requests"]["paused"])


class RemoteHandle:
    """One request over a connection of its own; to close it is to cancel."""

    def __init__(
        self, remote: Remote, plan: Plan, head: Mapping[str, Any], packets: Mapping[str, Iterable[Any]]
    ) -> None:
        self._remote = remote
        self._kinds = {name: plan.edges[number].type for name, number in plan.outputs.items()}
        self._broken: RequestError | None = None
        self._sending = threading.Lock()
        self._supplied = threading.Event()
        self._inputs = frozenset(head["inputs"])
        self._open = set(self._inputs)
        self.total_s, self.retries = 0.0, 0
        self.stages: Mapping[str, Any] = {}
        try:
            self._answer = self._begin(head, packets)
            first = self._line()
        except (OSError, http.client.HTTPException) as error:
            raise self._broken or remote.gone(error) from None
        self.request, self.seed, self.trace_id = str(first["request"]), int(first["seed"]), str(first["trace_id"])

    def _begin(self, head: Mapping[str, Any], packets: Mapping[str, Iterable[Any]]) -> http.client.HTTPResponse:
        connection = self._remote.connect()
        connection.putrequest("POST", "/run")
        for name, value in {**self._remote.headers, "Transfer-Encoding": "chunked"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        self._socket = connection.sock.dup()  # the connection lets go of its own as soon as the answer begins
        _send(self._socket, head)
        threading.Thread(target=self._upload, args=(packets,), name="upload", daemon=True).start()
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            _object(answer)
        return answer

    def _upload(self, packets: Mapping[str, Iterable[Any]]) -> None:
        """One packet of each input in turn; a file that cannot be read any more ends the request."""
        try:
            for name, packet in _in_turn(packets):
                self._send({"input": name, "packet": packet_to_json(packet)})
            for name in packets:
                self._send_end(name)
            if not self._inputs:
                self._socket.sendall(LAST_CHUNK)
        except RequestError as error:
            self._broken = error
            self.cancel()
        except OSError:  # the other side has ended the request, and says why on its own way
            return
        finally:
            self._supplied.set()

    def write(self, name: str, packet: Any) -> None:
        """See Handle.write; what is written after the request's end is ignored, as there.

        Waits for what was supplied whole to be sent: lines are taken in order, and the graph may need that first.
        """
        self._supplied.wait()
        try:
            self._send({"input": name, "packet": packet_to_json(packet)})
        except OSError:  # it has ended, and says why on its own way
            return

    def end(self, name: str) -> None:
        """See Handle.end."""
        try:
            self._send_end(name)
        except OSError:  # it has ended
            return

    def _send(self, line: Mapping[str, Any]) -> None:
        with self._sending:
            _send(self._socket, line)

    def _send_end(self, name: str) -> None:
        """The input is complete; with the last one the upload is."""
        with self._sending:
            _send(self._socket, {"end": name})
            self._open.discard(name)
            if not self._open:
                self._socket.sendall(LAST_CHUNK)

    def __iter__(self) -> Iterator[PacketEvent]:
        """Packets in order of arrival; see Handle."""
        while "output" in (line := self._line()):
            name = line["output"]
            yield PacketEvent(name, packet_from_json(self._kinds[name], line["packet"]))
        self.cancel()
        if "error" in line:
            raise error_from_json(line["error"])
        ended = line["ended"]
        self.total_s, self.retries, self.stages = ended["total_s"], ended["retries"], ended["stages"]

    def _line(self) -> dict[str, Any]:
        try:
            line = self._answer.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise self._broken or RequestError("", Code.CLOSED, "the deployment went away in the middle of the answer")
        said: dict[str, Any] = json.loads(line)
        return said

    def cancel(self) -> None:
        """Give up, or be done. Idempotent."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is
            pass


def _in_turn(packets: Mapping[str, Iterable[Any]]) -> Iterator[tuple[str, Any]]:
    waiting = {name: iter(supplied) for name, supplied in packets.items()}
    while waiting:
        for name in tuple(waiting):
            try:
                yield name, next(waiting[name])
            except StopIteration:
                del waiting[name]


def _send(to: socket.socket, line: Mapping[str, Any]) -> None:
    """A line of JSON as one chunk."""
    data = json.dumps(line).encode() + b"\n"
    to.sendall(b"%x\r\n%b\r\n" % (len(data), data))


def _object(answer: http.client.HTTPResponse) -> dict[str, Any]:
    """The body of an answer. Raises the error that it tells of."""
    try:
        said = json.loads(answer.read())
    except ValueError:
        raise OmniGraphError(f"what answers ({answer.status}) is no control server of ours") from None
    if answer.status != http.HTTPStatus.OK:
        raise error_from_json(said["error"])
    return dict(said)
