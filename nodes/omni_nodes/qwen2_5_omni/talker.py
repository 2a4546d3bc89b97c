"""The Talker: prompt states and thoughts in, codec ids out, one packet a code. Imports no torch.

Its prompt is computed chunk by chunk behind the Thinker. A request whose next thought has not come waits and does not hold
the others; one without room takes nothing and keeps its KV. The code that ends speech is chosen but never sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omni_graph.errors import Code, RequestError
from omni_graph.node import UNLIMITED, In, Inbox, Out, Outbox
from omni_graph.payload import Array
from omni_nodes.engine.failures import Failures
from omni_nodes.engine.sampling import SamplingParams
from omni_nodes.payloads import Codes, PromptStates, Thought
from omni_nodes.preload import PRELOAD

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.talker_model import Prediction, TalkerModel

DEFAULT_VOICE = "Chelsie"


@dataclass(slots=True)
class _Request:
    """``unfed`` is the code that was sent and not yet fed back; ``text_ended``: the mark of the text's end was fed.
    ``limit`` is how many codes may be chosen, final once the prompt is ``complete``."""

    voice: str
    limit: int
    prompt: int = 0
    complete: bool = False
    begun: bool = False
    text_ended: bool = False
    unfed: int | None = None
    chosen: int = 0

    @property
    def due(self) -> bool:
        """The next code needs a thought: the one that begins the speech, or the one that goes with the code before."""
        return self.unfed is not None or (self.complete and not self.begun)


class Talker:
    """The speech model of Qwen2.5-Omni (transformers' Qwen2_5OmniTalkerForConditionalGeneration).

    A checkpoint that cannot speak is loaded all the same, so that its text can be served: each request for speech is
    refused, and told why. ``max_batch``, ``prefill_chunk`` and ``kv_bytes`` as for the Thinker.
    """

    preload = PRELOAD

    prompt = In(PromptStates)
    thought = In(Thought)
    codes = Out(Codes)

    @dataclass(frozen=True, slots=True)
    class Params:
        """``voice`` empty is Chelsie, or the checkpoint's first. The vendor's sampling; temperature 0 is greedy."""

        voice: str = ""
        max_tokens: int = 4096
        temperature: float = 0.9
        top_k: int = 40
        top_p: float = 0.8
        repetition_penalty: float = 1.05
        seed: int = 0

        def sampling(self) -> SamplingParams:
            """Raises ValueError where a value is out of range."""
            return SamplingParams(
                self.max_tokens, self.temperature, self.top_k, self.top_p, self.repetition_penalty, self.seed
            )

    def __init__(
        self,
        checkpoint: str,
        dtype: str = "float32",
        max_batch: int = 16,
        prefill_chunk: int = 256,
        device: str = "auto",
        kv_bytes: int | None = None,
    ) -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint

        opened = open_checkpoint(checkpoint)
        self._mute = opened.speech_missing
        self._prefill_chunk = prefill_chunk
        self._requests: dict[str, _Request] = {}
        self._failures = Failures(self.close)
        self._voices: tuple[str, ...] = ()
        if self._mute:
            return
        from omni_nodes.engine.engine import EngineLimits
        from omni_nodes.qwen2_5_omni.talker_model import TalkerModel
        from omni_nodes.qwen2_5_omni.weights import load_speakers, load_talker

        speakers = load_speakers(opened)
        limits = EngineLimits(max_batch, prefill_chunk, opened.settings.talker.decoder.context_length, kv_bytes)
        self._voices = tuple(speakers)
        self._ends = opened.settings.talker.eos
        self._model: TalkerModel = TalkerModel(load_talker(opened, device, dtype), opened, speakers, limits)

    def open(self, request: str, params: Params) -> None:
        if self._mute:
            raise RequestError(request, Code.INVALID_INPUT, f"this checkpoint has no speech: {self._mute}")
        try:
            sampling, voice = params.sampling(), self._voice(params.voice)
        except ValueError as error:
            raise RequestError(request, Code.INVALID_INPUT, str(error)) from None
        self._requests[request] = _Request(voice, params.max_tokens)
        self._model.open(request, sampling, voice)

    def close(self, request: str) -> None:
        if self._requests.pop(request, None) is not None:
            self._model.close(request)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        self._failures.raise_next()
        if not self._requests:
            return False
        self._take_prompts(inbox, outbox)
        self._take_text(inbox, outbox)
        plan = self._model.plan(dict.fromkeys(self._requests, UNLIMITED))  # what was fed has room for its code
        for grant in plan.grants:
            outbox.working(grant.request)
        for prediction in self._model.run(plan.grants):
            with self._failures.kept():
                self._choose(prediction, outbox)
        with self._failures.kept():
            self._model.check(plan)
        self._failures.raise_next()
        return bool(plan.grants)

    def _voice(self, asked: str) -> str:
        """Raises ValueError for a voice that the checkpoint does not have."""
        if not asked:
            return DEFAULT_VOICE if DEFAULT_VOICE in self._voices else self._voices[0]
        if asked not in self._voices:
            raise ValueError(f"voice is {asked!r}; allowed: {', '.join(self._voices)}")
        return asked

    # ---- what the Thinker sends

    def _take_prompts(self, inbox: Inbox, outbox: Outbox) -> None:
        """Take prompt packets, turn by turn, while they have room and the next step could use them."""
        took = True
        while took:
            wanting = [request for request in inbox.ready(self.prompt) if self._wants_prompt(request, outbox)]
            for request in wanting:
                with self._failures.kept():
                    self._feed_prompt(request, inbox.take(self.prompt, request))
            took = bool(wanting)

    def _wants_prompt(self, request: str, outbox: Outbox) -> bool:
        state = self._requests.get(request)
        if state is None or state.complete or self._model.waiting(request) >= self._prefill_chunk:
            return False
        return outbox.room(self.codes, request) > 0

    def _feed_prompt(self, request: str, packet: PromptStates) -> None:
        state = self._requests[request]
        state.prompt += len(packet.states)
        state.complete = packet.last
        left = self._model.speech_left(state.prompt)
        if left < 1:
            message = f"the prompt has {state.prompt} tokens; allowed with speech: at most {state.prompt + left - 1}"
            raise RequestError(request, Code.INVALID_INPUT, message)
        state.limit = min(state.limit, left)
        self._model.feed_prompt(request, packet)

    def _take_text(self, inbox: Inbox, outbox: Outbox) -> None:
        """Give each request that is due one thought, or what stands in its place after the last."""
        thoughts, ended = set(inbox.ready(self.thought)), set(inbox.drained(self.thought))
        prompted = set(inbox.drained(self.prompt))
        for request, state in list(self._requests.items()):
            if request in ended and not state.begun:
                outbox.end(request)  # the Thinker ended with its first token: there is nothing to say
                self.close(request)
            elif request in prompted and not state.complete:
                with self._failures.kept():
                    raise RequestError(request, Code.NODE_FAILED, "prompt ended before its last packet")
            elif state.due and outbox.room(self.codes, request) > 0:
                with self._failures.kept():
                    if request in thoughts:
                        self._feed_thought(request, state, inbox.take(self.thought, request))
                    elif request in ended:
                        self._feed_after_text(request, state)

    def _feed_thought(self, request: str, state: _Request, thought: Thought) -> None:
        if state.unfed is None:
            state.begun = True
            self._model.begin(request, thought)
        else:
            self._model.feed_code(request, state.unfed, thought)
        state.unfed = None

    def _feed_after_text(self, request: str, state: _Request) -> None:
        assert state.unfed is not None
        self._model.feed_code_after_text(request, state.unfed, first=not state.text_ended)
        state.text_ended, state.unfed = True, None

    # ---- speech

    def _choose(self, prediction: Prediction, outbox: Outbox) -> None:
        """Choose a code and say so; send it unless it ends the speech."""
        request = prediction.request
        state = self._requests[request]
        code = self._model.choose(prediction)
        outbox.choose(request, (code,))
        state.chosen += 1
        if code not in self._ends:
            outbox.send(self.codes, request, Codes(Array.of([[code]], "int64"), state.voice))
        if code in self._ends or state.chosen == state.limit:
            outbox.end(request)
            self.close(request)
        else:
            state.unfed = code
