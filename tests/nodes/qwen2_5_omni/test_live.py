"""A request that is spoken to the graph: the same answer as the clip sent whole, as transformers', and however it is cut.

And it is worked up while it comes: the Thinker has computed what was said before the speech ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import omni_graph as og
from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, AudioChunk
from omni_graph.runtime.app import App, Result
from omni_graph.runtime.async_app import AsyncApp
from omni_nodes.media.mel import MelStream
from tests.nodes.qwen2_5_omni.apps import Messages, codes_of, frames, greedy, launch, picture, samples_of, tone
from tests.nodes.qwen2_5_omni.conversations import audio, image, user, video
from tests.nodes.qwen2_5_omni.live_requests import LIVE_AUDIO, LIVE_VIDEO, begin, chunks, finish, in_step, say, shown
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.test_parity import check_equal
from tests.runtime.graphs import eventually, held

TOKENS, CODES, SEED = 14, 40, 3
PARAMS = greedy(TOKENS, CODES, "Chelsie")
HEARD = {**LIVE_VIDEO, "audio": True}


def rising(seconds: float) -> np.ndarray:
    """Sound that begins quietly: the running maximum of its first block is not the clip's."""
    samples = tone(seconds)
    return (samples * np.linspace(0.001, 1.0, len(samples)) ** 2).astype(np.float32)


def falling(seconds: float) -> np.ndarray:
    """Sound whose first block holds the clip's maximum."""
    return rising(seconds)[::-1].copy()


def check_same(ours: Result, theirs: Result) -> None:
    assert ours["text"] == theirs["text"]
    assert codes_of(ours) == codes_of(theirs) and len(codes_of(ours)) == CODES
    assert samples_of(ours).shape == samples_of(theirs).shape
    np.testing.assert_allclose(samples_of(ours), samples_of(theirs), atol=1e-4)


@pytest.fixture(scope="module")
def app(tiny_folder: Path) -> Iterator[App]:
    with launch(tiny_folder, limits={"audio_seconds": 30.0}) as running:
        yield running


# ---- the same answer


@pytest.mark.parametrize("sizes", [[1_600], [333, 40_000], [100_000]], ids=str)
def test_any_chunks_give_the_answer_of_the_clip_sent_whole(app: App, sizes: list[int]) -> None:
    clip, said = falling(5.3), user("hear", LIVE_AUDIO, "and see", image(picture(56, 84)))
    whole = app.run(
        {"conversation": [user("hear", audio(clip), "and see", image(picture(56, 84)))]}, params=PARAMS, seed=SEED
    )
    check_same(say(app, [said], chunks(clip, sizes), params=PARAMS), whole)


