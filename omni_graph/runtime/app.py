"""The Python face of a running graph: launch, run, stream, open. Everything a caller does from any thread."""

from __future__ import annotations

import json
import secrets
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from omni_graph.errors import Code, RequestError
from omni_graph.gateway_request import Ended, OutputPacket, Released, Submission
from omni_graph.graph import Graph
from omni_graph.observe.trace import Trace, make_trace
from omni_graph.payload import merge_packets
from omni_graph.plan import Plan, make_plan
from omni_graph.runtime.deployment import Deployment, make_launcher
from omni_graph.runtime.inputs import check_outputs, check_packet, check_params, read_inputs
from omni_graph.runtime.mailbox import Mailbox
from omni_graph.runtime.replicas import OnChange
from omni_graph.spec import DeploySpec

Params = Mapping[str, Mapping[str, Any]]
INPUT_PACKETS_WAITING = 64
TIMINGS_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """A packet of an output, in order of arrival."""

    output: str
    packet: Any


@dataclass(frozen=True, slots=True)
class Result(Mapping[str, Any]):
    """A completed request: ``result["text"]`` is the output's merged packets; ``trace`` is where its time went."""

    outputs: Mapping[str, Any]
    request: str
    seed: int
    total_s: float
    trace: Trace

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


class Handle:
    """One request under way. Write and end its inputs, read its events, cancel it; from any thread, read from one."""

    def __init__(self, deployment: Deployment, submission: Submission, inputs: Mapping[str, type]) -> None:
        assert deployment.gateway is not None
        self.request = submission.request
        self.seed = submission.seed
        self.outputs = submission.outputs
        self.trace_id = submission.traceparent.split("-")[1]
        self.stages: Mapping[str, Any] = {}
        self.retries = 0
        self.total_s = 0.0
        self._gateway = deployment.gateway
        self._inputs = dict(inputs)
        self._mailbox = Mailbox(self._read_back)
        self._error: RequestError | None = None
        self._ended = False
        self._gateway.submit(submission, self._mailbox.put)

    # ---- inputs

    def write(self, name: str, packet: Any) -> None:
        """One packet of an input. Waits while many have not left yet: the graph's pace is the writer's."""
        kind = self._inputs.get(name)
        if kind is None:
            known = ", ".join(self._inputs) or "none"
            raise RequestError(self.request, Code.INVALID_INPUT, f"no input {name!r} to write to; inputs: {known}")
        check_packet(name, kind, packet)
        waiting = self._gateway.call(lambda core, now: self._put(core, name, packet, now))
        while waiting > INPUT_PACKETS_WAITING:
            threading.Event().wait(0.002)
            waiting = self._gateway.call(lambda core, now: core.waiting_input(self.request, name))

    def _put(self, core: Any, name: str, packet: Any, now: float) -> int:
        core.write(self.request, name, (packet,), now)
        return int(core.waiting_input(self.request, name))

    def supply(self, name: str, packets: Iterable[Any]) -> None:
        """A whole input at once; it leaves as the graph takes it. What is no sequence is pulled in the Gateway's thread."""
        self._gateway.post(lambda core, now: core.write(self.request, name, packets, now))
        self.end(name)

    def end(self, name: str) -> None:
        """The input is complete."""
        self._inputs.pop(name, None)
        self._gateway.post(lambda core, now: core.end_input(self.request, name, now))

    # ---- outputs

    def __iter__(self) -> Iterator[PacketEvent]:
        """Packets in order of arrival until the request has ended. Raises its RequestError if it did not complete."""
        while (event := self.next()) is not None:
            yield event

    def next(self, timeout: float | None = None) -> PacketEvent | None:
        """The next packet; None after the last. Raises RequestError when the request failed, TimeoutError after
        ``timeout`` seconds without an event."""
        while not self._ended:
            event = self._mailbox.get(timeout)
            if event is None:
                raise TimeoutError(f"{self.request}: nothing for {timeout} s")
            packet = self._on(event)
            if packet is not None:
                return packet
        if self._error is not None:
            raise self._error
        return None

    def _on(self, event: Any) -> PacketEvent | None:
        if isinstance(event, OutputPacket):
            return PacketEvent(event.output, event.packet)
        if isinstance(event, Ended):
            self._ended, self._error, self.total_s = True, event.error, event.after_s
        return None

    def next_now(self) -> PacketEvent | None:
        """The next packet if one is there; see ``ended``."""
        while not self._ended and (event := self._mailbox.get_now()) is not None:
            packet = self._on(event)
            if packet is not None:
                return packet
        if self._error is not None:
            raise self._error
        return None

    def on_arrival(self, listener: Callable[[], None] | None) -> None:
        """Call ``listener`` from another thread whenever an event arrives; for event loops."""
        self._mailbox.on_arrival = listener

    @property
    def ended(self) -> bool:
        """The terminal event has been read."""
        return self._ended

    def drop(self, output: str) -> None:
        """This output is not wanted any more: what only it needs is stopped."""
        self._gateway.post(lambda core, now: core.drop(self.request, output, now))

    def cancel(self) -> None:
        """Give up: every stage forgets the request. Harmless after its end."""
        self._gateway.post(lambda core, now: core.cancel(self.request, now))

    def timings(self, wait_s: float = TIMINGS_WAIT_S) -> Mapping[str, Any]:
        """What each stage spent, once all have forgotten the request; {} when one does not answer in time."""
        while not self.stages:
            event = self._mailbox.get(wait_s)
            if event is None:
                break
            if isinstance(event, Released):
                self.stages, self.retries = event.timings, event.retries
                break
        return self.stages

    def _read_back(self, taken: dict[str, int]) -> None:
        def read(core: Any, now: float) -> None:
            for output, size in taken.items():
                core.read(self.request, output, size, now)

        self._gateway.post(read)


