"""omni_graph: serve omni-modal models as a streaming graph of stages.

Importing this imports no torch, no zmq and no node; what needs them is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omni_graph.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    FatalNodeError,
    FlowControlError,
    GraphError,
    LaunchError,
    NodeError,
    OmniGraphError,
    Overloaded,
    RequestError,
    ScaleError,
)
from omni_graph.node import UNLIMITED, In, Inbox, Node, NoParams, Out, Outbox

if TYPE_CHECKING:
    from omni_graph.graph import Graph
    from omni_graph.kinds import MapNode, StreamNode
    from omni_graph.load import load_deploy, load_graph
    from omni_graph.runtime.app import App, Handle, PacketEvent, Result, launch
    from omni_graph.runtime.async_app import AsyncApp, alaunch
    from omni_graph.spec import DeploySpec, GraphSpec

_LAZY = {
    "Graph": "omni_graph.graph",
    "MapNode": "omni_graph.kinds",
    "StreamNode": "omni_graph.kinds",
    "load_graph": "omni_graph.load",
    "load_deploy": "omni_graph.load",
    "App": "omni_graph.runtime.app",
    "Handle": "omni_graph.runtime.app",
    "PacketEvent": "omni_graph.runtime.app",
    "Result": "omni_graph.runtime.app",
    "launch": "omni_graph.runtime.app",
    "AsyncApp": "omni_graph.runtime.async_app",
    "alaunch": "omni_graph.runtime.async_app",
    "DeploySpec": "omni_graph.spec",
    "GraphSpec": "omni_graph.spec",
}

__all__ = [
    "UNLIMITED",
    "App",
    "AsyncApp",
    "Cancelled",
    "Code",
    "DeadlineExceeded",
    "DeploySpec",
    "FatalNodeError",
    "FlowControlError",
    "Graph",
    "GraphError",
    "GraphSpec",
    "Handle",
    "In",
    "Inbox",
    "LaunchError",
    "MapNode",
    "NoParams",
    "Node",
    "NodeError",
    "OmniGraphError",
    "Out",
    "Outbox",
    "Overloaded",
    "PacketEvent",
    "RequestError",
    "Result",
    "ScaleError",
    "StreamNode",
    "alaunch",
    "launch",
    "load_deploy",
    "load_graph",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'omni_graph' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
