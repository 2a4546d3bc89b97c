"""The Thinker's reply as its client sees it: when it ends and why, its text in deltas, its token counts. No tensors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from omni_graph.payload import TextDelta
from omni_nodes.qwen2_5_omni.detokenizer import Detokenizer

MODALITIES = ("text", "audio", "image", "video")


@dataclass(frozen=True, slots=True)
class StopRule:
    """What ends a reply: any of ``token_ids``, or ``max_tokens`` of them; the detokenizer adds the stop strings."""

    token_ids: frozenset[int]
    max_tokens: int


class Reply:
    """Takes token ids, gives deltas. ``finish_reason`` is empty until the last one, then ``stop`` or ``length``."""

    def __init__(self, detokenizer: Detokenizer, rule: StopRule) -> None:
        self.finish_reason = ""
        self.tokens = 0
        self._detokenizer = detokenizer
        self._rule = rule
        self._unsent: list[int] = []

    def add(self, token_id: int, prompt: Counter[str]) -> TextDelta | None:
        """The delta that this token completes; None inside a character. The last delta always comes and carries the
        counts: ``prompt`` tokens by modality, and the reply's."""
        self.tokens += 1
        self._unsent.append(token_id)
        text = self._detokenizer.push(token_id)
        self.finish_reason = self._reason(token_id)
        if self.finish_reason:
            text += self._detokenizer.finish()
        elif not text:
            return None
        ids, self._unsent = tuple(self._unsent), []
        if not self.finish_reason:
            return TextDelta(text, ids)
        usage = (*((f"prompt.{name}", prompt[name]) for name in MODALITIES), ("completion.text", self.tokens))
        return TextDelta(text, ids, self.finish_reason, usage)

    def _reason(self, token_id: int) -> str:
        if token_id in self._rule.token_ids or self._detokenizer.stopped:
            return "stop"
        return "length" if self.tokens >= self._rule.max_tokens else ""
