"""The codec: every legal value survives, every illegal message is a LinkError with a reason, and nothing else comes out."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_graph.errors import Code, FlowControlError, LinkError, NodeError
from omni_graph.frames import (
    Choice,
    Close,
    ControlFrame,
    Credit,
    Data,
    EdgeCounts,
    EdgeFrame,
    End,
    Frame,
    Hello,
    LinkFrame,
    Open,
    Ping,
    Pong,
    RequestState,
    Reset,
    Start,
)
from omni_graph.links.codec import KINDS, Codec, WireFrame
from omni_graph.links.handshake import Refusal
from omni_graph.links.parts import (
    CONTROL_PART_BYTES,
    LONG_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_PARTS,
    PACKET_ALLOWANCE,
    Buffer,
)
from omni_graph.payload import DTYPES, Array, AudioChunk, TextDelta
from omni_graph.testing.link_samples import ARRAYS, CONTROL_FRAMES, EDGE_FRAMES, REPORT_FRAMES


@dataclass(frozen=True, slots=True)
class Everything:
    """A payload with a field of every kind that a payload may have."""

    array: Array
    text: str
    number: int
    real: float
    flag: bool
    data: bytes
    ints: tuple[int, ...]
    floats: tuple[float, ...]
    pair: tuple[str, int]
    nested: tuple[tuple[Array, str], ...]
    maybe: bytes | None
    maybe_array: Array | None
    nothing: tuple[()] = ()


@dataclass(frozen=True)
class Picky:
    """A payload that checks itself, and raises what it likes."""

    max_packet_bytes: ClassVar[int] = 100
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise RuntimeError("negative")


TYPES: dict[int, type] = {0: TextDelta, 1: AudioChunk, 2: TextDelta, 3: AudioChunk, 4: Everything, 5: Picky}
CODEC = Codec(TYPES)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
REAL = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.one_of(st.text(max_size=8), st.text("aé", min_size=LONG_BYTES // 2, max_size=LONG_BYTES + 8))
ARRAY = st.sampled_from(ARRAYS[:-2])
CHOICES = st.lists(
    st.builds(Choice, st.sampled_from(["thinker", "talker", ""]), st.integers(0, 1 << 62), st.tuples(I64, I64)),
    max_size=40,
).map(tuple)
EVERYTHING = st.builds(
    Everything,
    array=ARRAY,
    text=TEXT,
    number=I64,
    real=REAL,
    flag=st.booleans(),
    data=st.binary(max_size=LONG_BYTES + 8),
    ints=st.lists(I64, max_size=100).map(tuple),
    floats=st.lists(REAL, max_size=100).map(tuple),
    pair=st.tuples(TEXT, I64),
    nested=st.lists(st.tuples(ARRAY, TEXT), max_size=3).map(tuple),
    maybe=st.none() | st.binary(),
    maybe_array=st.none() | ARRAY,
)
FRAMES = st.one_of(
    st.sampled_from([*EDGE_FRAMES, *CONTROL_FRAMES, *REPORT_FRAMES]),
    st.builds(Data, TEXT, st.integers(1, 9), st.just(4), st.integers(0, 9), REAL, CHOICES, st.none() | EVERYTHING),
    st.builds(End, TEXT, st.integers(1, 9), st.integers(0, 5), st.integers(0, 9), CHOICES),
    st.builds(Reset, TEXT, st.integers(1, 9), st.sampled_from(Code), TEXT, TEXT, TEXT),
    st.builds(Refusal, TEXT),
    st.builds(Hello, st.integers(0, 99), TEXT, TEXT),
)


def owned(message: list[Buffer]) -> list[bytes]:
    """The parts of a message as the bytes that a socket would carry."""
    return [bytes(part) for part in message]


def one(frame: WireFrame) -> list[bytes]:
    (message,) = CODEC.encode([frame])
    return owned(message)


def raw(*frames: Any, parts: tuple[bytes, ...] = ()) -> list[bytes]:
    """A message whose header is written by hand."""
    return [msgpack.packb(list(frames)), *parts]


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES, max_size=12))
def test_what_is_sent_arrives(frames: list[Frame]) -> None:
    """Equal and of the same types, in order, within the limits of a message."""
    messages = [owned(message) for message in CODEC.encode(frames)]
    assert [frame for message in messages for frame in CODEC.decode(message)] == frames
    assert all(len(message[0]) <= MAX_HEADER_BYTES and len(message) <= MAX_PARTS + 1 for message in messages)


def test_every_frame_has_its_number() -> None:
    """A frame added to the protocol and not here would be an error of its first sender, in production."""
    assert set(KINDS) == {*get_args(ControlFrame), *get_args(EdgeFrame), *get_args(LinkFrame), Refusal}
    assert KINDS[:2] == (Hello, Refusal)


def test_many_frames_are_few_messages() -> None:
    """Tokens of many requests travel together; that is what keeps a wire at full speed."""
    frames = [Start(f"r{i}", 1, 0) for i in range(1000)]
    messages = CODEC.encode(frames)
    assert len(messages) == -(-1000 // MAX_FRAMES)
    assert CODEC.encode([]) == []


def test_arrays_are_not_copied_either_way() -> None:
    """A copy of each tensor at each hop is what this codec is there to avoid."""
    array = Array.of(np.arange(1 << 18, dtype=np.float32))
    message = CODEC.encode([Data("r", 1, 1, 0, 0.0, (), AudioChunk(array, 1))])[0]
    assert np.shares_memory(np.frombuffer(message[1], np.uint8), array.values)
    (frame,) = CODEC.decode(message)
    assert isinstance(frame, Data)
    assert np.shares_memory(frame.packet.samples.values, array.values)
    assert not frame.packet.samples.values.flags.writeable


def test_a_buffer_at_an_odd_address_is_aligned() -> None:
    """Kernels may fault on, or crawl over, elements that are not aligned."""
    message = one(Data("r", 1, 1, 0, 0.0, (), AudioChunk(Array.of(np.arange(4, dtype=np.float32)), 1)))
    shifted = memoryview(bytearray(b"\0" + message[1]))[1:]
    (frame,) = CODEC.decode([message[0], shifted])
    assert isinstance(frame, Data)
    assert frame.packet.samples.values.flags.aligned
    assert frame.packet.samples.values.tolist() == [0, 1, 2, 3]


AUDIO = KINDS.index(Data)


def audio(dtype: Any = "float32", shape: Any = (2,), rate: Any = 16_000, usage: Any = ()) -> list[Any]:
    return [AUDIO, "r", 1, 1, 0, 0.5, [], [[dtype, shape], rate, usage]]


TWO_FLOATS = (b"\0" * 8,)


def test_the_hand_written_message_is_legal() -> None:
    """Else the table below would be refused for another reason than it says."""
    (frame,) = CODEC.decode(raw(audio(), parts=TWO_FLOATS))
    assert isinstance(frame, Data)
    assert frame.packet == AudioChunk(Array.of([0, 0], "float32"), 16_000)


START = KINDS.index(Start)
ILLEGAL: dict[str, tuple[list[bytes], str]] = {
    "no part": ([], "0 parts"),
    "empty header": ([b""], "not msgpack"),
    "too many parts": (raw([START, "r", 1, 0]) + [b""] * (MAX_PARTS + 1), "parts"),
    "no frame": (raw(), "1 to 64 frames"),
    "too many frames": (raw(*[[START, "r", 1, 0]] * (MAX_FRAMES + 1)), "1 to 64 frames"),
    "not an array": ([msgpack.packb("hello")], "array of"),
    "trailing bytes": ([one(Start("r", 1, 0))[0] + b"\0"], "not msgpack"),
    "unknown kind": (raw([99, "r", 1, 0]), "expected a frame"),
    "negative kind": (raw([-1, "r", 1, 0]), "expected a frame"),
    "kind that is no number": (raw([True, "r", 1, 0]), "expected a frame"),
    "field missing": (raw([START, "r", 1]), "expected 3 items"),
    "field too many": (raw([START, "r", 1, 0, 0]), "expected 3 items"),
    "attempt 0": (raw([START, "r", 0, 0]), "attempt 0"),
    "attempt beyond i64": (raw([START, "r", 1 << 63, 0]), "64-bit"),
    "attempt that is a float": (raw([START, "r", 1.0, 0]), "64-bit"),
    "attempt that is a bool": (raw([START, "r", True, 0]), "64-bit"),
    "edge not in the plan": (raw([START, "r", 1, 77]), "edge int 77; the plan has edges 0, 1"),
    "Data on an edge not in the plan": (raw([AUDIO, "r", 1, 77, 0, 0.5, [], None]), "edge int 77"),
    "Data without an edge": (raw([AUDIO, "r", 1]), "edge NoneType"),
    "negative seq": (raw([AUDIO, "r", 1, 1, -1, 0.5, [], None]), "seq -1"),
    "sent_at NaN": (raw([AUDIO, "r", 1, 1, 0, float("nan"), [], None]), "finite"),
    "sent_at infinite": (raw([AUDIO, "r", 1, 1, 0, float("inf"), [], None]), "finite"),
    "sent_at an int": (raw([AUDIO, "r", 1, 1, 0, 5, [], None]), "finite float"),
    "negative credit": (raw([KINDS.index(Credit), "r", 1, 0, 0, -5]), "limit -5"),
    "unknown code": (raw([KINDS.index(Reset), "r", 1, "exploded", "", "", ""]), "is no Code"),
    "payload of another type": (raw([AUDIO, "r", 1, 1, 0, 0.5, [], ["text", [], "", []]]), "AudioChunk"),
    "unknown dtype": (raw(audio("object"), parts=TWO_FLOATS), "dtype"),
    "dtype of numpy's": (raw(audio("<f4"), parts=TWO_FLOATS), "dtype"),
    "shape too small": (raw(audio(shape=[1]), parts=TWO_FLOATS), "a part of 8 bytes"),
    "shape too large": (raw(audio(shape=[3]), parts=TWO_FLOATS), "a part of 8 bytes"),
    "negative dimension": (raw(audio(shape=[-2]), parts=TWO_FLOATS), "dimension"),
    "two negative dimensions": (raw(audio(shape=[-1, -2]), parts=TWO_FLOATS), "dimension"),
    "shape that overflows": (raw(audio(shape=[1 << 32, 1 << 32]), parts=TWO_FLOATS), "overflows"),
    "shape that overflows behind a zero": (raw(audio(shape=[0, 1 << 62, 8]), parts=(b"",)), "overflows"),
    "rank 9": (raw(audio(shape=[1] * 9), parts=(b"\0" * 4,)), "dimensions at most"),
    "shape that is no array": (raw(audio(shape=2), parts=TWO_FLOATS), "shape"),
    "bool of 2": (raw(audio("bool", [1]), parts=(b"\2",)), "other than 0 and 1"),
    "part missing": (raw(audio()), "a part is missing"),
    "part too many": (raw(audio(), parts=(*TWO_FLOATS, b"x")), "no field announced"),
    "two arrays want one part": (raw(audio(), audio(), parts=TWO_FLOATS), "a part is missing"),
    "map": (raw([START, {"a": 1}, 1, 0]), "not msgpack"),
    "empty map": (raw([START, {}, 1, 0]), "Start.request"),
    "ext": ([b"\x91\x94\x0b\xd4\x05\x00\x01\x00"], "not msgpack"),
    "timestamp": (raw([START, msgpack.Timestamp(1), 1, 0]), "not msgpack"),
    "string over the limit": (raw([START, "r" * 5000, 1, 0]), "not msgpack"),
    "bin over the limit": (raw([START, b"r" * 5000, 1, 0]), "not msgpack"),
    "bytes for text": (raw([START, b"r", 1, 0]), "Start.request"),
    "text that is not UTF-8": ([b"\x91\x94\x0b\xa2\xff\xfe\x01\x00"], "not msgpack"),
    "long text that is not UTF-8": (raw([START, 2, 1, 0], parts=(b"\xff\xfe",)), "UTF-8"),
    "array of four thousand million": ([b"\xdd\xff\xff\xff\xff"], "not msgpack"),
    "nesting a thousand deep": ([b"\x91" * 2000], "not msgpack"),
    "a whole header of nesting": ([b"\x91" * MAX_HEADER_BYTES], "not msgpack"),
    "a header of empty maps": ([b"\xdd\x00\x00\xff\x00" + b"\x80" * 65_280], "not msgpack"),
    "header over the limit": ([b"\x91" * (MAX_HEADER_BYTES + 1)], "a header of"),
    "column that ends early": (raw([KINDS.index(End), "r", 1, 0, 0, [["thinker"], [0, 0, 5, 1]]]), "ends before"),
    "choice of nobody": (raw([KINDS.index(End), "r", 1, 0, 0, [["thinker"], [1, 0, 0]]]), "allowed: 0 to 0"),
    "choice of no names": (raw([KINDS.index(End), "r", 1, 0, 0, [[], [0, 0, 0]]]), "allowed: 0 to -1"),
    "negative choice index": (raw([KINDS.index(End), "r", 1, 0, 0, [["t"], [0, -1, 0]]]), "allowed: 0"),
    "negative choice length": (raw([KINDS.index(End), "r", 1, 0, 0, [["t"], [0, 0, -1]]]), "allowed: 0"),
    "ints in part of 7 bytes": (raw([KINDS.index(End), "r", 1, 0, 0, [["t"], 7]], parts=(b"1234567",)), "whole number"),
    "Pong of no characters": (raw([KINDS.index(Pong), 0.5, ["", [3, 1, 0, 0]]]), "allowed: 0 to 0"),
    "Pong of characters too many": (raw([KINDS.index(Pong), 0.5, ["abc", [1, 1, 0, 0]]]), "belong to no request"),
    "Pong of an unknown edge": (raw([KINDS.index(Pong), 0.5, ["a", [1, 1, 0, 1, 99, 0, 0, 0, 0]]]), "edge int 99"),
    "Pong of edges without end": (raw([KINDS.index(Pong), 0.5, ["a", [1, 1, 0, 1 << 60]]]), "in a column"),
    "value that its class refuses": (raw([AUDIO, "r", 1, 5, 0, 0.5, [], [-1]]), "refuses its values: negative"),
    "NaN in a payload": (raw([AUDIO, "r", 1, 4, 0, 0.5, [], [["bool", [0]], "", 0, float("nan")] + [0] * 9],
                             parts=(b"",)), "Everything.real: expected a finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", ILLEGAL)
def test_an_illegal_message_is_refused_with_its_reason(case: str) -> None:
    message, reason = ILLEGAL[case]
    with pytest.raises(LinkError, match=reason):
        CODEC.decode(message)


def test_a_packet_over_the_limit_of_its_type_is_refused_at_both_ends() -> None:
    """The bound on memory is a promise of every port type; one peer's bug must not break it."""
    limit = (64 << 10) + PACKET_ALLOWANCE
    fits = Data("r", 1, 0, 0, 0.0, (), TextDelta("x" * limit))
    assert CODEC.decode(one(fits)) == [fits]
    too_large = replace(fits, packet=TextDelta("x" * (limit + 1)))
    with pytest.raises(FlowControlError, match=r"a packet of 69633 bytes; TextDelta allows 69632"):
        CODEC.encode([too_large])
    loose = Codec({0: type("TextDelta", (TextDelta,), {"max_packet_bytes": 1 << 20})})
    message = one(fits)
    message[0] = message[0].replace(msgpack.packb(limit), msgpack.packb(limit + 1))
    with pytest.raises(LinkError, match="a packet of 69633 bytes"):
        CODEC.decode([message[0], b"x" * (limit + 1)])
    assert loose.decode([message[0], b"x" * (limit + 1)])