def test_without_a_part_it_belongs_to_the_end_of_the_last_user_turn(app: App) -> None:
    clip = falling(2.7)
    turns = [{"role": "assistant", "content": "yes"}, {"role": "system", "content": "Be brief."}]
    whole = app.run({"conversation": [user("hear", audio(clip)), *turns]}, params=PARAMS, seed=SEED)
    check_same(say(app, [{"role": "user", "content": "hear"}, *turns], chunks(clip, [5_000]), params=PARAMS), whole)


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_sound_of_any_rate_is_resampled_as_it_comes(app: App, rate: int) -> None:
    t = np.arange(int(4.2 * rate)) / rate
    clip = (0.3 * np.exp(-t) * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    part = {"type": "audio", "audio": clip, "sample_rate": rate}
    whole = app.run({"conversation": [user(part, "?")]}, params=PARAMS, seed=SEED)
    check_same(say(app, [user(LIVE_AUDIO, "?")], chunks(clip, [rate // 10], rate), params=PARAMS), whole)


def test_live_pictures_are_a_video_of_two_frames_a_second(app: App) -> None:
    clip = frames(7, 84, 112)
    whole = app.run({"conversation": [user("look", video(clip), "?")]}, params=PARAMS, seed=SEED)
    for part in (LIVE_VIDEO, {**LIVE_VIDEO, "audio": False}):
        check_same(say(app, [user("look", part, "?")], (), shown(clip, 2.0), params=PARAMS), whole)
    between = shown(np.repeat(clip, 3, axis=0), 6.0)  # three frames for each that is looked at
    check_same(say(app, [user("look", LIVE_VIDEO, "?")], (), between, params=PARAMS), whole)


def test_the_global_maximum_is_a_setting(tiny_folder: Path, app: App) -> None:
    clip, live = rising(4.5), [user("hear", LIVE_AUDIO)]
    with launch(tiny_folder, settings=["nodes.frontend.config.mel_max=global"]) as other:
        whole = other.run({"conversation": [user("hear", audio(clip))]}, params=PARAMS, seed=SEED)
        check_same(say(other, live, chunks(clip, [1_600]), params=PARAMS), whole)
    assert codes_of(say(app, live, chunks(clip, [1_600]), params=PARAMS)) != codes_of(whole)


# ---- transformers' answer, from the features of the running policy


def running_features(clip: np.ndarray) -> torch.Tensor:
    stream = MelStream("running")
    stream.push(clip)
    stream.finish()
    return torch.from_numpy(np.concatenate(list(stream.drain()), axis=1))


def expected(reference: Reference, messages: Messages, clip: np.ndarray, *videos: np.ndarray) -> Any:
    """transformers' answer to the clip, its features replaced by those of the running maximum."""
    made = reference.inputs(messages, [clip], (), videos, audio_in_video=bool(videos))
    features = running_features(clip)
    assert not torch.equal(made["input_features"][0, :, : features.shape[1]], features)
    made["input_features"][0, :, : features.shape[1]] = features
    return reference.generate(made, max_tokens=TOKENS, talker_max_tokens=CODES, seed=SEED)


def test_a_spoken_request_is_answered_as_transformers_does(app: App, reference: Reference) -> None:
    clip = rising(5.1)
    answer = expected(reference, [user("hear", {"type": "audio", "audio": "x"}, "what?")], clip)
    check_equal(say(app, [user("hear", LIVE_AUDIO, "what?")], chunks(clip, [1_600]), params=PARAMS), answer)


@pytest.mark.parametrize(("seconds", "pictures"), [(4.6, 10), (2.2, 12), (6.3, 4)])
def test_live_video_with_its_sound_is_answered_as_transformers_does(
    app: App, reference: Reference, seconds: float, pictures: int
) -> None:
    """Tracks of one length, and either one longer."""
    clip, shots = rising(seconds), frames(pictures, 56, 84)
    answer = expected(reference, [user("watch", {"type": "video", "video": "x"}, "what?")], clip, shots)
    ours = say(app, [user("watch", HEARD, "what?")], chunks(clip, [1_600]), shown(shots, 2.0), params=PARAMS)
    check_equal(ours, answer)


# ---- while it is said


def stream_of(app: App, stage: str, port: str, request: str) -> Any:
    """What a stage has of an input."""
    node = app._deployment.handles[f"{stage}/0.0"]._worker.core._nodes[stage]  # type: ignore[attr-defined]
    return node.requests[request].ins[port].flow if request in node.requests else None


def taken(app: App, stage: str, port: str, request: str) -> int:
    """Packets of a stage's input that it has taken."""
    flow = stream_of(app, stage, port, request)
    return 0 if flow is None else flow.taken


def test_the_prompt_is_prefilled_while_the_user_speaks(app: App) -> None:
    handle = begin(app, [user("hear", image(picture(56, 84)), LIVE_AUDIO)], PARAMS)
    request = handle.request

    def prefilled() -> int:
        """Packets of prompt states, which the Thinker has computed, that the Talker has taken: one a segment."""
        return taken(app, "talker", "prompt", request)

    eventually(
        lambda: prefilled() >= 1, within_s=30
    )  # of system, text, picture, text, which come before the live place
    for block, said in enumerate(chunks(tone(6.01), [32_000]), 1):
        handle.write("audio", said)
        # a block of mel hears 2.5 ms more than 2 s, and rows that do not fill a block of KV may wait for the next
        eventually(lambda b=block: prefilled() >= (b + 2 if b > 1 else 1), within_s=30)
    assert prefilled() >= 6  # all that was said but for its last two seconds, at the least
    assert taken(app, "talker", "thought", request) == 0
    result = finish(app, handle)
    assert dict(result["text"].usage)["prompt.audio"] == 150 and len(codes_of(result)) == CODES


def test_video_with_its_sound_is_prefilled_while_it_comes(app: App) -> None:
    """Two seconds of both tracks close the two before them, whose pictures at least the Thinker then computes."""
    handle = begin(app, [user("watch", HEARD)], PARAMS)
    blocks = 0
    for name, packet in in_step(chunks(tone(6.0), [32_000]), shown(frames(12, 56, 84), 2.0)):
        before = taken(app, "talker", "prompt", handle.request)
        handle.write(name, packet)
        if name == "audio":
            blocks += 1
            if blocks > 1:
                eventually(lambda b=before: taken(app, "talker", "prompt", handle.request) > b, within_s=30)
    assert blocks == 3
    assert taken(app, "talker", "thought", handle.request) == 0
    result = finish(app, handle)
    usage = dict(result["text"].usage)
    assert usage["prompt.audio"] == 150 and usage["prompt.video"] > 0 and len(codes_of(result)) == CODES


def test_the_answer_needs_only_the_end_of_what_was_begun(app: App) -> None:
    clip = falling(2.2)
    whole = app.run({"conversation": [user(audio(clip))]}, params=PARAMS, seed=SEED)
    handle = begin(app, [user(LIVE_AUDIO)], PARAMS)
    for said in chunks(clip, [1_600]):
        handle.write("audio", said)
    handle.end("audio")
    check_same(app.collect(handle), whole)
    plain = app.run({"conversation": [user("only text")]}, params=PARAMS, seed=SEED)
    check_same(app.collect(begin(app, [user("only text")], PARAMS)), plain)
    with pytest.raises(RequestError, match="no input 'video' to write to"):
        begin(app, [user("a")], PARAMS, inputs=["conversation"]).write("video", shown(frames(1, 28, 28), 2.0)[0])


def test_who_speaks_slowly_holds_up_nobody(app: App) -> None:
    speaking = [begin(app, [user("hear", LIVE_AUDIO)], PARAMS) for _ in range(3)]
    for handle in speaking:
        handle.write("audio", chunks(falling(2.2), [35_200])[0])
    others = [app.run({"conversation": [user("hello")]}, params=PARAMS, seed=SEED) for _ in range(2)]
    check_same(others[0], others[1])
    answers = [finish(app, handle) for handle in speaking]
    for answer in answers[1:]:
        check_same(answer, answers[0])


def test_cancelled_in_the_middle_of_a_word_nothing_is_left(app: App) -> None:
    handle = begin(app, [user("hear", HEARD)], PARAMS)
    for said in chunks(tone(3.0), [1_600]):
        handle.write("audio", said)
    handle.write("video", shown(frames(1, 56, 84), 2.0)[0])
    eventually(lambda: taken(app, "frontend", "live_audio", handle.request) > 5)
    handle.cancel()
    with pytest.raises(og.Cancelled):
        list(handle)
    eventually(lambda: held(app) == 0)


def test_the_deadline_holds_for_who_never_ends(app: App) -> None:
    handle = begin(app, [user(LIVE_AUDIO)], PARAMS, deadline_s=0.5)
    handle.write("audio", chunks(tone(0.5), [8_000])[0])
    with pytest.raises(og.DeadlineExceeded):
        list(handle)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (chunks(tone(0.1), [1_600], 44_100), "changes its sampling rate from 16000 to 44100 Hz"),
        ([AudioChunk(Array.of(np.full(4, np.inf, np.float32)), 16_000)], "not a finite number"),
        (chunks(tone(31.0), [160_000]), "lasts more than 30 s"),
    ],
)
def test_what_is_wrong_is_said_at_once(app: App, bad: list[AudioChunk], message: str) -> None:
    handle = begin(app, [user(LIVE_AUDIO)], PARAMS)
    for chunk in (*chunks(tone(0.2), [1_600]), *bad):
        handle.write("audio", chunk)
    with pytest.raises(RequestError, match=message) as caught:
        list(handle)
    assert caught.value.code is Code.INVALID_INPUT


def test_the_same_from_asyncio(app: App) -> None:
    clip = falling(2.2)
    whole = app.run({"conversation": [user(LIVE_AUDIO)], "audio": chunks(clip, [9_000])}, params=PARAMS, seed=SEED)

    async def speak() -> tuple[int, ...]:
        handle = await AsyncApp(app).aopen(
            outputs=["codes"], params=PARAMS, seed=SEED, inputs=["conversation", "audio"]
        )
        events = asyncio.create_task(_codes(handle))
        for packet in begin_packets():
            await handle.write("conversation", packet)
        handle.end("conversation")
        for said in chunks(clip, [1_600]):
            await handle.write("audio", said)
        handle.end("audio")
        return await events

    assert asyncio.run(speak()) == codes_of(whole)


async def _codes(handle: Any) -> tuple[int, ...]:
    return tuple([int(event.packet.values.values[0, 0]) async for event in handle])


def begin_packets() -> list[Any]:
    from omni_graph.conversation import conversation_packets

    return list(conversation_packets([user(LIVE_AUDIO)]))
