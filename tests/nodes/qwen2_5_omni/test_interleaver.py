"""The interleaver node: every row in its place, whatever the order in which layout and rows arrive."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pytest

from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, max_packet_bytes, packet_bytes
from omni_graph.testing import NodeRun, run_node
from omni_nodes.payloads import Embeddings, LayoutSegment, PromptSegment
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.embedding_rows import EmbeddingRows
from omni_nodes.qwen2_5_omni.interleaver import Interleaver
from omni_nodes.qwen2_5_omni.layout import AudioSpan, ImageSpan, Run, Span, VideoSpan, lay_out
from omni_nodes.qwen2_5_omni.settings import MediaTokens
from omni_nodes.qwen2_5_omni.tmrope import TMRoPE

WIDTH = 3584  # as published: 72 rows fill a packet
SPANS: list[Span] = [AudioSpan(130), ImageSpan((1, 4, 6)), VideoSpan((6, 4, 6), 1.0, 130), VideoSpan((2, 20, 20), 1.0)]


@pytest.fixture(scope="module")
def tokens(tiny_folder) -> MediaTokens:
    return open_checkpoint(str(tiny_folder)).settings.tokens


@pytest.fixture
def node(tiny_folder) -> Interleaver:
    return Interleaver(str(tiny_folder))


def layout_of(tokens: MediaTokens, spans: list[Span]) -> list[LayoutSegment]:
    ids = [1, 2, 3]
    for span in spans:
        placeholder = {AudioSpan: tokens.audio, ImageSpan: tokens.image, VideoSpan: tokens.video}[type(span)]
        ids += [tokens.vision_start, placeholder, tokens.vision_end, 7]
    runs = [Run("user", tuple(ids)), Run("assistant", (8, 9))]
    return list(lay_out(runs, spans, tokens, 2))


def rows_of(layout: list[LayoutSegment], kinds: tuple[str, ...], packet_rows: int, first: int) -> list[Embeddings]:
    """Rows whose values number them, in packets of ``packet_rows``."""
    count = sum(len(segment.token_ids) for segment in layout if segment.kind in kinds)
    values = np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], WIDTH, axis=1)
    return [Embeddings(Array.of(values[i : i + packet_rows])) for i in range(0, count, packet_rows)]


def inputs_of(tokens: MediaTokens, spans: list[Span], packet_rows: int = 50) -> dict[str, list]:
    layout = layout_of(tokens, spans)
    return {
        "layout": layout,
        "audio": rows_of(layout, ("audio",), packet_rows, 0),
        "vision": rows_of(layout, ("image", "video"), packet_rows, 10_000),
    }


def test_ids_positions_and_rows_are_those_of_the_layout(node, tokens):
    inputs = inputs_of(tokens, SPANS)
    packets: list[PromptSegment] = run_node(node, {"r": inputs})["r"]["prompt"]
    rope = TMRoPE(tokens.position_id_per_seconds, 2)
    positions = np.concatenate([rope.place(segment) for segment in inputs["layout"]], axis=1)
    ids = np.concatenate([segment.token_ids.values for segment in inputs["layout"]])
    np.testing.assert_array_equal(np.concatenate([p.token_ids.values for p in packets]), ids)
    np.testing.assert_array_equal(np.concatenate([p.positions.values for p in packets], axis=1), positions)
    for kinds, first in ((("audio",), 0), (("image", "video"), 10_000)):
        rows = np.concatenate([p.embeddings.values for p in packets if p.modality in kinds])
        np.testing.assert_array_equal(rows[:, 0], np.arange(first, first + len(rows)))
    assert all(len(p.embeddings) == (0 if p.modality == "text" else len(p.token_ids)) for p in packets)
    assert [p.last for p in packets] == [False] * (len(packets) - 1) + [True]
    assert packets[-1].next_position == rope.next_position
    assert [p.role for p in packets][-1] == "assistant"
    assert max(map(packet_bytes, packets)) > 0.9 * max_packet_bytes(PromptSegment)
    assert max(map(packet_bytes, packets)) <= max_packet_bytes(PromptSegment)


def test_a_prompt_of_text_needs_no_encoder(node, tokens):
    inputs = {"layout": layout_of(tokens, [])}
    packets = run_node(node, {"r": inputs})["r"]["prompt"]
    assert [(p.modality, p.embeddings.shape, p.last) for p in packets] == [
        ("text", (0, 0), False),
        ("text", (0, 0), True),
    ]
    assert packets[-1].next_position == 5


@pytest.mark.parametrize("window", range(1, 9))
def test_packets_do_not_depend_on_arrival(node, tokens, window):
    inputs = inputs_of(tokens, SPANS)
    wanted = run_node(node, {"r": inputs})["r"]["prompt"]
    windows = {"layout": window, "audio": 9 - window, "vision": 1 + window % 3, "prompt": window}
    for seed in range(3):
        split = inputs_of(tokens, SPANS, packet_rows=(1 + 16 * window, 50, 73)[seed])
        got = run_node(node, {"a": split, "b": inputs}, windows=windows, rng=random.Random(seed))
        assert got["a"]["prompt"] == wanted
        assert got["b"]["prompt"] == wanted


def keyed(inputs: dict[str, list], changed: tuple[str, int] = ("", 0), key: bytes = b"other") -> dict[str, list]:
    """The encoders' packets, each with a key of its own; ``key`` for number k of the port in ``changed``."""
    return inputs | {
        port: [
            replace(packet, content_key=key if (port, number) == changed else f"{port} {number}".encode())
            for number, packet in enumerate(inputs[port])
        ]
        for port in ("audio", "vision")
    }