def test_forced_choices_are_long_and_bounded() -> None:
    """A replay of a long reply forces every token and every frame of codes."""
    frame = Open("r", 2, (), "{}", 1, 0.0, 1.0, "", tuple(Choice("talker", i, (i,) * 16) for i in range(40_000)))
    assert CODEC.decode(one(frame)) == [frame]
    huge = replace(frame, forced=(Choice("talker", 0, (1,) * (CONTROL_PART_BYTES // 8)),))
    with pytest.raises(FlowControlError, match="a part of 8388632 bytes"):
        CODEC.encode([huge])


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (Start("r", 0, 0), "attempt 0"),
        (Start("r", 1, 9), "edge int 9"),
        (Start("r", True, 0), "expected an int"),
        (Start("r", 1 << 63, 0), "64-bit"),
        (Start("\ud800", 1, 0), "not Unicode"),
        (Close(None, 1), "Close.request: expected a str"),  # type: ignore[arg-type]
        (Ping(float("inf")), "finite"),
        (Ping("1"), "expected a float"),  # type: ignore[arg-type]
        (Reset("r", 1, "stuck"), "expected Code"),  # type: ignore[arg-type]
        (Data("r", 1, 0, 0, 0.0, (), AudioChunk(ARRAYS[0], 1)), "edge 0 carries TextDelta, not AudioChunk"),
        (Data("r", 1, 1, 0, 0.0, (), AudioChunk([1.0], 1)), "expected an Array"),  # type: ignore[arg-type]
        (Data("r", 1, 1, 0, 0.0, (), AudioChunk(Array(np.zeros(3), "float32"), 1)), "tagged float32"),
        (Data("r", 1, 1, 0, 0.0, (), AudioChunk(Array(np.zeros((4, 4)).T[1:], "float64"), 1)), "C-contiguous"),
        (Data("r", 1, 0, 0, 0.0, (), TextDelta("", (1.5,))), "TextDelta.token_ids: expected an int"),  # type: ignore[arg-type]
        (Data("r", 1, 0, 0, 0.0, (), TextDelta("", [1])), "expected a tuple"),  # type: ignore[arg-type]
        (Data("r", 1, 0, 0, 0.0, (), TextDelta("", (), "", (("a", 1),) * 5000)), "a tuple of at most 256"),
        (End("r", 1, 0, 0, (("thinker", 0, (1,)),)), "expected a Choice"),  # type: ignore[arg-type]
        (Reset, "is no frame"),
        (object(), "object is no frame"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_encode_refuses_what_decode_would(frame: Frame, reason: str) -> None:
    """At the sender, with the place, and nothing is sent: the receiver would end the link for it."""
    with pytest.raises(FlowControlError, match=reason):
        CODEC.encode([Start("r", 1, 0), frame])


def test_a_pong_for_many_requests_fits() -> None:
    """The Gateway asks every replica about every open request; a thousand must not overflow a header."""
    edges = tuple(EdgeCounts(edge, 5, 4, 3, 12) for edge in range(4))
    frame = Pong(1.0, tuple(RequestState(f"{i:032x}", 1, False, edges) for i in range(2000)))
    assert CODEC.decode(one(frame)) == [frame]


def test_a_type_that_cannot_travel_is_refused_when_the_codec_is_made() -> None:
    with pytest.raises(NodeError, match="write it as @dataclass"):
        Codec({0: dict})


ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=6)
    | st.binary(max_size=6) | st.sampled_from([*DTYPES, "thinker"]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)  # fmt: skip
FIELDS = st.lists(ITEMS | st.just("r") | st.integers(0, 5) | REAL, max_size=10)
SHAPED = st.builds(lambda kind, fields: [kind, *fields], st.integers(0, len(KINDS)), FIELDS)
LEGAL = [owned(message) for f in [*EDGE_FRAMES, *CONTROL_FRAMES, *REPORT_FRAMES] for message in CODEC.encode([f])]


def survives(message: list[bytes]) -> None:
    """Decode gives frames that encode again to the same values, or LinkError with a reason; nothing else."""
    try:
        frames = CODEC.decode(message)
    except LinkError as error:
        assert str(error)
        return
    assert [f for again in CODEC.encode(frames) for f in CODEC.decode(owned(again))] == frames


@settings(max_examples=400, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_random_bytes(message: list[bytes]) -> None:
    survives(message)


@settings(max_examples=300, deadline=None)
@given(st.lists(SHAPED, max_size=3), st.lists(st.binary(max_size=16), max_size=3))
def test_random_frames(frames: list[Any], parts: list[bytes]) -> None:
    """msgpack that is nearly right: a known kind with any fields."""
    survives([msgpack.packb(frames), *parts])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_legal_messages_after_an_accident(data: st.DataObject) -> None:
    """Bits flipped, bytes cut or doubled, parts lost, doubled and reordered."""
    message = list(data.draw(st.sampled_from(LEGAL)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(message) - 1)) if message else 0
        accident = data.draw(st.sampled_from(["flip", "cut", "grow", "lose", "double", "reverse", "swap headers"]))
        message = _after(accident, message, at, data)
    survives(message)


def _after(accident: str, message: list[bytes], at: int, data: st.DataObject) -> list[bytes]:
    part = message[at] if message else b""
    place = data.draw(st.integers(0, min(len(part), 4096)))
    changed = {
        "flip": part[:place] + bytes([data.draw(st.integers(0, 255))]) + part[place + 1 :],
        "cut": part[:place],
        "grow": part + part[:place],
    }
    if accident in changed:
        return [*message[:at], changed[accident], *message[at + 1 :]]
    if accident == "swap headers":
        return [data.draw(st.sampled_from(LEGAL))[0], *message[1:]]
    return {"lose": message[:at] + message[at + 1 :], "double": message[: at + 1] + message[at:]}.get(
        accident, message[::-1]
    )


def test_twenty_thousand_headers_with_bytes_changed() -> None:
    """The same accident in bulk: one to eight bytes of the header overwritten, from a fixed seed."""
    chance = random.Random(7)
    refused = 0
    for _ in range(20_000):
        message = list(chance.choice(LEGAL))
        header = bytearray(message[0])
        for _ in range(chance.randint(1, 8)):
            header[chance.randrange(len(header))] = chance.randrange(256)
        try:
            CODEC.decode([bytes(header), *message[1:]])
        except LinkError:
            refused += 1
    assert 10_000 < refused < 20_000


def test_a_hostile_header_costs_little_memory() -> None:
    """8 MB of empty maps would be 583 MB of objects; the header's limit is checked before it is decoded."""
    hostile = [
        b"\xdd\x00\x7f\xff\xff" + b"\x80" * (8 << 20),
        b"\xdd\x00\x00\x00\xff" + b"\xdc\x00\xff" * 21_000,
        b"\xdc\x0f\xff" * 21_000,
        b"\x91" * MAX_HEADER_BYTES,
        b"\xdc\x01\x00" + (b"\xdc\x00\xfa" + b"\x90" * 250) * 256,
    ]
    tracemalloc.start()
    try:
        for header in hostile:
            with pytest.raises(LinkError):
                CODEC.decode([header])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