class App:
    """A launched graph. Use it as a context manager, or call ``close``."""

    def __init__(self, plan: Plan, deployment: Deployment) -> None:
        self.plan = plan
        self._deployment = deployment

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        folder: Path | None = None,
    ) -> Result:
        """One request, whole: all outputs are read, then merged. Raises RequestError when it does not complete.

        ``inputs``: {name: packet, packets, or messages}; ``params``: {stage: {name: value}}; ``seed`` None: drawn, and in
        the result; ``folder``: what relative paths in messages are relative to.
        """
        handle = self.start(inputs, outputs, params, seed, deadline_s, folder)
        return self.collect(handle)

    def collect(self, handle: Handle) -> Result:
        """Read a handle to its end."""
        packets: dict[str, list[Any]] = {name: [] for name in handle.outputs}
        for event in handle:
            packets[event.output].append(event.packet)
        return Result(self.merge(packets), handle.request, handle.seed, handle.total_s, self.trace(handle))

    def merge(self, packets: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """One value per output, by its type's ``merge``."""
        kinds = {name: self.plan.edges[number].type for name, number in self.plan.outputs.items()}
        return {name: merge_packets(kinds[name], found) for name, found in packets.items()}

    def trace(self, handle: Handle) -> Trace:
        """Where the time of an ended request went."""
        return make_trace(self.plan, handle.trace_id, handle.request, handle.total_s, handle.timings())

    def stream(
        self,
        inputs: Mapping[str, Any],
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        folder: Path | None = None,
    ) -> Iterator[PacketEvent]:
        """Packets as they arrive. Leaving the loop early cancels the request."""
        handle = self.start(inputs, outputs, params, seed, deadline_s, folder)
        try:
            yield from handle
        finally:
            handle.cancel()

    def start(
        self,
        inputs: Mapping[str, Any],
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        folder: Path | None = None,
    ) -> Handle:
        """Submit a request with its whole inputs; returns at once."""
        asked = self._asked(outputs)
        packets = read_inputs(self.plan, inputs, asked, folder)
        handle = self._submit(asked, params, seed, deadline_s, {name: self.plan.inputs[name].type for name in packets})
        for name, supplied in packets.items():
            handle.supply(name, supplied)
        return handle

    def open(
        self,
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
    ) -> Handle:
        """A request whose inputs are written piece by piece with ``write`` and ``end``."""
        asked = self._asked(outputs)
        stages = set(self.plan.needed(asked))
        kinds = {
            name: one.type
            for name, one in self.plan.inputs.items()
            if any(self.plan.edges[number].reader in stages for number in one.edges)
        }
        return self._submit(asked, params, seed, deadline_s, kinds)

    def _asked(self, outputs: Iterable[str] | None) -> tuple[str, ...]:
        asked = check_outputs(self.plan, outputs)
        stopped = [stage for stage in self.plan.needed(asked) if stage not in self._deployment.stages]
        if stopped:
            raise RequestError("", Code.UNAVAILABLE, "this stage was not started", stage=stopped[0])
        return asked

    def _submit(
        self,
        outputs: tuple[str, ...],
        params: Params | None,
        seed: int | None,
        deadline_s: float | None,
        inputs: Mapping[str, type],
    ) -> Handle:
        check_params(self.plan, params or {})
        submission = Submission(
            request=f"r-{uuid.uuid4().hex[:12]}",
            stages=self.plan.needed(outputs),
            outputs=outputs,
            params=json.dumps(params or {}),
            seed=secrets.randbelow(1 << 31) if seed is None else seed,
            deadline_s=deadline_s or self.plan.deploy.limits.deadline_s,
            traceparent=f"00-{uuid.uuid4().hex}-{secrets.token_hex(8)}-01",
        )
        return Handle(self._deployment, submission, inputs)

    @property
    def paused(self) -> int:
        """Requests that wait for their caller to read."""
        return self._deployment.paused()

    def status(self) -> dict[str, Any]:
        """Requests and replicas now."""
        return self._deployment.status()

    def close(self) -> None:
        """End everything; requests under way fail with code ``closed``. Idempotent."""
        self._deployment.close()

    def __enter__(self) -> App:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def launch(
    graph: Graph,
    deploy: DeploySpec | None = None,
    launcher: str | None = None,
    *,
    outputs: Iterable[str] | None = None,
    on_change: OnChange | None = None,
    log_level: str = "INFO",
) -> App:
    """Start a graph and wait until every stage is ready.

    ``launcher`` (threads, processes) overrides the deploy file's; ``outputs``: start only the stages that these need;
    ``on_change`` hears of every replica that becomes ready or fails. Raises GraphError for a graph that breaks a rule and
    LaunchError, with the replica's last log lines, for one that does not start.
    """
    plan = make_plan(graph, deploy)
    stages = plan.needed(outputs) if outputs is not None else None
    chosen = make_launcher(launcher or plan.deploy.launcher)
    return App(plan, Deployment(plan, chosen, stages=stages, on_change=on_change, log_level=log_level))
