"""Work: does something visible to each piece of text, and takes as long over it as it is told to.

``seconds`` stands for computing: with it, queues, stalls and batches show in a trace without a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from omni_graph.errors import NodeError
from omni_graph.kinds import MapNode
from omni_graph.node import In, Out
from omni_graph.payload import TextDelta

TRANSFORMS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "reverse": lambda text: text[::-1],
    "same": lambda text: text,
}


class Work(MapNode[TextDelta, TextDelta]):
    """``transform``: upper, lower, title, reverse or same; ``seconds``: what one batch takes; ``batch``: packets in it.

    Token ids go through unchanged.
    """

    text = In(TextDelta)
    out = Out(TextDelta)

    def __init__(self, transform: str = "upper", seconds: float = 0.0, batch: int = 8) -> None:
        if transform not in TRANSFORMS:
            raise NodeError(f"transform is {transform!r}; allowed: {', '.join(TRANSFORMS)}")
        if seconds < 0 or batch < 1:
            raise NodeError(f"seconds is {seconds}, batch is {batch}; allowed: seconds from 0, batch from 1")
        self.max_batch = batch
        self._transform = TRANSFORMS[transform]
        self._seconds = seconds

    def forward(self, batch: list[TextDelta]) -> list[TextDelta]:
        time.sleep(self._seconds)
        return [TextDelta(self._transform(one.text), one.token_ids, one.finish_reason, one.usage) for one in batch]
