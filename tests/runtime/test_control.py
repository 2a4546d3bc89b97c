"""The control server: closed to whoever has no token or comes from a browser, exact in what it takes, and a live stream."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from omni_graph.errors import Code, Overloaded, RequestError
from omni_graph.payload import Array, AudioChunk, Blob, Conversation, TextDelta
from omni_graph.runtime.app import App
from omni_graph.runtime.control import GETS, MAX_BODY, POSTS, ControlServer
from omni_graph.runtime.json_packets import packet_from_json, packet_to_json
from omni_graph.runtime.wire_errors import error_from_json, error_to_json
from tests.runtime.graphs import eventually, flood, held, launch, tagged

ROUTES = [("GET", path) for path in GETS] + [("POST", path) for path in POSTS]
Answer = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with launch(tagged(), "threads", max_requests=4, queue=1) as running:
        yield running


@pytest.fixture(scope="module")
def server(app: App) -> Iterator[ControlServer]:
    serving = ControlServer(app)
    yield serving
    serving.close()


def connect(server: ControlServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)


def call(server: ControlServer, method: str, path: str, body: object = None, **headers: str | None) -> Answer:
    """The status and the object of one request; a header that is None is left out."""
    sent = {"Authorization": f"Bearer {server.token}", **{name.title(): value for name, value in headers.items()}}
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection = connect(server)
    connection.request(method, path, data, {name: value for name, value in sent.items() if value is not None})
    answer = connection.getresponse()
    found = json.loads(answer.read().splitlines()[-1])
    connection.close()
    return answer.status, found


def raw(server: ControlServer, data: bytes) -> bytes:
    """Everything that is answered to these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


# ---- the gate


@pytest.mark.parametrize(
    ("method", "path"), [*ROUTES, ("GET", "/"), ("PUT", "/scale"), ("OPTIONS", "/run"), ("GET", "/logs?token=x")]
)
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x"]
)
def test_nothing_is_answered_without_the_token(
    server: ControlServer, method: str, path: str, given: str | None
) -> None:
    header = None if given is None else given.format(token=server.token)
    status, answer = call(server, method, path, {"stage": "a", "replicas": 2}, authorization=header)
    assert status == 401 and server.token not in json.dumps(answer)
    assert len(server.app.status()["stages"]["a"]["replicas"]) == 1


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"host": "evil.example:80"}, {"origin": "http://127.0.0.1"}]
)
def test_a_browser_has_no_business_here(server: ControlServer, headers: dict[str, str]) -> None:
    for method, path in ROUTES:
        assert call(server, method, path, **headers)[0] == 403


def test_no_answer_allows_another_origin(server: ControlServer) -> None:
    said = raw(
        server, f"GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
    )
    assert said.startswith(b"HTTP/1.1 200") and b"access-control" not in said.lower()


def test_it_listens_on_the_loopback_alone(server: ControlServer) -> None:
    assert server.server_address[0] == "127.0.0.1" and server.url == f"http://127.0.0.1:{server.server_port}"


def test_whoever_does_not_say_what_he_wants_is_cut_off(app: App) -> None:
    impatient = ControlServer(app, head_timeout_s=0.2)
    try:
        assert raw(impatient, b"GET /status HTTP/1.1\r\nHost: localhost\r\n") == b""
        head = f"POST /scale HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {impatient.token}\r\n"
        assert b"200" not in raw(impatient, head.encode() + b"Content-Length: 20\r\n\r\n{")
    finally:
        impatient.close()


# ---- routes