def rows_carried(packet: PromptSegment) -> set[int]:
    """The numbers of the rows in a packet: below 10,000 those of audio."""
    return set(packet.embeddings.values[:, 0].astype(int)) if len(packet.embeddings) else set()


@pytest.mark.parametrize("seed", range(3))
def test_content_keys_do_not_depend_on_arrival_nor_on_other_requests(node, tokens, seed):
    inputs = keyed(inputs_of(tokens, SPANS))
    wanted = [packet.content_key for packet in run_node(node, {"r": inputs})["r"]["prompt"]]
    others = keyed(inputs_of(tokens, SPANS), ("vision", 0))
    windows = {"layout": 2, "audio": 1 + seed, "vision": 3, "prompt": 1 + seed}
    got = run_node(node, {"other": others, "r": inputs}, windows=windows, rng=random.Random(seed))
    assert [packet.content_key for packet in got["r"]["prompt"]] == wanted
    media = [key for key, packet in zip(wanted, got["r"]["prompt"], strict=True) if packet.modality != "text"]
    assert len(set(media)) == len(media) and all(len(key) == 16 for key in media)
    assert all(not packet.content_key for packet in got["r"]["prompt"] if packet.modality == "text")


@pytest.mark.parametrize("changed", [("audio", 0), ("audio", 2), ("vision", 0), ("vision", 4)])
@pytest.mark.parametrize("key", [b"other", b""])
def test_a_content_key_is_of_the_rows_carried_and_of_no_others(node, tokens, changed, key):
    """A changed packet changes the keys of the segments that carry rows of it; one without a key leaves them none."""
    inputs = inputs_of(tokens, SPANS)
    port, number = changed
    first = 50 * number + (10_000 if port == "vision" else 0)
    rows = set(range(first, first + len(inputs[port][number].values)))
    plain = run_node(node, {"r": keyed(inputs)})["r"]["prompt"]
    touched = 0
    for ours, theirs in zip_longest(run_node(node, {"r": keyed(inputs, changed, key)})["r"]["prompt"], plain):
        if rows & rows_carried(ours):
            touched += 1
            assert ours.content_key != theirs.content_key
            assert bool(ours.content_key) == bool(key)
        else:
            assert ours.content_key == theirs.content_key
    assert touched


def test_other_rows_of_the_same_packet_have_another_key():
    def taken(*counts: int) -> list[bytes]:
        rows = EmbeddingRows()
        rows.push(Embeddings(Array.empty(6, 2), b"picture"))
        return [rows.take(count).content_key for count in counts]

    assert taken(3, 3) == taken(3, 3)
    assert len({*taken(3, 3), *taken(6), *taken(2, 4)}) == 5


def test_segments_leave_before_later_rows_have_come(node, tokens):
    """The Thinker may begin on the text and the sound while the pictures are still being encoded."""
    inputs = inputs_of(tokens, [AudioSpan(50), ImageSpan((1, 4, 6))])
    run = NodeRun(node)
    run.open("r", inputs)
    vision = run._supply["r", 2]
    held, vision[:] = vision[:], []
    run._senders["r", 2].ended = True  # the vision encoder has neither sent nor ended
    run.run()
    assert [p.modality for p in run.outputs["r"]["prompt"]] == ["text", "audio", "text"]
    vision[:] = held
    run._senders["r", 2].ended = False
    run.run()
    assert run.complete("r")


def test_room_is_respected_and_nothing_is_taken_without_it(node, tokens):
    inputs = inputs_of(tokens, SPANS)
    run = NodeRun(node, windows={"prompt": 2})
    run.paused.add("r")
    run.open("r", inputs)
    run.run()
    prompt = node._prompts["r"]
    # sent: text, and a packet of 72 rows out of the first two of audio
    assert (len(prompt.audio), len(prompt.vision)) == (100 - 72, 0)
    run.paused.clear()
    run.run()
    assert run.complete("r")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": []}, r"audio ended with 0 rows where audio 0 needs 1"),
        ({"audio": slice(1)}, r"audio ended with 50 rows where audio 0 needs 72"),
        ({"vision": slice(1)}, r"vision ended with 8 rows where video 3 needs 72"),
        ({"layout": slice(-1)}, r"layout ended before its last segment"),
        ({"layout": slice(1)}, r"layout ended before its last segment"),
    ],
)
def test_an_arm_that_ends_early_fails_the_request(node, tokens, change, message):
    inputs = inputs_of(tokens, SPANS)
    for port, part in change.items():
        inputs[port] = inputs[port][part] if isinstance(part, slice) else part
    with pytest.raises(RequestError, match=message) as caught:
        run_node(node, {"r": inputs})
    assert caught.value.code is Code.NODE_FAILED


@pytest.mark.parametrize("port", ["audio", "vision"])
@pytest.mark.parametrize("surplus", [1, 60])
def test_rows_without_a_place_fail_the_request(node, tokens, port, surplus):
    inputs = inputs_of(tokens, SPANS)
    last = inputs[port][-1].values.values
    extra = Embeddings(Array.of(np.concatenate([last[:surplus], last])))
    inputs[port] = [*inputs[port][:-1], extra] if surplus == 1 else [*inputs[port], extra]
    with pytest.raises(RequestError, match=f"{port} sent more than the prompt has places for"):
        run_node(node, {"r": inputs})


def test_one_failed_request_leaves_the_others_alone(node, tokens):
    good, bad = inputs_of(tokens, SPANS), inputs_of(tokens, SPANS)
    bad["vision"] = bad["vision"][:-1]
    run = NodeRun(node)
    run.open("bad", bad)
    run.open("good", good)
    run.run()
    assert set(run.errors) == {"bad"}
    assert run.complete("good")
    run.close("bad")
    run.close("good")
    assert not node._prompts
