"""The graph and deploy files as values: frozen, strict, as written. Also the way to build a graph in Python.

Nothing here imports a node or opens a file; whether the names fit together is for ``rules``. Unknown keys are errors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from omni_graph.frames import GATEWAY
from omni_graph.source import Source

if TYPE_CHECKING:
    from pydantic.annotated_handlers import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

API_VERSION: Final = "omni_graph/v1"
RESERVED = "reserved_name"
NAME = r"^[A-Za-z_][A-Za-z0-9_-]*$"
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
UNITS |= {"TiB": 1 << 40}
BYTES = r"^(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)$"


def parse_bytes(value: object) -> object:
    """``"16GiB"`` -> 17179869184; anything but text is passed on. Raises ValueError for text that is no size."""
    if not isinstance(value, str):
        return value
    match = re.match(BYTES, value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size; write bytes as a number, or with a unit: 512MiB, 16GiB, 64MB")
    return round(float(match[1]) * UNITS[match[2]])


Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    Field(ge=0),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": BYTES}]}),
]


def _not_reserved(name: str) -> str:
    """OG018: ``gateway`` is the name of the graph's own end."""
    if name == GATEWAY:
        raise PydanticCustomError(
            RESERVED, "`gateway` is the name of the graph's own end; call the node something else"
        )
    return name


NodeName = Annotated[Name, AfterValidator(_not_reserved)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)


def _mapping(value: object, key: str, allowed: str, cls: type) -> object:
    if not isinstance(value, str | dict | cls):
        raise ValueError(f"should be {allowed}")
    return {key: value} if isinstance(value, str) else value


def _or_text(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [{"type": "string"}, schema]}


class Wire(_Strict):
    """What feeds an input port: ``node.port`` or a graph input. In a file, a plain text is a Wire with that source."""

    source: str = Field(
        validation_alias="from", serialization_alias="from", description="`node.port`, or the name of a graph input"
    )
    window: PositiveInt | None = Field(
        default=None, description="packets in flight; the payload's own default where unset"
    )
    optional: bool = Field(
        default=False, description="leave the input unwired where the graph has no such node or input"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return _mapping(value, "from", "`node.port`, the name of a graph input, or a mapping", cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _or_text(handler.resolve_ref_schema(handler(core)))


class InputSpec(_Strict):
    """A graph input and the payload it takes. In a file, a plain text is an InputSpec of that type."""

    type: str = Field(description="a payload of omni_graph.payload, `package.module:Class` or `./file.py:Class`")
    optional: bool = Field(default=False, description="a request may leave it out")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return _mapping(value, "type", "the name of a payload, or a mapping", cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _or_text(handler.resolve_ref_schema(handler(core)))


class NodeSpec(_Strict):
    """One node: its class, its constructor's arguments, and what feeds its inputs."""

    uses: str = Field(description="`package.module:Class`, or `./file.py:Class` beside the graph file")
    config: dict[str, JsonValue] = Field(default={}, description="keyword arguments of the node's constructor")
    inputs: dict[str, Wire] = Field(
        default={}, description="input port -> `node.port`, the name of a graph input, or {from, window, optional}"
    )


class GraphSpec(_Strict):
    """A graph: what is connected to what."""

    api_version: Literal["omni_graph/v1"] = Field(default=API_VERSION, description="the version of this file's format")
    graph: Name = Field(description="the graph's name")
    parameters: dict[Name, JsonValue] = Field(default={}, description="name -> default, used as ${name}")
    inputs: dict[Name, InputSpec] = Field(default={}, description="graph input -> payload type")
    outputs: dict[Name, str] = Field(min_length=1, description="graph output -> `node.port`")
    nodes: dict[NodeName, NodeSpec] = Field(min_length=1)


class Limits(_Strict):
    """What one request may bring: the one table of limits, all settable in the deploy file."""

    messages: PositiveInt = 128
    parts: PositiveInt = 64
    images: PositiveInt = 16
    image_bytes: Bytes = 64_000_000
    image_pixels: PositiveInt = 16_800_000
    image_side: PositiveInt = 8192
    audio_bytes: Bytes = 64_000_000
    audio_seconds: PositiveFloat = 3600.0
    audio_min_rate: PositiveInt = 8_000
    audio_max_rate: PositiveInt = 192_000
    audio_channels: PositiveInt = 8
    video_bytes: Bytes = 512_000_000
    video_seconds: PositiveFloat = 600.0
    video_frames: PositiveInt = 768
    input_bytes: Bytes = Field(default=64 << 20, description="a request's inputs kept for a replay; past it, none")
    output_bytes: Bytes = Field(default=4 << 20, description="of an output not read yet; past it the request pauses")
    deadline_s: PositiveFloat = Field(default=600.0, description="a request's wall time")


class StageSpec(_Strict):
    """How one node is deployed."""

    replicas: PositiveInt = 1
    streams: PositiveInt = Field(default=16, description="requests at once, per replica")
    with_: str | None = Field(
        default=None, validation_alias="with", serialization_alias="with", description="live in this stage's workers"
    )
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: PositiveInt | None = Field(
        default=None, description="compute threads of a worker; the launcher's choice if unset"
    )
    nice: int = Field(default=0, ge=0, le=19, description="its processes yield the cores to those with less of it")
    cpu: NonNegativeFloat = Field(default=0.1, description="cores that Ray reserves")
    gpu: NonNegativeFloat = Field(default=0.0, description="GPUs that Ray reserves; may be a fraction")
    memory: Bytes | None = Field(default=None, description="main memory that Ray reserves")
    kv_bytes: Bytes | None = Field(default=None, description="KV cache of the node; its own default where unset")
    labels: dict[str, str] = Field(default={}, description="labels of the machines it may live on")
    spread: bool = Field(default=False, description="put replicas on different machines")
    env: dict[str, str] = Field(default={}, description="environment of its processes")
    max_step_s: PositiveFloat = Field(default=30.0, description="a step that takes longer counts as hung")


NODE_KEYS = frozenset({"with_", "device", "kv_bytes"})


class DeploySpec(_Strict):
    """A deployment: how many of each stage, where, and how wide."""

    api_version: Literal["omni_graph/v1"] = API_VERSION
    deploy: Name = Field(default="default", description="the deployment's name")
    launcher: Literal["threads", "processes", "ray"] = "threads"
    max_requests: PositiveInt = Field(default=16, description="requests running at once")
    queue: int = Field(default=64, ge=0, description="requests that may wait for a place")
    retries: int = Field(default=2, ge=0, description="replays of a request that lost a replica or a link")
    drain_timeout_s: NonNegativeFloat = Field(
        default=30.0, description="what a replica that is taken away may take to finish; the rest is replayed"
    )
    place_timeout_s: PositiveFloat = Field(
        default=60.0, description="what Ray may take to place a replica; then it fails, saying which resource is short"
    )
    memory_limit: Bytes = Field(default=16 << 30, description="of packets in flight")
    limits: Limits = Limits()
    stages: dict[Name, StageSpec] = {}

    _source: Source = PrivateAttr(default_factory=Source)

    @property
    def source(self) -> Source:
        """Where the values stand, for messages; empty for a DeploySpec made in Python."""
        return self._source

    def at(self, source: Source) -> DeploySpec:
        """The same deployment, read from ``source``."""
        placed = self.model_copy()
        placed._source = source
        return placed

    def stage(self, name: str) -> StageSpec:
        """How ``name`` is deployed; a stage that the file does not mention has one replica and the defaults."""
        return self.stages.get(name) or StageSpec()
