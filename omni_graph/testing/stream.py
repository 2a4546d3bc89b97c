"""check_stream: the law of StreamNode, chunked == whole, for any chunking of the input.

It compares whole outputs, not packets: where a stream cuts its output is its own affair.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from omni_graph.errors import NodeError
from omni_graph.node import Node, Ports, ports_of
from omni_graph.payload import merge_packets
from omni_graph.testing.audit import RuleBroken
from omni_graph.testing.run import run_node

Merge = Callable[[Sequence[Any]], Any]


def check_stream(
    make: Callable[[], Node],
    whole: Sequence[Any],
    params: Mapping[str, Any] | None = None,
    *,
    equal: Callable[[Any, Any], bool] = operator.eq,
    merge: Merge | None = None,
    merge_output: Merge | None = None,
    seeds: Iterable[int] = range(20),
) -> None:
    """The node's whole output is the same however ``whole``, an input cut as finely as it may come, is cut.

    Neighbours are merged at random by ``merge`` (default: the payload class's own). Whole outputs, made by
    ``merge_output`` (default: the class's own, else the tuple of packets), are compared by ``equal``. Raises RuleBroken.
    """
    node = make()
    ports = ports_of(type(node))
    (source,), (sink,) = ports.inputs.values(), ports.outputs.values()
    join = merge or _own_merge(source.type)
    collect = merge_output or (lambda packets: merge_packets(sink.type, packets))
    reference = collect(_output(node, ports, [join(whole)] if whole else [], params, None))
    for seed in seeds:
        rng = random.Random(seed)
        chunks = [join(chunk) for chunk in _cut(whole, rng)]
        if not equal(collect(_output(node, ports, chunks, params, rng)), reference):
            raise RuleBroken("chunked == whole", f"{type(node).__qualname__} in {len(chunks)} chunks, seed {seed}")


def _own_merge(cls: type) -> Merge:
    merge: Merge | None = getattr(cls, "merge", None)
    if merge is None:
        raise NodeError(f"{cls.__qualname__} has no merge(packets): give check_stream one as merge=")
    return merge


def _cut(pieces: Sequence[Any], rng: random.Random) -> list[Sequence[Any]]:
    """``pieces`` in runs of a random mean length; no run is empty."""
    chance = rng.random()
    cuts = [0, *(i for i in range(1, len(pieces)) if rng.random() < chance), len(pieces)]
    return [pieces[start:end] for start, end in pairwise(cuts) if end > start]


def _output(
    node: Node, ports: Ports, chunks: Sequence[Any], params: Mapping[str, Any] | None, rng: random.Random | None
) -> list[Any]:
    (source,), (sink,) = ports.inputs, ports.outputs
    outputs = run_node(node, {"stream": {source: chunks}}, {"stream": params or {}}, rng=rng)
    return outputs["stream"][sink]
