"""The frontend stage: a conversation in; the prompt's layout, mel blocks and picture patches out.

After the whole conversation has come and been examined, each output is a cursor of its own that advances only when that
output has room: so a file whose tracks are not interleaved, or an encoder that lags, holds up nothing else. Nothing is
made for an output that nobody reads.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omni_graph.errors import Code, RequestError
from omni_graph.node import In, Inbox, Out, Outbox
from omni_graph.payload import Conversation
from omni_nodes.media.limits import MediaError
from omni_nodes.payloads import LayoutSegment, MelChunk, Patches
from omni_nodes.preload import PRELOAD
from omni_nodes.qwen2_5_omni.conversation import ConversationLimits, ConversationReader
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.preparation import Arm


@dataclass(slots=True)
class _Request:
    """One request: its packets are read, then it is prepared slice by slice, then its arms, by output port, are sent."""

    audio_in_video: bool
    reader: ConversationReader | None
    preparation: Generator[None, None, dict[str, Arm[Any]]] | None = None
    arms: dict[str, Arm[Any]] | None = None


class Frontend:
    """Qwen2.5-Omni's preprocessing, equal to transformers' Qwen2_5OmniProcessor for the same samples and pixels.

    Raises RequestError ``invalid_input`` with one line that names the place or the medium. ``limits`` is the deploy file's
    table of what a request may bring; a text may be as long as the model's context.
    """

    preload = PRELOAD

    conversation = In(Conversation)
    layout = Out(LayoutSegment)
    audio = Out(MelChunk)
    vision = Out(Patches)

    @dataclass(frozen=True, slots=True)
    class Params:
        """``audio_in_video``: also hear the videos whose part does not say (``"audio": true`` or ``false``)."""

        audio_in_video: bool = False

    def __init__(self, checkpoint: str, limits: Mapping[str, float] | None = None) -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.preparation import Preparer

        self._limits = ConversationLimits.of(limits or {})
        self._preparer = Preparer(open_checkpoint(checkpoint), self._limits.media)
        self._requests: dict[str, _Request] = {}

    def open(self, request: str, params: Params) -> None:
        self._requests[request] = _Request(params.audio_in_video, ConversationReader(self._limits))

    def close(self, request: str) -> None:
        self._requests.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        self._receive(inbox, outbox)
        for request, state in self._requests.items():
            self._send(request, state, self.layout, outbox)
            self._send(request, state, self.audio, outbox)
        return self._work(outbox)

    def _receive(self, inbox: Inbox, outbox: Outbox) -> None:
        """Take what has come for requests with room, and begin to prepare those that have come whole."""
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
                    state.preparation = self._preparer.prepare(state.reader.finish(), state.audio_in_video)
                state.reader = None

    def _has_room(self, request: str, outbox: Outbox) -> bool:
        return any(outbox.room(port, request) > 0 for port in (self.layout, self.audio, self.vision))

    def _work(self, outbox: Outbox) -> bool:
        """One slice, of preparation or of pictures, for the request that has waited longest; False when none can use it."""
        for request, state in self._requests.items():
            if state.preparation is not None or self._can_send_pictures(request, state, outbox):
                break
        else:
            return False
        self._requests[request] = self._requests.pop(request)
        with self._blaming(request):
            if state.preparation is None:
                self._send(request, state, self.vision, outbox)
            else:
                self._prepare(state)
        return True

    def _prepare(self, state: _Request) -> None:
        assert state.preparation is not None
        try:
            next(state.preparation)
        except StopIteration as finished:
            state.preparation, state.arms = None, finished.value

    def _can_send_pictures(self, request: str, state: _Request, outbox: Outbox) -> bool:
        arm = (state.arms or {}).get(self.vision.name)
        if arm is None:
            return False
        return not arm.left or not outbox.routed(self.vision, request) or outbox.room(self.vision, request) > 0

    def _send(self, request: str, state: _Request, port: Out[Any], outbox: Outbox) -> None:
        """Send what there is room for, up to one slice of work; end the output after its last packet."""
        arm = (state.arms or {}).get(port.name)
        if arm is None or state.arms is None:
            return
        routed = outbox.routed(port, request)
        while routed and arm.left and outbox.room(port, request) > 0:
            packet = arm.advance()
            if packet is None:
                return
            outbox.send(port, request, packet)
        if not arm.left or not routed:
            del state.arms[port.name]
            outbox.end(request, port)

    @contextmanager
    def _blaming(self, request: str) -> Iterator[None]:
        """Whatever is wrong with the input fails the request, once, and frees it."""
        try:
            yield
        except (InvalidInput, MediaError) as error:
            self.close(request)
            raise RequestError(request, Code.INVALID_INPUT, str(error)) from error
