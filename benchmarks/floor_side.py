"""The floor of first audio: the graph's own nodes, as deployed, called one after another in one process.

Each runs alone until the packet that the first sound needs is there; no process, no socket and no other stage stands
beside it. What a stage gives is handed to the next one whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.model_app import SEED, Ask, model_graph
from benchmarks.prompts import messages
from omni_graph.conversation import conversation_packets
from omni_graph.testing import NodeRun

if TYPE_CHECKING:
    from benchmarks.peer import Questions

MAKER = "benchmarks.floor_side:serve"
REQUEST = "floor"


def serve(folder: str) -> Questions:
    """Build the nodes of the packaged graph."""
    nodes = model_graph(Path(folder)).spec.nodes
    floor = Floor({name: _build(node.uses, node.config) for name, node in nodes.items()})
    return {"first_audio": floor.first_audio}


def _build(uses: str, config: Any) -> Any:
    module, _, name = uses.partition(":")
    return getattr(import_module(module), name)(**config)


class Floor:
    """The nodes, by name."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self._nodes = nodes

    def first_audio(self, prompt: str, tokens: int, codes: int) -> float:
        """Seconds to the first packet of sound of an answer with ``tokens`` of text, from so many ``codes`` of speech."""
        began = time.perf_counter()
        params = Ask(prompt, tokens, codes).params
        layout = self._run("frontend", {"conversation": list(conversation_packets(messages(prompt)))})
        encoded = {
            "audio": self._run("audio_encoder", {"features": layout["audio"]})["embeds"],
            "vision": self._run("vision_encoder", {"patches": layout["vision"]})["embeds"],
        }
        laid = self._run("interleaver", {"layout": layout["layout"], **encoded})
        thoughts = self._run("thinker", {"prompt": laid["prompt"]}, params["thinker"])
        talked = {"prompt": thoughts["states"], "thought": thoughts["thought"]}
        said = self._run("talker", talked, params["talker"], until="codes", count=codes)
        mel = self._run("codec_dit", {"codes": said["codes"]}, until="mel")
        self._run("bigvgan", {"mel": mel["mel"]}, until="audio")
        return time.perf_counter() - began

    def _run(
        self, name: str, inputs: Mapping[str, Sequence[Any]], params: Any = None, until: str = "", count: int = 1
    ) -> dict[str, list[Any]]:
        """All that a node sends, or as far as the ``count``-th packet of output ``until``."""
        run = NodeRun(self._nodes[name])
        run.open(REQUEST, inputs, params, SEED)
        sent = run.outputs[REQUEST]
        while not (until and len(sent[until]) >= count) and run.move():
            pass
        if run.errors:
            raise run.errors[REQUEST]
        if until and len(sent[until]) < count:
            raise RuntimeError(
                f"{name} came to rest with {len(sent[until])} packets of {until!r}; the floor needs {count}"
            )
        run.close(REQUEST)
        return sent
