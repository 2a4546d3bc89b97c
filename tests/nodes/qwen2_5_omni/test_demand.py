"""A caller that stops reading pauses its own request up to the Thinker, within the plan's bound, and may read on later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from omni_graph.frames import Data
from omni_graph.gateway_request import Event, OutputPacket
from omni_graph.payload import max_packet_bytes, packet_bytes
from omni_graph.plan import Plan
from omni_graph.runtime.app import App, Handle
from omni_graph.runtime.mailbox import Mailbox
from omni_graph.streams import InStream
from tests.nodes.qwen2_5_omni.apps import greedy, launch
from tests.nodes.qwen2_5_omni.conversations import user
from tests.runtime.graphs import eventually

TEXT = [user("tell me a long story")]
TOKENS, CODES = 300, 330
THOUGHTS, OUTPUT_BYTES = 16, 512
THOUGHT_EDGE = "thinker.thought -> talker.thought"


@pytest.fixture
def app(tiny_folder: Path) -> Iterator[App]:
    """Small buffers and a thought window that the reply outgrows, so that demand reaches the Thinker."""
    settings = [f"nodes.talker.inputs.thought={{from: thinker.thought, window: {THOUGHTS}}}"]
    with launch(tiny_folder, "low_latency", settings=settings, limits={"output_bytes": OUTPUT_BYTES}) as running:
        yield running


class Peaks:
    """The most that has ever waited, seen at every arrival, which is when a stream and a caller's buffer are fullest.

    ``waiting``: {(request, edge): (packets, bytes)}. ``unread``: {output: bytes that a packet was put on top of}.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: dict[tuple[str, str], tuple[int, int]] = {}
        self.unread: dict[str, int] = {}
        on_data, put = InStream.on_data, Mailbox.put

        def watched_on_data(stream: InStream, frame: Data) -> bool:
            waits = on_data(stream, frame)
            self._arrived(stream)
            return waits

        def watched_put(mailbox: Mailbox, event: Event) -> None:
            self._delivered(tuple(mailbox._events), event)
            put(mailbox, event)

        monkeypatch.setattr(InStream, "on_data", watched_on_data)
        monkeypatch.setattr(Mailbox, "put", watched_put)

    def _arrived(self, stream: InStream) -> None:
        key = (stream.request, stream.edge.name)
        packets, size = self.waiting.get(key, (0, 0))
        now = sum(packet_bytes(packet) for _, packet in tuple(stream.waiting) if packet is not None)
        self.waiting[key] = max(packets, len(stream.waiting)), max(size, now)

    def _delivered(self, before: Sequence[Event], event: Event) -> None:
        if isinstance(event, OutputPacket):
            same = [e.size for e in before if isinstance(e, OutputPacket) and e.output == event.output]
            self.unread[event.output] = max(self.unread.get(event.output, 0), sum(same))

    def check(self, plan: Plan) -> None:
        """No stream held more than its window, nor more bytes than its row of the plan's bound gives one request; no
        caller's buffer took a packet when it was full."""
        rows = {row.edge: row for row in plan.bound.rows}
        edges = {edge.name: edge for edge in plan.edges}
        for (request, name), (packets, size) in self.waiting.items():
            edge, allowed = edges[name], rows[name].total / plan.deploy.max_requests
            assert packets <= edge.window, f"{request}: {packets} packets on {name}; allowed: {edge.window}"
            assert allowed == edge.window * max_packet_bytes(edge.type), name
            assert size <= allowed, f"{request}: {size} bytes on {name}; allowed: {allowed}"
        for output, size in self.unread.items():
            assert size < OUTPUT_BYTES, f"{output}: a packet on top of {size} bytes; allowed: less than {OUTPUT_BYTES}"


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> Peaks:
    return Peaks(monkeypatch)


def tokens_made(app: App, request: str) -> int:
    """How many tokens the Thinker has chosen for the request."""
    thinker = app._deployment.handles["thinker/0.0"]._worker.core._nodes["thinker"]  # type: ignore[attr-defined]
    return int(thinker.requests[request].choices) if request in thinker.requests else 0


def answer(handle: Handle) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    tokens: list[int] = []
    codes: list[int] = []
    samples = 0
    for event in handle:
        if event.output == "text":
            tokens += event.packet.token_ids
        elif event.output == "codes":
            codes += event.packet.values.values.reshape(-1).tolist()
        else:
            samples += len(event.packet.samples)
    return tuple(tokens), tuple(codes), samples


def others_complete(app: App) -> None:
    others = [app.start({"conversation": [user(f"be brief {i}")]}, params=greedy(8, 16), seed=i) for i in range(3)]
    for other in others:
        assert len(answer(other)[1]) == 16


def test_a_caller_that_stops_reading_pauses_the_thinker_of_its_request_alone(app: App, peaks: Peaks) -> None:
    undisturbed = answer(app.start({"conversation": TEXT}, params=greedy(TOKENS, CODES), seed=1))
    assert len(undisturbed[0]) == TOKENS and len(undisturbed[1]) == CODES

    slow = app.start({"conversation": TEXT}, params=greedy(TOKENS, CODES), seed=1)
    eventually(lambda: app.paused == 1 and tokens_made(app, slow.request) > 0, within_s=60)
    made = [-1, tokens_made(app, slow.request)]
    while made[-1] != made[-2]:  # until it has come to rest, others go on; bounded by the tokens it may make
        others_complete(app)
        made.append(tokens_made(app, slow.request))
    assert 0 < made[-1] < TOKENS
    others_complete(app)
    assert tokens_made(app, slow.request) == made[-1]
    peaks.check(app.plan)
    assert peaks.waiting[slow.request, THOUGHT_EDGE][0] == THOUGHTS  # it was this window that paused the Thinker
    assert set(peaks.unread) == {"text", "codes", "speech"}
    assert answer(slow) == undisturbed
    peaks.check(app.plan)
