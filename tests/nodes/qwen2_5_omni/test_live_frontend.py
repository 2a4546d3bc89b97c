"""The frontend's live inputs: held to the rules of a node, the same packets however they are cut, and one line for what is
wrong, at the packet that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_graph.conversation import conversation_packets
from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, AudioChunk, VideoFrame
from omni_graph.testing import NodeRun, check_node, run_node
from omni_nodes.qwen2_5_omni.frontend import Frontend
from omni_nodes.qwen2_5_omni.layout import LiveSpan
from omni_nodes.qwen2_5_omni.live import live_span
from tests.nodes.qwen2_5_omni.apps import frames, tone
from tests.nodes.qwen2_5_omni.conversations import audio, image, pixels, sound, user
from tests.nodes.qwen2_5_omni.live_requests import LIVE_AUDIO, LIVE_VIDEO, chunks, shown

HEARD = {**LIVE_VIDEO, "audio": True}
SILENT = {**LIVE_VIDEO, "audio": False}
Inputs = dict[str, Sequence[Any]]


@pytest.fixture(scope="module")
def node(tiny_folder: Path) -> Frontend:
    return Frontend(str(tiny_folder))


def inputs(parts: Sequence[Any], said: Sequence[Any] = (), pictures: Sequence[Any] = ()) -> Inputs:
    return {"conversation": list(conversation_packets([user(*parts)])), "live_audio": said, "live_video": pictures}


def run(node: Frontend, given: Inputs, **params: Any) -> dict[str, list[Any]]:
    return run_node(node, {"r": given}, {"r": params})["r"]


def test_live_input_keeps_every_rule_of_a_node(node: Frontend) -> None:
    """Sound between media, a video with its sound whose tracks come in any order, and one without."""
    said, clip = chunks(tone(4.3), [7_000]), frames(5, 28, 56)
    requests = [
        inputs([image(pixels(28, 56)), "hear", LIVE_AUDIO, audio(sound(0.4)), image(pixels(28, 28))], said),
        inputs(["watch", LIVE_VIDEO, "?"], said, shown(clip, 1.0)),
        inputs(["see", SILENT], (), shown(clip, 4.0)),
        inputs(["no place"], said[:2]),
    ]
    check_node(lambda: node, requests, seeds=range(3))


def test_however_it_is_cut_the_packets_are_the_same(node: Frontend) -> None:
    said = tone(4.9)
    wanted = run(node, inputs([LIVE_AUDIO], chunks(said, [len(said)])))
    assert [chunk.features.shape[1] for chunk in wanted["audio"]] == [200, 200, 90]
    for sizes in ([1_600], [1, 40_000, 333], [31_999, 2]):
        assert run(node, inputs([LIVE_AUDIO], chunks(said, sizes))) == wanted


def test_the_prompt_up_to_the_live_place_and_each_block_leave_at_once(node: Frontend) -> None:
    run = NodeRun(node)
    given = inputs(["look", image(pixels(28, 28)), LIVE_AUDIO, "?"], chunks(tone(2.1), [16_000]))
    hold = _Held(run, given)
    hold.feed("live_audio", 0)
    layout = run.outputs["r"]["layout"]
    before = len(layout)
    assert layout[-1].kind == "text" and run.outputs["r"]["vision"] and not run.outputs["r"]["audio"]
    hold.feed("live_audio", 3)
    assert [one.kind for one in layout[before:]] == ["audio"] and len(layout[-1].token_ids) == 50
    assert [chunk.features.shape for chunk in run.outputs["r"]["audio"]] == [(128, 200)]
    assert not layout[-1].last and not node._requests["r"].prepared.live.layout.ended  # type: ignore[union-attr]
    hold.end()
    assert run.complete("r") and layout[-1].last


class _Held:
    """A request whose live packets are fed when the test says so."""

    def __init__(self, run: NodeRun, given: Inputs) -> None:
        self._run = run
        self._packets = list(given["live_audio"])
        run.open("r", {**given, "live_audio": []})
        edges = {edge.reader_port: number for number, edge in run._edges.items() if edge.reader == "node"}
        self._key = ("r", edges["live_audio"])
        self._can_feed = run._can_feed
        self._ended = False
        run._can_feed = lambda key: (
            self._can_feed(key)
            and (  # type: ignore[method-assign]
                key != self._key or self._ended or bool(run._supply[key])
            )
        )

    def feed(self, port: str, count: int) -> None:
        """So many more packets, and all that can move."""
        self._run._supply[self._key] += [self._packets.pop(0) for _ in range(count)]
        self._run.run()

    def end(self) -> None:
        """The input is complete."""
        self._ended = True
        self._run.run()


def test_a_place_that_stays_empty_keeps_its_markers(node: Frontend) -> None:
    for part in (LIVE_AUDIO, LIVE_VIDEO, HEARD):
        outputs = run(node, inputs(["a", part, "b"]))
        assert not outputs["audio"] and not outputs["vision"]
        assert {one.kind for one in outputs["layout"]} == {"text"} and outputs["layout"][-1].last
    plain = run(node, {"conversation": list(conversation_packets([user("a")]))})
    assert run(node, inputs(["a"])) == plain


@pytest.mark.parametrize("came", [None, False, True])
@pytest.mark.parametrize("also", [None, False, True])
def test_what_is_live_is_known_as_soon_as_nothing_can_change_it(came: bool | None, also: bool | None) -> None:
    """And once it is known, what comes later cannot make it another."""
    from omni_nodes.qwen2_5_omni.conversation import LivePart

    for part in (None, LivePart("audio", "a"), LivePart("video", "v"), LivePart("video", "v", True)):
        known = live_span(part, came, also)
        later = {live_span(part, a, b) for a in _may_become(came) for b in _may_become(also)}
        assert known is None or later == {known}
        assert None not in later
    assert live_span(None, False, False) == LiveSpan("")


def _may_become(came: bool | None) -> tuple[bool, ...]:
    return (False, True) if came is None else (came,)


SOUND, CLIP = chunks(tone(0.5), [1_600]), shown(frames(4, 28, 28), 2.0)
BAD: dict[str, tuple[Inputs, str]] = {
    "rate": (inputs([LIVE_AUDIO], [*SOUND, *chunks(tone(0.1), [99], 8_000)]), "from 16000 to 8000 Hz"),
    "nan": (inputs(["a"], [AudioChunk(Array.of(np.full(9, np.nan, np.float32)), 16_000)]), "not a finite number"),
    "stereo": (inputs([LIVE_AUDIO], [AudioChunk(Array.of(np.zeros((9, 2), np.float32)), 16_000)]), "mono"),
    "size": (inputs([LIVE_VIDEO], [], [*CLIP, *shown(frames(1, 56, 28), 0.1)]), "times must not|picture size"),
    "no place": (inputs(["a"], SOUND, CLIP), "live video came without a place"),
    "place for sound": (inputs([LIVE_AUDIO], (), CLIP), "live video came without a place"),
    "unheard": (inputs([SILENT], SOUND, CLIP), "live audio came for a live video without sound"),
    "two places": (inputs([LIVE_AUDIO, LIVE_VIDEO]), "2 live parts, at most 1"),
    "an odd field": (inputs([{**LIVE_AUDIO, "fps": 2}]), "unknown field 'fps'"),
    "picture": (inputs([LIVE_VIDEO], (), [VideoFrame(Array.of(np.zeros((4, 4), np.uint8)), 0.0)]), "uint8"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_bad_live_input_fails_its_request_with_one_line(node: Frontend, given: Inputs, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        run_node(node, {"r": given})
    assert caught.value.code is Code.INVALID_INPUT
    assert not node._requests


def test_a_live_part_belongs_into_the_last_user_turn(node: Frontend) -> None:
    earlier = [user(LIVE_AUDIO), {"role": "assistant", "content": "yes"}, user("and?")]
    for messages, message in (
        (earlier, r"messages\[0\].content\[0\]: a live part belongs into the last user turn"),
        ([{"role": "system", "content": [LIVE_AUDIO]}], "belongs into the last user turn"),
        ([{"role": "system", "content": "Be kind."}], "no user turn"),
    ):
        given = {"conversation": list(conversation_packets(messages)), "live_audio": SOUND}
        with pytest.raises(RequestError, match=message):
            run_node(node, {"r": given})


def test_too_much_is_refused_while_it_comes(tiny_folder: Path) -> None:
    node = Frontend(str(tiny_folder), limits={"audio_seconds": 3.0, "video_frames": 4})
    for given, message in (
        (inputs([LIVE_AUDIO], chunks(tone(3.2), [16_000])), "lasts more than 3 s"),
        (inputs([SILENT], (), shown(frames(5, 28, 28), 2.0)), "more than 4 frames"),
    ):
        with pytest.raises(RequestError, match=message):
            run_node(node, {"r": given})


def test_the_context_bounds_live_input(tiny_folder: Path) -> None:
    node = Frontend(str(tiny_folder))
    node._preparer._context = 130
    with pytest.raises(RequestError, match=r"the live input has 150 tokens; the prompt around it leaves 1\d\d"):
        run_node(node, {"r": inputs([LIVE_AUDIO], chunks(tone(9.0), [16_000]))})


def test_the_parameter_makes_live_video_heard_that_does_not_say(node: Frontend) -> None:
    given = inputs([LIVE_VIDEO], SOUND, CLIP)
    assert run(node, given, audio_in_video=True) == run(node, inputs([HEARD], SOUND, CLIP)) == run(node, given)
