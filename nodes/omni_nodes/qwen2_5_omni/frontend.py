"""The frontend stage: a conversation, and what is said and shown live, in; the prompt's layout, mel blocks and patches out.

After the whole conversation has come and been examined, each output is a cursor of its own that advances only when that
output has room: so a file whose tracks are not interleaved, or an encoder that lags, holds up nothing else. Nothing is
made for an output that nobody reads. Live input is taken when all of it that came before has been sent.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from omni_graph.errors import Code, RequestError
from omni_graph.node import In, Inbox, Out, Outbox
from omni_graph.payload import AudioChunk, Conversation, VideoFrame
from omni_nodes.media.limits import MediaError
from omni_nodes.payloads import LayoutSegment, MelChunk, Patches
from omni_nodes.preload import PRELOAD
from omni_nodes.qwen2_5_omni.conversation import ConversationLimits, ParsedConversation
from omni_nodes.qwen2_5_omni.conversation_reader import ConversationReader
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.preparation import Prepared


@dataclass(slots=True)
class _Request:
    """One request: its conversation is read, then it waits for what its live input is, then it is prepared slice by slice,
    then its arms, by output port, are sent while live input fills them."""

    audio_in_video: bool
    reader: ConversationReader | None
    conversation: ParsedConversation | None = None
    preparation: Generator[None, None, Prepared] | None = None
    prepared: Prepared | None = None


class Frontend:
    """Qwen2.5-Omni's preprocessing, equal to transformers' Qwen2_5OmniProcessor for the same samples and pixels.

    Raises RequestError ``invalid_input`` with one line that names the place or the medium. ``limits`` is the deploy file's
    table of what a request may bring; a text may be as long as the model's context.

    ``live_audio`` and ``live_video`` come after the conversation; docs/live-input.md says where they belong. ``mel_max``:
    the maximum at which live sound's mel is clamped: ``running`` (each block goes out at once) or ``global`` (at the end of
    the sound, then equal to a file of it).
    """

    preload = PRELOAD

    conversation = In(Conversation)
    live_audio = In(AudioChunk, optional=True)
    live_video = In(VideoFrame, optional=True)
    layout = Out(LayoutSegment)
    audio = Out(MelChunk)
    vision = Out(Patches)

    @dataclass(frozen=True, slots=True)
    class Params:
        """``audio_in_video``: also hear the videos whose part does not say (``"audio": true`` or ``false``)."""

        audio_in_video: bool = False

    def __init__(
        self,
        checkpoint: str,
        limits: Mapping[str, float] | None = None,
        mel_max: Literal["running", "global"] = "running",
    ) -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.preparation import Preparer

        self._limits = ConversationLimits.of(limits or {})
        self._preparer = Preparer(open_checkpoint(checkpoint), self._limits.media, mel_max)
        self._requests: dict[str, _Request] = {}

    def open(self, request: str, params: Params) -> None:
        self._requests[request] = _Request(params.audio_in_video, ConversationReader(self._limits))

    def close(self, request: str) -> None:
        self._requests.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        self._receive(inbox, outbox)
        for request, state in list(self._requests.items()):
            self._send(request, state, self.layout, outbox)
            self._send(request, state, self.audio, outbox)
            with self._blaming(request):
                self._begin(request, state, inbox)
                self._listen(request, state, inbox, outbox)
        return self._work(outbox)

    def _receive(self, inbox: Inbox, outbox: Outbox) -> None:
        """Take what has come of conversations of requests with room."""
        for request in inbox.ready(self.conversation):
            state = self._requests.get(request)
            if state is not None and state.reader is not None and self._has_room(request, outbox):
                with self._blaming(request):
                    while request in inbox.ready(self.conversation):
                        state.reader.push(inbox.take(self.conversation, request))
        for request in inbox.drained(self.conversation):
            state = self._requests.get(request)
            if state is not None and state.reader is not None:
                with self._blaming(request):
                    state.conversation = state.reader.finish()
                state.reader = None

    def _has_room(self, request: str, outbox: Outbox) -> bool:
        return any(outbox.room(port, request) > 0 for port in (self.layout, self.audio, self.vision))

    def _begin(self, request: str, state: _Request, inbox: Inbox) -> None:
        """Begin to prepare a conversation that is whole, once it is clear what its live input is."""
        from omni_nodes.qwen2_5_omni.live import live_span

        if state.conversation is None:
            return
        came = [_came(inbox, port, request) for port in (self.live_audio, self.live_video)]
        span = live_span(state.conversation.live, *came, heard=state.audio_in_video or None)
        if span is None:
            return
        conversation, state.conversation = state.conversation, None
        if not span.kind:
            state.preparation = self._preparer.prepare(conversation, state.audio_in_video)
            return
        if conversation.live is None:
            conversation = conversation.with_live(span.kind)
        state.preparation = self._preparer.prepare_live(conversation, state.audio_in_video, span)

    def _listen(self, request: str, state: _Request, inbox: Inbox, outbox: Outbox) -> None:
        """Take live input until there is work to do: a frame between two samples makes none."""
        live = state.prepared and state.prepared.arms and state.prepared.live
        if not live:  # or every output has ended, and with them the request here
            return
        sound_room = not live.hears or outbox.room(self.audio, request) > 0
        picture_room = not live.sees or outbox.room(self.vision, request) > 0
        while sound_room and live.wants_sound and request in inbox.ready(self.live_audio):
            live.push(inbox.take(self.live_audio, request))
        while picture_room and live.wants_pictures and request in inbox.ready(self.live_video):
            live.push(inbox.take(self.live_video, request))
        if request in inbox.drained(self.live_audio):
            live.end_sound()
        if request in inbox.drained(self.live_video):
            live.end_pictures()

    def _work(self, outbox: Outbox) -> bool:
        """One slice, of preparation, live input or pictures, for the request that has waited longest; False when none can
        use it."""
        for request, state in self._requests.items():
            live = state.prepared and state.prepared.live
            if state.preparation or (live and live.busy) or self._can_send_pictures(request, state, outbox):
                break
        else:
            return False
        self._requests[request] = self._requests.pop(request)
        with self._blaming(request):
            if state.preparation is not None:
                self._prepare(state)
            elif live and live.busy:
                live.advance()
            else:
                self._send(request, state, self.vision, outbox)
        return True

    def _prepare(self, state: _Request) -> None:
        assert state.preparation is not None
        try:
            next(state.preparation)
        except StopIteration as finished:
            state.preparation, state.prepared = None, finished.value

    def _can_send_pictures(self, request: str, state: _Request, outbox: Outbox) -> bool:
        arm = state.prepared and state.prepared.arms.get(self.vision.name)
        if not arm:
            return False
        if not arm.left or not outbox.routed(self.vision, request):
            return True
        return arm.ready and outbox.room(self.vision, request) > 0

    def _send(self, request: str, state: _Request, port: Out[Any], outbox: Outbox) -> None:
        """Send what there is room for, up to one slice of work; end the output after its last packet."""
        arm = state.prepared and state.prepared.arms.get(port.name)
        if not arm:
            return
        routed = outbox.routed(port, request)
        while routed and arm.ready and outbox.room(port, request) > 0:
            packet = arm.advance()
            if packet is None:
                return
            outbox.send(port, request, packet)
        if not arm.left or not routed:
            assert state.prepared is not None
            state.prepared.arms.pop(port.name).drop()
            outbox.end(request, port)

    @contextmanager
    def _blaming(self, request: str) -> Iterator[None]:
        """Whatever is wrong with the input fails the request, once, and frees it."""
        try:
            yield
        except (InvalidInput, MediaError) as error:
            self.close(request)
            raise RequestError(request, Code.INVALID_INPUT, str(error)) from error


def _came(inbox: Inbox, port: In[Any], request: str) -> bool | None:
    """Whether anything has come on the port; None: not yet."""
    if request in inbox.ready(port):
        return True
    return False if request in inbox.drained(port) else None
