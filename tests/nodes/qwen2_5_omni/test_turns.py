"""The next turn of a conversation through the whole graph: prefilled from where it is new, and the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omni_graph.runtime.app import App, Result
from tests.nodes.qwen2_5_omni.apps import DTYPED, Messages, codes_of, greedy, launch, picture, tone
from tests.nodes.qwen2_5_omni.conversations import audio, image, user
from tests.runtime.graphs import eventually

FIRST = [user("describe this", image(picture(84, 84)), "and what you hear", audio(tone(2.5)), "in a few words")]


def second(first: Result) -> Messages:
    return [*FIRST, {"role": "assistant", "content": first["text"].text}, user("and now in one word")]


def said(app: App, messages: Messages) -> tuple[Sequence[int], Sequence[int]]:
    result = app.run({"conversation": messages}, params=greedy(12, 24))
    return result["text"].token_ids, codes_of(result)


def counters(app: App) -> dict[str, dict[str, int]]:
    """What the nodes that can keep something count, in nodes that keep nothing all of it 0."""
    stages = app.status()["stages"]
    return {name: stages[name]["replicas"][0]["counters"] for name in DTYPED}


def hits(app: App) -> dict[str, tuple[int, ...]]:
    """Rows asked and hit, of the two nodes with a prefix cache."""
    counted = counters(app)
    names = ("prefix_rows_asked", "prefix_rows_hit")
    return {node: tuple(counted[node][f"{node}.{name}"] for name in names) for node in ("thinker", "talker")}


def test_the_second_turn_is_prefilled_from_where_it_is_new(tiny_folder: Path) -> None:
    """Its picture and its sound too: they are known by content. ``caches=false`` is the switch for all that."""
    with launch(tiny_folder, settings=["caches=false"]) as app:
        first = app.run({"conversation": FIRST}, params=greedy(12, 24))
        plain = said(app, second(first))
        assert [set(one.values()) for one in counters(app).values()] == [{0}] * 4
    rows = sum(count for name, count in first["text"].usage if name.startswith("prompt."))
    with launch(tiny_folder) as app:
        assert said(app, FIRST) == (first["text"].token_ids, codes_of(first))
        assert said(app, second(first)) == plain
        found = rows // 16 * 16
        eventually(lambda: all(found <= hit < asked - rows for asked, hit in hits(app).values()))
        assert all(counters(app)[name][f"{name}.cache_hits"] > 0 for name in DTYPED[:2])