def test_status_scale_drain_and_replace(server: ControlServer) -> None:
    def replicas(answer: Answer) -> list[str]:
        assert answer[0] == 200
        return [one["id"] for one in answer[1]["stages"]["a"]["replicas"]]

    assert call(server, "GET", "/status")[1] == server.app.status()
    first = replicas(call(server, "POST", "/scale", {"stage": "a", "replicas": 2}))
    assert replicas(call(server, "POST", "/drain", {"stage": "a", "replica": 0, "drain_timeout_s": 5})) == first[1:]
    renewed = replicas(call(server, "POST", "/replace", {"stage": "a", "config": {"tag": "new"}}))
    assert len(renewed) == 1 and renewed != first[1:]
    assert run(server, "who?")[-2]["packet"]["text"].startswith("new")
    assert call(server, "GET", "/logs?stage=a")[1] == {"logs": {renewed[0]: []}}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/scale", {"stage": "aa", "replicas": 2}, "no stage 'aa'"),
        ("/scale", {"stage": "a", "replicas": 0}, "at least 1"),
        ("/scale", {"stage": "a", "replicas": "2"}, "replicas: Input should be a valid integer"),
        ("/scale", {"stage": "a", "replicas": 2, "more": 1}, "more: Extra inputs"),
        ("/scale", b"{", "Invalid JSON"),
        ("/scale", b" " * (MAX_BODY + 1), f"at most {MAX_BODY}"),
        ("/drain", {"stage": "a", "replica": 77}, "no replica 77"),
        ("/replace", {"stage": "a", "config": {"tag": 1}}, "takes str"),
        ("/run", b"[]\n", "Input should be an object"),
        ("/run", b"", "EOF while parsing"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(
    server: ControlServer, path: str, body: object, message: str
) -> None:
    status, answer = call(server, "POST", path, body)
    assert status == 400 and message in answer["error"]["message"]


def test_what_is_not_there_is_said_so(server: ControlServer) -> None:
    assert call(server, "GET", "/nowhere")[0] == 404
    assert call(server, "GET", "/scale")[0] == call(server, "POST", "/status")[0] == 405
    assert call(server, "GET", "/logs?stage=zz")[0] == call(server, "GET", "/logs?lines=0")[0] == 400


# ---- run


def upload(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def says(text: str) -> dict[str, Any]:
    return {"input": "text", "packet": {"text": text}}


def run(server: ControlServer, *texts: str, **head: object) -> list[dict[str, Any]]:
    """All lines of the answer."""
    connection = connect(server)
    body = upload({"inputs": ["text"], "outputs": ["half"], **head}, *map(says, texts))
    connection.request("POST", "/run", body, {"Authorization": f"Bearer {server.token}"})
    answer = connection.getresponse()
    assert answer.status == 200
    lines = [json.loads(line) for line in answer]
    connection.close()
    return lines


def test_a_request_is_answered_packet_by_packet(server: ControlServer) -> None:
    first, *packets, last = run(server, "one ", "two", seed=7, params={"a": {"suffix": "!"}}, session="s")
    assert first["seed"] == 7 and first["request"].startswith("r-") and len(first["trace_id"]) == 32
    assert [(line["output"], line["packet"]["text"]) for line in packets] == [("half", "ONE !"), ("half", "TWO!")]
    assert set(last["ended"]["stages"]) == {"a"} and last["ended"]["retries"] == 0 and last["ended"]["total_s"] > 0


def test_answers_come_while_the_upload_goes_on(server: ControlServer) -> None:
    connection = connect(server)
    connection.putrequest("POST", "/run")
    connection.putheader("Authorization", f"Bearer {server.token}")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()

    sending = connection.sock.dup()  # the connection forgets its own as soon as an answer that will close it begins

    def send(data: bytes) -> None:
        sending.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    send(upload({"inputs": ["text"], "outputs": ["half"]}))
    answer = connection.getresponse()
    assert "request" in json.loads(answer.readline())
    for word in ("one", "two"):
        data = upload(says(word))
        send(data[:5])
        send(data[5:])
        assert json.loads(answer.readline())["packet"]["text"] == word.upper()
    sending.sendall(b"0\r\n\r\n")
    assert "ended" in json.loads(answer.readline()) and answer.readline() == b""
    sending.close()
    answer.close()


@pytest.mark.parametrize("when", ["in the middle of its upload", "while it waits"])
def test_a_client_that_goes_away_cancels(server: ControlServer, when: str) -> None:
    before = server.app.status()["requests"]["cancelled"]
    body = upload({"inputs": ["text"], "outputs": ["half"]}, says("one"))
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as client:
        head = f"POST /run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
        if when == "while it waits":
            body += upload(says("hang?"))
        more = 1 if when == "in the middle of its upload" else 0
        client.sendall(f"{head}Content-Length: {len(body) + more}\r\n\r\n".encode() + body)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        if when == "while it waits":
            return
    eventually(lambda: server.app.status()["requests"]["cancelled"] == before + 1)
    eventually(lambda: held(server.app) == 0)


def test_a_client_that_does_not_read_holds_up_its_own_request_and_cancels_when_it_goes() -> None:
    with launch(flood(count=2000, size=60_000), "threads") as app:
        server = ControlServer(app)
        try:
            body = upload({"inputs": ["text"], "outputs": ["blobs"]}, says("go"))
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as client:
                head = f"POST /run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
                client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                eventually(lambda: app.paused == 1)
            eventually(lambda: app.status()["requests"]["cancelled"] == 1 and held(app) == 0)
        finally:
            server.close()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"input": "txt", "packet": {"text": "x"}}], "of an input named in the head: text"),
        ([{"input": "text", "packet": {"txt": "x"}}], "TextDelta: got txt; expected the fields text, token_ids"),
        ([{"input": "text", "packet": {"text": 3}}], "TextDelta.text: got int; expected str"),
        ([{"input": "text"}], "one of an input"),
        ([3], "no JSON object"),
        ([{"input": "text", "packet": {"text": "x" * 70_000}}], "a packet of 70000 bytes; allowed: 65536"),
        ([{"end": "text"}, {"input": "text", "packet": {"text": "x"}}], "no input 'text' to write to"),
    ],
)
def test_a_bad_line_ends_the_request_with_its_reason(server: ControlServer, lines: list[Any], message: str) -> None:
    connection = connect(server)
    body = upload({"inputs": ["text"], "outputs": ["half"]}, *lines)
    connection.request("POST", "/run", body, {"Authorization": f"Bearer {server.token}"})
    last = json.loads(connection.getresponse().read().splitlines()[-1])
    connection.close()
    if message == "one of an input":
        message = "of an input named in the head: text"
    assert message in last["error"]["message"]


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ({"inputs": [], "outputs": ["half"]}, "invalid_input"),
        ({"inputs": ["text"], "outputs": ["no"]}, "invalid_input"),
        ({"inputs": ["text", "more"]}, "invalid_input"),
        ({"inputs": ["text"], "params": {"a": {"none": 1}}}, "invalid_input"),
    ],
)
def test_a_refused_request_is_told_at_once(server: ControlServer, head: dict[str, Any], code: str) -> None:
    status, answer = call(server, "POST", "/run", upload(head, *[says("x")] * 3))
    assert (status, answer["error"]["code"]) == (400, code)


