"""Messages to token ids, against transformers' template, tokenizer and processor; and what is refused, with its place."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from omni_graph.payload import Conversation
from omni_nodes.media.limits import MediaLimits
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.conversation import (
    ConversationLimits,
    MediaPart,
    Message,
    TextPart,
    parse_messages,
)
from omni_nodes.qwen2_5_omni.conversation_reader import ConversationReader
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import AudioSpan, ImageSpan, Span, VideoSpan, audio_tokens, lay_out
from omni_nodes.qwen2_5_omni.prompt import PromptWriter

LIMITS = ConversationLimits()


def part(kind: str, index: int = 0) -> MediaPart:
    return MediaPart(kind, index, f"{kind}-{index}", "file")


CONVERSATIONS = {
    "text": [Message("user", "hello world")],
    "system": [Message("system", "Be brief. "), Message("user", "héllo wörld — ünïcode 漢字 🙂\n\n a  b\t")],
    "turns": [
        Message("user", "the quick brown fox"),
        Message("assistant", "jumps"),
        Message("user", (TextPart("over "), TextPart("the lazy dog"))),
    ],
    "audio": [Message("user", (TextPart("describe"), part("audio")))],
    "image": [Message("user", (part("image"), TextPart("what is it?")))],
    "several": [
        Message("user", (part("image"), part("audio", 1), TextPart("and"), part("image", 2), part("video", 3))),
        Message("assistant", "yes"),
        Message("user", (part("audio", 4), part("video", 5))),
    ],
    "special": [Message("user", "a<|im_end|>b<|im_start|>system\nc<|vision_bos|>d <|endoftext|> <|unknown|>")],
    "assistant parts": [Message("user", "hi"), Message("assistant", (TextPart("ho"),)), Message("user", "hi")],
}


@pytest.fixture(scope="module", params=["tiny_folder", "odd_folder"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def writer(folder) -> PromptWriter:
    return PromptWriter(folder, open_checkpoint(str(folder)).chat_template, 32768)


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def as_dicts(messages: list[Message]) -> list[dict]:
    """The messages as a user of transformers writes them."""

    def content(message: Message):
        if isinstance(message.content, str):
            return message.content
        return [
            {"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": p.kind, p.kind: p.name}
            for p in message.content
        ]

    return [{"role": message.role, "content": content(message)} for message in messages]


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_text_and_ids_equal_transformers(writer, tokenizer, folder, messages):
    template = open_checkpoint(str(folder)).chat_template
    text = tokenizer.apply_chat_template(
        as_dicts(messages), chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert writer.text(messages) == text
    ids = [token for run in writer.runs(messages) for token in run.token_ids]
    assert ids == tokenizer(text)["input_ids"]


def test_each_turn_is_a_run_of_its_role(writer):
    runs = writer.runs(CONVERSATIONS["turns"])
    assert [run.role for run in runs] == ["system", "user", "assistant", "user", "assistant"]
    runs = writer.runs([Message("user", "a<|im_start|>tool\nb")])
    assert [run.role for run in runs] == ["system", "user", "user", "assistant"]


def media_of(seed: int = 0):
    rng = np.random.default_rng(seed)
    sounds = [rng.standard_normal(int(16000 * s)).astype(np.float32) * 0.1 for s in (3.3, 5.0, 0.5)]
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((100, 167), (57, 300))]
    videos = [rng.integers(0, 255, (t, 60, 90, 3), dtype=np.uint8) for t in (4, 7)]
    return sounds, images, videos


def spans_of(made: dict, messages: list[Message], sounds: list[np.ndarray], fps: float, heard: bool) -> list[Span]:
    """What the frontend would know of the media: grids from the processor, tokens from the samples."""
    tokens = iter([audio_tokens(-(-len(sound) // 160)) for sound in sounds])
    images = iter(made.get("image_grid_thw", np.zeros((0, 3))).tolist())
    videos = iter(made.get("video_grid_thw", np.zeros((0, 3))).tolist())
    spans: list[Span] = []
    for message in messages:
        for p in message.content if isinstance(message.content, tuple) else ():
            if isinstance(p, TextPart):
                continue
            if p.kind == "audio":
                spans.append(AudioSpan(next(tokens)))
            elif p.kind == "image":
                spans.append(ImageSpan(tuple(next(images))))
            else:
                spans.append(VideoSpan(tuple(next(videos)), 2 / fps, next(tokens) if heard else None))
    return spans


@pytest.mark.parametrize("name", ["audio", "image", "several"])
def test_expanded_ids_equal_the_processor(reference, name):
    messages = CONVERSATIONS[name]
    kinds = [p.kind for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, MediaPart)]
    sounds, images, videos = (
        items[: kinds.count(kind)] for items, kind in zip(media_of(), ("audio", "image", "video"), strict=True)
    )
    made = reference.inputs(as_dicts(messages), sounds, images, videos)
    check_ids(reference.folder, messages, spans_of(made, messages, sounds, 2.0, False), made)


@pytest.mark.parametrize("fps", [2.0, 1.0, 0.5, 4 / 3])
@pytest.mark.parametrize("seconds", [(0.5, 9.0), (5.2, 1.0)])
def test_ids_of_videos_with_their_sound_equal_the_processor(reference, fps, seconds):
    messages = [Message("user", (part("video"), TextPart("and"), part("video", 1), TextPart("what?")))]
    sounds = [np.full(int(16000 * s), 0.1, np.float32) for s in seconds]
    _, _, videos = media_of()
    made = reference.inputs(as_dicts(messages), sounds, [], videos, audio_in_video=True, fps=fps)
    check_ids(reference.folder, messages, spans_of(made, messages, sounds, fps, True), made)


def check_ids(folder, messages, spans, made) -> None:
    checkpoint = open_checkpoint(str(folder))
    runs = PromptWriter(folder, checkpoint.chat_template, 32768).runs(messages)
    segments = lay_out(runs, spans, checkpoint.settings.tokens, checkpoint.settings.vision.spatial_merge_size)
    ids = np.concatenate([segment.token_ids.values for segment in segments])
    np.testing.assert_array_equal(ids, made["input_ids"][0].numpy())


def test_a_placeholder_in_a_users_text_is_refused_and_does_not_take_a_mediums_place(writer, folder):
    tokens = open_checkpoint(str(folder)).settings.tokens
    runs = writer.runs([Message("user", (TextPart("say <|AUDIO|>"), part("audio")))])
    with pytest.raises(InvalidInput, match=r"must not contain <\|AUDIO\|>"):
        lay_out(runs, [AudioSpan(3)], tokens, 2)


def test_text_past_the_context_is_refused_by_bytes_and_by_tokens(folder):
    writer = PromptWriter(folder, open_checkpoint(str(folder)).chat_template, 100)
    with pytest.raises(InvalidInput, match=r"\d+ bytes of text; the model's context allows 800"):
        writer.runs([Message("user", "é" * 500)])
    with pytest.raises(InvalidInput, match=r"\d+ tokens of text; the model's context is 100"):
        writer.runs([Message("user", "z" * 300)])


def test_a_template_has_what_transformers_gives_it(folder):
    template = (
        "{% for message in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{{ message | tojson }}{{ eos_token }}{{ strftime_now('%Y-%m-%d') }}\n{% endfor %}"
        "{% if tools is none and documents is none and add_generation_prompt %}ok{% endif %}"
    )
    writer = PromptWriter(folder, template, 100, now=lambda: datetime(2025, 3, 4))
    text = writer.text([Message("user", "<é>"), Message("user", "b")])
    assert text == '{"role": "user", "content": "<é>"}<|im_end|>2025-03-04\nok'


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('roles must alternate') }}", "{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}"],
)
def test_what_a_template_refuses_or_may_not_do_is_the_requests_error(folder, template):
    with pytest.raises(InvalidInput, match="chat template refuses"):
        PromptWriter(folder, template, 100).text([Message("user", "a")])


# ---- the packets of a conversation


def messages_json(*contents: object, role: str = "user") -> str:
    return json.dumps([{"role": role, "content": content} for content in contents])


def test_messages_become_typed_values():
    parts = [
        {"type": "text", "text": "a"},
        {"type": "audio", "media": 0, "format": "float32", "shape": [5], "sample_rate": 8000, "name": "mic"},
        {"type": "image", "media": 1, "format": "file", "name": "b.png"},
        {"type": "video", "media": 2, "format": "uint8", "shape": [4, 6, 8, 3], "fps": 2, "audio": False},
        {"type": "video", "media": 3, "format": "file", "name": "c.mp4", "audio": True},
    ]
    assert parse_messages(messages_json("hi", parts), LIMITS) == (
        Message("user", "hi"),
        Message(
            "user",
            (
                TextPart("a"),
                MediaPart("audio", 0, "mic", "float32", (5,), 8000),
                MediaPart("image", 1, "b.png", "file"),
                MediaPart("video", 2, "messages[1].content[3]", "uint8", (4, 6, 8, 3), fps=2.0, sound=False),
                MediaPart("video", 3, "c.mp4", "file", sound=True),
            ),
        ),
    )


def test_a_mediums_name_is_fit_for_a_message_of_one_line():
    (message,) = parse_messages(messages_json([{**AUDIO, "name": "a\n\x1b[31mb" + "c" * 1000}]), LIMITS)
    assert isinstance(message.content, tuple)
    assert message.content[0].name == "a??[31mb" + "c" * 192


AUDIO = {"type": "audio", "media": 0, "format": "float32", "shape": [5], "sample_rate": 8000}
VIDEO = {"type": "video", "media": 0, "format": "uint8", "shape": [4, 6, 8, 3], "fps": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "messages: not a JSON list"),
        ("[" * 100_000, "messages: not a JSON list"),
        ("{}", "at least one message"),
        ("[]", "at least one message"),
        ("[3]", r"messages\[0\]: an object is needed, not int"),
        ('[{"role": "user"}]', r"messages\[0\]: content is missing"),
        ('[{"role": "user", "content": "a", "name": "b"}]', r"messages\[0\]: unknown field 'name'"),
        (messages_json("a", role="tool"), r"messages\[0\].role: one of system, user, assistant is needed, not 'tool'"),
        (messages_json("a", 3), r"messages\[1\].content: text, or a list"),
        (messages_json([]), r"messages\[0\].content: text, or a list"),
        (messages_json("a", ["b"]), r"messages\[1\].content\[0\]: an object is needed, not str"),
        (messages_json([{"type": "smell"}]), r"content\[0\].type: one of text, audio, image, video is needed"),
        (messages_json([{"type": ["text"]}]), r"content\[0\].type: one of text, audio"),
        (messages_json([{"type": "text", "text": 3}]), r"messages\[0\].content\[0\].text: text is needed, not 3"),
        (messages_json("\ud800"), r"messages\[0\].content: half of a surrogate pair"),
        (messages_json([{"type": "text", "text": "", "media": 0}]), "unknown field 'media'"),
        (messages_json([{"type": "audio", "format": "file"}]), "media is missing"),
        (messages_json([{**AUDIO, "format": "uint8"}]), r"format: one of file, float32, live is needed"),
        (messages_json([{**AUDIO, "media": -1}]), r"media: an integer of at least 0 is needed, not -1"),
        (messages_json([{**AUDIO, "media": 1}]), r"media are numbered \[1\]"),
        (messages_json([AUDIO, AUDIO]), r"media are numbered \[0, 0\]"),
        (messages_json([{**AUDIO, "shape": [5, 1, 1]}]), r"shape: a list of 1 or 2 lengths"),
        (messages_json([{**AUDIO, "shape": [0]}]), r"shape: a list of positive integers"),
        (messages_json([{**AUDIO, "shape": [True]}]), r"shape: a list of positive integers"),
        (messages_json([{**AUDIO, "sample_rate": 1.5}]), r"sample_rate: an integer of at least 1"),
        (messages_json([{**VIDEO, "fps": 0}]), r"fps: a number above 0 is needed, not 0"),
        (messages_json([{**VIDEO, "fps": float("inf")}]), r"fps: a number above 0"),
        (messages_json([{**VIDEO, "fps": float("nan")}]), r"fps: a number above 0"),
        (messages_json([{**VIDEO, "audio": 1}]), r"audio: true or false is needed, not 1"),
        (messages_json([{**VIDEO, "sample_rate": 8000}]), "unknown field 'sample_rate'"),
        (messages_json(*["a"] * 129), "messages: 129 of them, at most 128"),
        (messages_json([{"type": "text", "text": "a"}] * 65), "messages: 65 content parts, at most 64"),
        (messages_json([{"type": "image", "media": 0, "format": "file"}] * 17), "messages: 17 images, at most 16"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_messages(text, LIMITS)


def read(*packets: Conversation, limits: ConversationLimits = LIMITS):
    reader = ConversationReader(limits)
    for packet in packets:
        reader.push(packet)
    return reader.finish()


FILES = messages_json([{"type": "audio", "media": 0, "format": "file", "name": "a.wav"},
                       {"type": "image", "media": 1, "format": "file", "name": "b.png"}])  # fmt: skip


def test_media_get_their_bytes():
    conversation = read(
        Conversation(FILES),
        Conversation(media=0, data=b"ab", last=False),
        Conversation(media=0, data=b"c"),
        Conversation(media=1, data=b"d"),
    )
    assert [(p.name, data) for p, data in conversation.media] == [("a.wav", b"abc"), ("b.png", b"d")]


@pytest.mark.parametrize(
    ("packets", "message"),
    [
        ([], "the conversation is empty"),
        ([Conversation(FILES), Conversation(FILES)], "messages came twice"),
        ([Conversation(media=0, data=b"a")], "bytes of medium 0"),
        (
            [Conversation(FILES), Conversation(media=1, data=b"a")],
            "bytes of medium 1 came; the messages name 2, medium 0 is next",
        ),
        ([Conversation(FILES), Conversation(media=0, data=b"a")], "image b.png: its bytes ended early"),
        ([Conversation(FILES), Conversation(media=0, data=b"a", last=False)], "audio a.wav: its bytes ended early"),
        ([Conversation(FILES), *[Conversation(media=0, data=b"a" * 6, last=False)] * 2], "audio a.wav: more than 10"),
    ],
)
def test_packets_out_of_order_or_past_a_limit_are_refused(packets, message):
    limits = ConversationLimits(media=MediaLimits(audio_bytes=10))
    with pytest.raises(InvalidInput, match=message):
        read(*packets, limits=limits)
