"""JSON Schema of the graph and deploy files, for editors. A node's ``config`` is described where its class is known.

Derived from the spec classes and the nodes' constructors; nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omni_graph.catalog import NodeCard
from omni_graph.config import ConfigKey
from omni_graph.spec import NAME, DeploySpec, GraphSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: dict[str, Any] = {"type": "string", "pattern": r"\$\{[^}]+\}"}

Schema = dict[str, Any]


def graph_schema(cards: Iterable[NodeCard]) -> Schema:
    """The schema of a graph file; ``cards`` are the nodes whose ``config`` it describes."""
    schema = _closed(GraphSpec.model_json_schema())
    schema["$defs"]["NodeSpec"]["allOf"] = [_config_of_node(card) for card in cards]
    return {"$schema": DIALECT, **schema}


def deploy_schema() -> Schema:
    """The schema of a deploy file."""
    return {"$schema": DIALECT, **_closed(DeploySpec.model_json_schema())}


def _closed(value: Any) -> Any:
    """Forbid the names that pydantic refuses and its schema forgets to: keys beside ``patternProperties``."""
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    closed = {key: _closed(item) for key, item in value.items()}
    return {**closed, "additionalProperties": False} if NAME in closed.get("patternProperties", {}) else closed


def _config_of_node(card: NodeCard) -> Schema:
    keys = card.config.keys.values()
    config: Schema = {"properties": {key.name: _config_value(key) for key in keys}}
    if not card.config.open_ended:
        config["additionalProperties"] = False
    required = [key.name for key in keys if key.required]
    then: Schema = {"properties": {"config": {**config, "required": required}}}
    if required:
        then["required"] = ["config"]
    return {"if": {"properties": {"uses": {"const": card.uses}}, "required": ["uses"]}, "then": then}


def _config_value(key: ConfigKey) -> Schema:
    """The constructor's type, or a ``${...}`` in its place."""
    schema = key.json_schema()
    if key.required or "default" in schema:
        return {"anyOf": [schema, REFERENCE]}
    return (
        {"anyOf": [schema, REFERENCE], "default": key.default}
        if _plain(key.default)
        else {"anyOf": [schema, REFERENCE]}
    )


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
