"""Split: a stream of text becomes a stream of words, wherever the text was cut. A StreamNode, and a small one.

Invariant: the words concatenate to the text; a word leaves when its end is certain, with the space after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from omni_graph.kinds import StreamNode
from omni_graph.node import In, NoParams, Out
from omni_graph.payload import TextDelta

WORD = re.compile(r"\s*\S+\s*")


@dataclass(slots=True)
class Unfinished:
    """The text after the last word that is certain."""

    text: str = ""


class Split(StreamNode[Unfinished, TextDelta, TextDelta]):
    """One packet a word. Only the text is used: token ids do not survive being cut elsewhere."""

    text = In(TextDelta)
    words = Out(TextDelta)

    def start(self, params: NoParams) -> Unfinished:
        return Unfinished()

    def forward(self, states: list[Unfinished], chunks: list[TextDelta]) -> list[list[TextDelta]]:
        return [self._words(state, chunk.text) for state, chunk in zip(states, chunks, strict=True)]

    def finish(self, state: Unfinished) -> TextDelta | None:
        return TextDelta(state.text) if state.text else None

    def _words(self, state: Unfinished, text: str) -> list[TextDelta]:
        """All words but the last, which may go on in the next chunk."""
        text = state.text + text
        words = WORD.findall(text)
        state.text = words.pop() if words else text
        return [TextDelta(word) for word in words]
