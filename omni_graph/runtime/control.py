"""The control server of a deployment: a small JSON API on the loopback, for whoever holds its token and nobody else.

Every request passes one gate before anything is looked at: the Host it was meant for, no browser's Origin, the token.
It never binds to another address, answers no cross-origin request, and reads no more than it has asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeFloat, ValidationError

from omni_graph.errors import OmniGraphError, Overloaded, RequestError, ScaleError
from omni_graph.runtime.app import App
from omni_graph.runtime.control_run import RunExchange
from omni_graph.runtime.http_body import BodyError
from omni_graph.runtime.scaling import START_TIMEOUT_S
from omni_graph.runtime.wire_errors import error_to_json

log = logging.getLogger("omni_graph.control")
LOOPBACK = "127.0.0.1"
MAX_BODY = 1 << 20
HEAD_TIMEOUT_S = 10.0
LINGER_S = 2.0
MAX_CONNECTIONS = 256
LOG_LINES = 200
MAX_LOG_LINES = 10_000


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    stage: str
    timeout_s: NonNegativeFloat = START_TIMEOUT_S
    drain_timeout_s: NonNegativeFloat | None = None


class ScaleBody(_Body):
    """POST /scale."""

    replicas: int


class DrainBody(_Body):
    """POST /drain; no ``replica``: all of the stage."""

    replica: int | None = None


class ReplaceBody(_Body):
    """POST /replace."""

    config: dict[str, JsonValue] = Field(default={})


class ControlServer(ThreadingHTTPServer):
    """Serves ``app`` from construction to ``close``. ``url`` and ``token`` are what a client needs."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, app: App, port: int = 0, head_timeout_s: float = HEAD_TIMEOUT_S) -> None:
        self.app = app
        self.token = secrets.token_urlsafe(32)
        self.head_timeout_s = head_timeout_s
        self._token_hash = hashlib.sha256(self.token.encode()).digest()
        self._connections = threading.Semaphore(MAX_CONNECTIONS)
        self._open = 0
        self._all_closed = threading.Condition()
        super().__init__((LOOPBACK, port), _Handler)
        self.url = f"http://{LOOPBACK}:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="control", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Without a look-up of our name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    def knows(self, authorization: str) -> bool:
        """Is this the header of our token? In constant time."""
        scheme, _, token = authorization.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(given, self._token_hash) and scheme.lower() == "bearer"

    def hosts(self) -> frozenset[str]:
        """The Host headers of requests that are meant for us."""
        return frozenset(f"{name}{port}" for name in (LOOPBACK, "localhost") for port in ("", f":{self.server_port}"))

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection; none past the most."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._all_closed:
            self._open += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The life of a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()
            with self._all_closed:
                self._open -= 1
                self._all_closed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        log.debug("a control connection broke", exc_info=True)

    def close(self, grace_s: float = 5.0) -> None:
        """Accept nothing more; what is being answered has ``grace_s`` seconds to be heard."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._all_closed:
            self._all_closed.wait_for(lambda: self._open == 0, grace_s)


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, one connection."""

    server: ControlServer
    protocol_version = "HTTP/1.1"
    close_connection = True

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.head_timeout_s)
        self._cutter = threading.Timer(self.server.head_timeout_s, self._cut)
        self._cutter.daemon = True
        self._cutter.start()

    def finish(self) -> None:
        super().finish()
        self._linger()
        self._cutter.cancel()

    def _linger(self) -> None:
        """Until the client has closed: to close on what it still sends would take our answer away from it."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_S)
            until = time.monotonic() + LINGER_S
            while time.monotonic() < until and self.connection.recv(1 << 16):
                pass
        except OSError:
            return

    def _cut(self) -> None:
        """Whoever needs longer to say what he wants, one byte at a time, is not waited for."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def parse_request(self) -> bool:
        """The gate: before any method or route is looked at."""
        return super().parse_request() and self._admitted()

    def _admitted(self) -> bool:
        self.close_connection = True
        if self.headers.get("Host", "") not in self.server.hosts() or "Origin" in self.headers:
            self.send_error(HTTPStatus.FORBIDDEN, "this address serves programs on this machine only")
        elif not self.server.knows(self.headers.get("Authorization", "")):
            self.send_error(
                HTTPStatus.UNAUTHORIZED, "the token of this deployment is needed: Authorization: Bearer TOKEN"
            )
        else:
            return True
        return False

    def do_GET(self) -> None:
        """Ask."""
        self._cutter.cancel()
        self._route(GETS)

    def do_POST(self) -> None:
        """Change, or run."""
        self._route(POSTS)

    def _route(self, table: Mapping[str, Callable[[_Handler], None]]) -> None:
        path = urlsplit(self.path).path
        route = table.get(path)
        if route is None:
            known = path in GETS or path in POSTS
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND, f"{self.command} {path}")
            return
        try:
            route(self)
        except (ValidationError, BodyError, ScaleError) as error:
            self.answer({"error": {"message": _one_line(error)}}, HTTPStatus.BAD_REQUEST)
        except OmniGraphError as error:
            self.answer({"error": error_to_json(error)}, _status_of(error))

    # ---- answers

    def answer(self, body: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        """One JSON object."""
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def end_headers(self) -> None:
        self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """As JSON, also where the standard library refuses."""
        self.close_connection = True
        self.answer({"error": {"message": message or HTTPStatus(code).phrase}}, HTTPStatus(code))

    def version_string(self) -> str:
        return "omni-graph"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("%s", format % args)

    # ---- routes

    def body(self) -> bytes:
        """The whole of a small body."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            raise BodyError(f"a body needs a Content-Length of at most {MAX_BODY}; got {length or 'none'}")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise BodyError("the body broke off")
        self._cutter.cancel()
        return data

    def get_status(self) -> None:
        self.answer(self.server.app.status())

    def get_logs(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        lines = query.get("lines", [str(LOG_LINES)])[-1]
        if not lines.isdecimal() or not 0 < int(lines) <= MAX_LOG_LINES:
            raise BodyError(f"lines: 1 to {MAX_LOG_LINES}; got {lines}")
        stage = query.get("stage", [None])[-1]
        self.answer({"logs": self.server.app.logs(stage, int(lines))})

    def post_scale(self) -> None:
        asked = ScaleBody.model_validate_json(self.body())
        self.server.app.scale(asked.stage, asked.replicas, asked.timeout_s, asked.drain_timeout_s)
        self.get_status()

    def post_drain(self) -> None:
        asked = DrainBody.model_validate_json(self.body())
        self.server.app.drain(asked.stage, asked.replica, asked.timeout_s, asked.drain_timeout_s)
        self.get_status()

    def post_replace(self) -> None:
        asked = ReplaceBody.model_validate_json(self.body())
        self.server.app.replace(asked.stage, asked.config, asked.timeout_s, asked.drain_timeout_s)
        self.get_status()

    def post_run(self) -> None:
        self._cutter.cancel()
        exchange = RunExchange(self.server.app, self.connection, self.rfile, self.headers)  # type: ignore[arg-type]
        handle = exchange.begin()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/jsonl")
        self.end_headers()
        exchange.serve(handle)


GETS: Mapping[str, Callable[[_Handler], None]] = {"/status": _Handler.get_status, "/logs": _Handler.get_logs}
POSTS: Mapping[str, Callable[[_Handler], None]] = {
    "/scale": _Handler.post_scale,
    "/drain": _Handler.post_drain,
    "/replace": _Handler.post_replace,
    "/run": _Handler.post_run,
}


def _status_of(error: OmniGraphError) -> HTTPStatus:
    if isinstance(error, Overloaded):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, RequestError):
        return HTTPStatus.SERVICE_UNAVAILABLE if error.retryable else HTTPStatus.BAD_REQUEST
    return HTTPStatus.CONFLICT


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors())
    return str(error)
