"""The next turn of a conversation through the whole graph: prefilled from where it is new, and the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omni_graph.runtime.app import App, Result
from tests.nodes.qwen2_5_omni.apps import Messages, codes_of, greedy, launch, picture, tone
from tests.nodes.qwen2_5_omni.conversations import audio, image, user
from tests.runtime.graphs import eventually

FIRST = [user("describe this", image(picture(84, 84)), "and what you hear", audio(tone(2.5)), "in a few words")]
OFF = ("nodes.thinker.config.prefix_cache=false", "nodes.talker.config.prefix_cache=false")


def second(first: Result) -> Messages:
    return [*FIRST, {"role": "assistant", "content": first["text"].text}, user("and now in one word")]


def said(app: App, messages: Messages) -> tuple[Sequence[int], Sequence[int]]:
    result = app.run({"conversation": messages}, params=greedy(12, 24))
    return result["text"].token_ids, codes_of(result)


def hits(app: App) -> dict[str, tuple[int, int]]:
    """Rows asked and hit, of the two nodes that keep any."""
    counters = {name: app.status()["stages"][name]["replicas"][0]["counters"] for name in ("thinker", "talker")}
    return {name: (c[f"{name}.prefix_rows_asked"], c[f"{name}.prefix_rows_hit"]) for name, c in counters.items()}


def test_the_second_turn_is_prefilled_from_where_it_is_new(tiny_folder: Path) -> None:
    """Its picture and its sound too: they are known by content."""
    with launch(tiny_folder, settings=OFF) as app:
        first = app.run({"conversation": FIRST}, params=greedy(12, 24))
        plain = said(app, second(first))
        assert hits(app) == {"thinker": (0, 0), "talker": (0, 0)}
    rows = sum(count for name, count in first["text"].usage if name.startswith("prompt."))
    with launch(tiny_folder) as app:
        assert said(app, FIRST) == (first["text"].token_ids, codes_of(first))
        assert said(app, second(first)) == plain
        found = rows // 16 * 16
        eventually(lambda: all(found <= hit < asked - rows for asked, hit in hits(app).values()))