def test_an_overloaded_deployment_says_when_to_come_back(server: ControlServer) -> None:
    handles = [server.app.open(outputs=["half"]) for _ in range(5)]
    status, answer = call(server, "POST", "/run", upload({"inputs": ["text"]}, says("x")))
    assert status == 503 and answer["error"]["code"] == "overloaded" and 1 <= answer["error"]["retry_after_s"] <= 30
    for handle in handles:
        handle.cancel()


def test_a_failed_request_says_why(server: ControlServer) -> None:
    *_, last = run(server, "boom")
    assert (last["error"]["code"], last["error"]["stage"]) == ("node_failed", "a")
    assert "boom was said" in last["error"]["message"]


# ---- packets and errors as JSON


@pytest.mark.parametrize(
    "packet",
    [
        TextDelta("é", (1, 2), "stop", (("prompt.text", 3),)),
        AudioChunk(Array.of(np.linspace(-1, 1, 7, dtype=np.float32)), 24_000),
        Blob(b"\x00\xff", "x/y"),
        Conversation(media=0, data=b"abc", last=False),
    ],
)
def test_a_packet_comes_back_as_it_was(packet: Any) -> None:
    assert packet_from_json(type(packet), json.loads(json.dumps(packet_to_json(packet)))) == packet


def array(**changed: Any) -> dict[str, Any]:
    return {"samples": {"dtype": "float32", "shape": [1], "data": "AAAAAA==", **changed}, "sample_rate": 1}


@pytest.mark.parametrize(
    ("kind", "item", "message"),
    [
        (TextDelta, [], "got list; expected an object"),
        (TextDelta, {"text": "x", "more": 1}, "TextDelta: got more, text; expected the fields text, token_ids"),
        (TextDelta, {"text": "x", "token_ids": [True]}, r"token_ids\[0\]: got bool; expected int"),
        (TextDelta, {"text": "x", "usage": [["a"]]}, r"usage\[0\]: got 1 items; expected 2 items"),
        (Blob, {"data": {"data": "?"}}, "base64"),
        (AudioChunk, array(dtype="object"), "with a dtype of"),
        (AudioChunk, array(shape=[2]), r"got 4 bytes; expected the 8 bytes of \[2\]"),
        (AudioChunk, array(shape=[-1]), "a list of sizes"),
        (AudioChunk, array(data=base64.b64encode(b"abc").decode()), "got 3 bytes"),
    ],
)
def test_a_packet_that_is_none_is_refused_by_field(kind: type, item: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        packet_from_json(kind, item)
    assert error.value.code is Code.INVALID_INPUT


def test_an_error_is_the_same_on_the_other_side() -> None:
    for error in (
        RequestError("r", Code.NODE_FAILED, "broke\nTraceback", stage="a"),
        Overloaded("r", "full", stage="a", retry_after_s=9),
    ):
        back = error_from_json(json.loads(json.dumps(error_to_json(error))))
        assert type(back) is type(error) and vars(back) == vars(error)
