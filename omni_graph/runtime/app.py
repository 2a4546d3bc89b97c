"""The Python face of a running graph: launch, run, stream, open, scale. Everything a caller does from any thread."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from omni_graph.errors import Code, RequestError
from omni_graph.gateway_request import Submission
from omni_graph.graph import Graph
from omni_graph.observe.trace import Trace, make_trace
from omni_graph.payload import merge_packets
from omni_graph.plan import Plan, make_plan
from omni_graph.runtime.deployment import Deployment, make_launcher
from omni_graph.runtime.handle import Handle, PacketEvent
from omni_graph.runtime.inputs import check_inputs, check_outputs, check_params, inputs_of, read_inputs
from omni_graph.runtime.replicas import OnChange
from omni_graph.runtime.scaling import START_TIMEOUT_S
from omni_graph.spec import DeploySpec

Params = Mapping[str, Mapping[str, Any]]
MAX_SESSION = 256

__all__ = ["App", "Handle", "PacketEvent", "Params", "Result", "launch"]


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
        session: str | None = None,
    ) -> Result:
        """One request, whole: all outputs are read, then merged. Raises RequestError when it does not complete.

        ``inputs``: {name: packet, packets, or messages}; ``params``: {stage: {name: value}}; ``seed`` None: drawn, and in
        the result; ``folder``: what relative paths in messages are relative to; ``session``: requests of one session go to
        the replicas that served it last, while they live and have room.
        """
        return self.collect(self.start(inputs, outputs, params, seed, deadline_s, folder, session))

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
        session: str | None = None,
    ) -> Iterator[PacketEvent]:
        """Packets as they arrive. Leaving the loop early cancels the request."""
        handle = self.start(inputs, outputs, params, seed, deadline_s, folder, session)
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
        session: str | None = None,
        live: Iterable[str] = (),
    ) -> Handle:
        """Submit a request with its whole inputs, but for the ``live`` ones, which are written later. Returns at once."""
        asked, live = self._asked(outputs), frozenset(live)
        packets = read_inputs(self.plan, inputs, asked, folder, live)
        kinds = {name: self.plan.inputs[name].type for name in packets}
        handle = self._submit(asked, params, seed, deadline_s, kinds, session)
        for name in packets.keys() - live:
            handle.supply(name, packets[name])
        return handle

    def open(
        self,
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        session: str | None = None,
        inputs: Iterable[str] | None = None,
    ) -> Handle:
        """A request whose inputs are written piece by piece with ``write`` and ``end``.

        ``inputs``: those that will be written; the others have ended. None: all, but an optional one to which nothing was
        written when the first event is asked for ends then.
        """
        asked = self._asked(outputs)
        stages = self.plan.needed(asked)
        named = None if inputs is None else tuple(inputs)
        reads = inputs_of(self.plan, stages) if named is None else check_inputs(self.plan, named, stages)
        kinds = {name: one.type for name, one in reads.items()}
        undecided = () if named is not None else tuple(name for name, one in reads.items() if one.optional)
        handle = self._submit(asked, params, seed, deadline_s, kinds, session, undecided)
        for name in reads.keys() - set(reads if named is None else named):
            handle.end(name)
        return handle

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
        session: str | None,
        undecided: Iterable[str] = (),
    ) -> Handle:
        check_params(self.plan, params or {})
        if session is not None and not 0 < len(session) <= MAX_SESSION:
            raise RequestError("", Code.INVALID_INPUT, f"a session is 1 to {MAX_SESSION} letters; got {len(session)}")
        submission = Submission(
            request=f"r-{uuid.uuid4().hex[:12]}",
            stages=self.plan.needed(outputs),
            outputs=outputs,
            params=json.dumps(params or {}),
            seed=secrets.randbelow(1 << 31) if seed is None else seed,
            deadline_s=deadline_s or self.plan.deploy.limits.deadline_s,
            traceparent=f"00-{uuid.uuid4().hex}-{secrets.token_hex(8)}-01",
            session=session or "",
        )
        assert self._deployment.gateway is not None
        return Handle(self._deployment.gateway, submission, inputs, undecided)

    def scale(
        self, stage: str, replicas: int, timeout_s: float = START_TIMEOUT_S, drain_timeout_s: float | None = None
    ) -> None:
        """Bring a stage to so many replicas. New ones take requests once all of them are ready; of too many the newest are
        drained. Returns when it is done.

        ``timeout_s`` to start; ``drain_timeout_s`` as in ``drain``. Raises ScaleError for what cannot be asked, LaunchError
        where a replica does not start: then the replicas are those of before.
        """
        self._deployment.scaling.scale(stage, replicas, timeout_s, drain_timeout_s)

    def drain(
        self,
        stage: str,
        replica: int | None = None,
        timeout_s: float = START_TIMEOUT_S,
        drain_timeout_s: float | None = None,
    ) -> None:
        """Take replica ``replica`` (the number behind the stage's name) out of service, or all of the stage. It gets no new
        requests, finishes what it has, and ends; a stage without a replica refuses requests until it is scaled.

        What is not finished after ``drain_timeout_s`` seconds (None: the deploy file's) is replayed on other replicas.
        ``timeout_s``: to wait for another change of the stage. Raises ScaleError.
        """
        self._deployment.scaling.drain(stage, replica, timeout_s, drain_timeout_s)

    def replace(
        self,
        stage: str,
        config: Mapping[str, Any],
        timeout_s: float = START_TIMEOUT_S,
        drain_timeout_s: float | None = None,
    ) -> None:
        """Replace a stage's replicas one by one by a new revision, with these values changed in its node's config: each new
        one is ready before an old one is drained. Requests go on meanwhile; an answer ends on the revision it began on.

        Raises ScaleError for a config that the node does not take, LaunchError where a replica does not start: then those
        not yet replaced stay.
        """
        self._deployment.scaling.replace(stage, config, timeout_s, drain_timeout_s)

    @property
    def paused(self) -> int:
        """Requests that wait for their caller to read."""
        return self._deployment.paused()

    def status(self) -> dict[str, Any]:
        """Requests and replicas now."""
        return self._deployment.status()

    def logs(self, stage: str | None = None, lines: int = 200) -> dict[str, list[str]]:
        """The last log lines of each replica, of one stage or of all. Raises ScaleError for a stage that is not there."""
        return self._deployment.logs(stage, lines)

    @property
    def run_folder(self) -> Path:
        """The folder of this run, ours alone (0700); it goes with the deployment."""
        return Path(self._deployment.run_folder)

    def close(self, drain_s: float = 0.0) -> None:
        """End everything. What runs has ``drain_s`` seconds to finish, and fails then with code ``closed``. Idempotent."""
        self._deployment.close(drain_s)

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

    ``launcher`` (threads, processes, ray) overrides the deploy file's; ``outputs``: start only the stages that these need;
    ``on_change`` hears of every replica that becomes ready or fails. Raises GraphError for a graph that breaks a rule and
    LaunchError, with the replica's last log lines, for one that does not start.
    """
    plan = make_plan(graph, deploy)
    stages = plan.needed(outputs) if outputs is not None else None
    chosen = make_launcher(launcher or plan.deploy.launcher)
    return App(plan, Deployment(plan, chosen, stages=stages, on_change=on_change, log_level=log_level))
