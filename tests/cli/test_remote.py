"""The client of a deployment that another process holds, against one that a socket plays."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omni_graph.cli.places import Door
from omni_graph.cli.remote import Remote, RemoteHandle
from omni_graph.load import load_graph
from omni_graph.payload import Array, AudioChunk, VideoFrame
from omni_graph.plan import make_plan

LISTEN = str(Path(__file__).parent / "listen.yaml")
ADMITTED = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"request": "r", "seed": 1, "trace_id": "t"}\n'


def test_what_is_written_live_is_sent_after_what_was_supplied_whole() -> None:
    more = threading.Event()

    def pictures() -> Iterator[VideoFrame]:
        for time in (0.0, 0.5):
            yield VideoFrame(Array.of(np.zeros((2, 2, 3), np.uint8)), time)
            assert more.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[tuple[str, str]] = []
        serving = threading.Thread(target=_serve, args=(server, taken), daemon=True)
        serving.start()
        head = {"inputs": ["pictures", "sound"]}
        door = Door(url=f"http://127.0.0.1:{server.getsockname()[1]}", token="token")
        handle = RemoteHandle(Remote(door), make_plan(load_graph(LISTEN)), head, {"pictures": pictures()})
        chunk = AudioChunk(Array.of(np.zeros(80, np.float32)), 8_000)
        writer = threading.Thread(target=handle.write, args=("sound", chunk), daemon=True)
        writer.start()
        writer.join(0.2)  # no longer than a write takes that does not wait
        assert writer.is_alive()
        more.set()
        writer.join(20)
        handle.end("sound")
        serving.join(20)
    order = [("input", "pictures")] * 2 + [("end", "pictures"), ("input", "sound"), ("end", "sound")]
    assert taken == order


def _serve(server: socket.socket, taken: list[tuple[str, str]]) -> None:
    """Admits a request, and lists what its lines say of which input."""
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as lines:
        while lines.readline() != b"\r\n":
            pass
        connection.sendall(ADMITTED)
        while size := int(lines.readline(), 16):
            said = json.loads(lines.read(size + 2))
            if word := next((one for one in ("input", "end") if one in said), None):
                taken.append((word, said[word]))
