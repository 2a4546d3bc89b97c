"""A deterministic simulation of a whole deployment: GatewayCore and WorkerCores joined by simulated links, one seed a run.

Links are FIFO a direction and interleave as they like; any frame, slice, read or fault may come next. Time is a number.
An oracle watches every frame as it is sent and as it arrives. Whatever is wrong is a Violation, with the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from omni_graph.core import CONTROL, WorkerCore
from omni_graph.errors import RequestError
from omni_graph.frames import GATEWAY, Address, Credit, Data, End, Frame, LinkId, LinkLost, Open, Start, Stop
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_request import Ended, OutputPacket, Released
from omni_graph.node import Node
from omni_graph.testing.silent import SilentObserver
from omni_graph.topology import Topology
from omni_graph.wiring import Edge
from tests.core.sim_client import Client
from tests.core.sim_faults import bury, inject, kill
from tests.core.sim_network import Network, Pipe
from tests.core.sim_nodes import Choosing, Draw, draw_by_seed
from tests.core.sim_oracle import Oracle, Violation
from tests.core.sim_setting import KEPT_BYTES, SCRIPTS, SEEDS, Choices, Setting, Truth, Worker
from tests.core.sim_shapes import SHAPES, Shape, conversation

MAX_EVENTS = 60_000


class World:
    """One run."""

    def __init__(
        self,
        seed: int,
        setting: Setting,
        *,
        shape: Shape | None = None,
        truth: Truth | None = None,
        told: Choices | None = None,
    ) -> None:
        self.setting, self.truth, self.told = setting, truth or Truth(), told or {}
        self.rng = rng = random.Random(seed)
        self.shape = shape or SHAPES[setting.shape]
        self.now, self.tick_at = 0.0, 0.0
        self.pace = 0.001 if setting.calm or setting.poison else rng.choice((0.001, 0.001, 0.001, 0.02, 0.2))
        self.edges = self.shape.edges(
            (lambda: setting.window) if setting.calm else (lambda: rng.choice((1, 1, 2, 3, 8)))
        )
        self.slots = rng.choice((1, 2, 3))
        self.oracle = Oracle(self.edges)
        self.wobbles = setting.replay and rng.random() < 0.5
        self.topology = self._topology(random.Random(seed))
        self.gateway = GatewayCore(self.topology, Address(GATEWAY, ""))
        self.workers: dict[str, Worker] = {}
        self.awake: dict[str, Worker] = {}
        self.down: list[str] = []
        self.zombies: list[Worker] = []
        self.network = Network(rng, 0.0 if setting.calm else 0.15, self.is_alive)
        self.clients: dict[str, Client] = {}
        self.faults_left = 0 if setting.calm else rng.randint(setting.least, setting.count)
        self.fault_rate = rng.choice((0.01, 0.03, 0.1) if setting.replay else (0.003, 0.01, 0.03))
        self.lives = 0
        self.poisonous = rng.choice(list(self.topology.host_of.values())) if setting.poison else ""

    def is_alive(self, name: str) -> bool:
        """There is somebody of that name to hear."""
        return name == GATEWAY or name in self.workers

    # ---- setting up

    def _topology(self, draw: random.Random) -> Topology:
        replay, stages = self.setting.replay, tuple(self.shape.nodes)
        return Topology(
            self.edges,
            self._hosts(),
            dict.fromkeys(stages, self.slots),
            self.rng.choice((1, 2, 3)),
            4,
            retries=2 if self.setting.poison else draw.choice((30, 30, 30, 1, 2)) if replay else 0,
            once=frozenset(draw.sample(stages, 1)) if replay and draw.random() < 0.1 else frozenset(),
            output_bytes=draw.choice((24, 96, 4 << 20)),
            input_bytes=draw.choice((1 << 20, 1 << 20, 1 << 20, 3 * KEPT_BYTES)) if replay else 1 << 20,
        )

    def _draw(self, node: str) -> Draw:
        """How the chooser of this name draws."""
        told = self.told.get(node, ())

        def draw(seed: int, index: int, sides: int) -> int:
            if index < len(told):
                return told[index][0]
            wobbly = self.wobbles and self.rng.random() < 0.3
            return self.rng.randrange(sides) if wobbly else draw_by_seed(seed, index, sides)

        return draw

    def _hosts(self) -> dict[str, str]:
        """Most stages have workers of their own; some live in the one before, the last now and then in the first: then there
        are links both ways between two workers."""
        hosts: dict[str, str] = {}
        before = ""
        for name in self.shape.nodes:
            alone = not before or self.setting.calm or self.rng.random() < 0.8
            hosts[name] = before = name if alone else before
        if not self.setting.calm and self.rng.random() < 0.2:
            hosts[name] = next(iter(hosts))
        return hosts

    def boot(self, host: str) -> None:
        """A new replica of ``host``, of a name that was never used."""
        self.lives += 1
        name = f"{host}/{self.lives}"
        nodes = {n: make() for n, (make, _) in self.shape.nodes.items() if self.topology.host_of[n] == host}
        for n, node in nodes.items():
            if isinstance(node, Choosing):
                node.draw = self._draw(n)
        mine = [edge for edge in self.edges if edge.writer in nodes or edge.reader in nodes]
        core = self.core_of(name, nodes, mine)
        self.workers[name] = Worker(name, host, core, nodes)
        self.gateway.replica_up(host, self.address_of(name), self.now)
        self.after_gateway()

    def core_of(self, name: str, nodes: dict[str, Node], edges: list[Edge]) -> WorkerCore:
        """The state machine of a replica; it reads the time of the simulation."""
        return WorkerCore(name, nodes, edges, clock=lambda: self.now, observer=SilentObserver())

    def address_of(self, name: str) -> Address:
        """How to reach a replica: all are on one machine."""
        return Address(name, "")

    def add_client(self, name: str, script: int, seed: int, outputs: tuple[str, ...]) -> Client:
        """A client that has not asked yet."""
        client = Client(name, conversation(script), seed, outputs)
        client.script = script
        client.expected = self.truth.by_seed(client)
        client.once = bool(self.topology.once.intersection(self.shape.stages(outputs)))
        client.may_repeat = not client.once and len(client.supply) * KEPT_BYTES <= self.topology.input_bytes
        self.clients[name] = client
        return client

    # ---- the run

    def run(self) -> None:
        """Until every request is over and nothing moves. Raises Violation."""
        for host in dict.fromkeys(self.topology.host_of.values()):
            if self.setting.replay:
                self.gateway.expect(host, (0,), self.now)
            for _ in range(1 if self.setting.calm else self.rng.choice((1, 1, 2))):
                self.boot(host)
        if not self.setting.calm:
            self._draw_clients()
        self.settle()
        self._check_rest()

    def settle(self) -> None:
        """Until nothing moves."""
        for _ in range(MAX_EVENTS):
            if not self._event():
                return
        self.fail(f"no end in {MAX_EVENTS} events")

    def let_time_pass(self, seconds: float) -> None:
        """The clock goes on, and whatever that brings."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            self._tick()
            self.settle()

    def _draw_clients(self) -> None:
        for number in range(self.rng.choice((1, 1, 2, 3))):
            outputs = tuple(self.shape.outputs)
            if len(outputs) > 1 and self.rng.random() < 0.3:
                outputs = tuple(sorted(self.rng.sample(outputs, self.rng.randint(1, len(outputs) - 1))))
            script, seed = self.rng.randrange(SCRIPTS), self.rng.randrange(SEEDS)
            client = self.add_client(f"r{number}", script, seed, outputs)
            client.slow = self.rng.random() < 0.3
            client.deadline_s = 1e9 if self.rng.random() < 0.9 else self.rng.random()

    def _event(self) -> bool:
        """One thing that can happen, drawn from all; False when nothing can."""
        rng = self.rng
        if self.faults_left and rng.random() < self.fault_rate:
            self.faults_left -= 1
            self.fault_rate = rng.choice((0.003, 0.01, 0.03, 0.3))
            inject(self, rng.choice(self.setting.faults))
            return True
        self.now += self.pace
        if self.now >= self.tick_at:
            self._tick()
        doers = [client for client in self.clients.values() if client.can_act]
        pipes, workers = len(self.network.active), len(self.awake)
        rare = len(self.down) + len(self.zombies)
        pick = rng.random() * (pipes + workers + len(doers) + 0.2 * rare)
        if pick < pipes:
            self._deliver(self.network.active[int(pick)])
        elif pick < pipes + workers:
            self._step(list(self.awake.values())[int(pick - pipes)])
        elif pick < pipes + workers + len(doers):
            client = doers[int(pick - pipes - workers)]
            if not client.slow or rng.random() < 0.05 or not (pipes or workers):
                self._act(client)
        elif self.zombies:
            bury(self, self.zombies.pop())
        elif self.down:
            self.boot(self.down.pop())
        else:
            return self._wake_up()
        return True

    def _wake_up(self) -> bool:
        """Nothing moves: only time can. It may bring a deadline, or end the probation of a suspect."""
        if any(one.probation for one in self.gateway._requests.values()):
            self.now += 0.5
            self._tick()
            return True
        dues = [c.deadline_s + c.asked_at for c in self.clients.values() if c.asked and c.ended is None]
        if any(due < 1e8 for due in dues):
            self.now = min(dues)
            self._tick()
            return True
        return False

    def _tick(self) -> None:
        self.gateway.tick(self.now)
        self.after_gateway()
        wait = self.gateway.next_tick(self.now)
        self.tick_at = self.now + (0.5 if wait is None else min(wait, 0.5))

    def _act(self, client: Client) -> None:
        try:
            client.act(self.gateway, self.shape, self.now, self.rng)
        except RequestError as error:
            client.refused(error.code, self.oracle.dead)
        self.after_gateway()

    # ---- frames

    def send(self, source: str, name: LinkId, frames: Iterable[Frame]) -> None:
        """What a core wants sent."""
        link = self.network.link_from(source, name)
        for frame in frames:
            if link is None:
                self.fail(f"{source} answers {name.peer} over a link that is not there: {frame}")
            self.oracle.sent(frame)
            if isinstance(frame, Open):
                self._check_open(frame, name.peer)
            self.network.send(link, name.peer, frame)

    def _check_open(self, frame: Open, replica: str) -> None:
        self.oracle.opens(frame)
        client = self.clients[frame.request]
        if frame.attempt - 1 > client.losses(self.oracle.cuts, self.oracle.dead):
            self.fail(f"{client.name} is opened for the {frame.attempt}th time, and has not lost as much")
        client.route.add(replica)
        client.attempts = frame.attempt
        if frame.attempt > 1 and client.once:
            self.fail(f"{client.name} is opened again, and must run once")

    def _deliver(self, pipe: Pipe) -> None:
        heard = self.network.next(pipe)
        if heard is None:
            return
        pipe, frame = heard
        if isinstance(frame, LinkLost):
            self._deliver_loss(pipe)
        elif pipe.to == GATEWAY:
            one = self.gateway._requests.get(getattr(frame, "request", ""))
            current = one.attempt if one is not None and one.state == "open" else 0
            self.oracle.arrives(frame, current == getattr(frame, "attempt", 0), at_gateway=True)
            self.gateway.receive(pipe.name, frame, self.now)
            self._stale(frame, current, self.gateway, lambda old: self.gateway.receive(pipe.name, old, self.now))
            self.after_gateway()
        else:
            self._deliver_to_worker(pipe, frame, self.workers[pipe.to])

    def _deliver_to_worker(self, pipe: Pipe, frame: Frame, worker: Worker) -> None:
        opened = worker.core._requests.get(getattr(frame, "request", ""))
        current = opened.attempt if opened is not None else 0
        self.oracle.arrives(frame, current == getattr(frame, "attempt", 0), at_gateway=False)
        worker.core.receive(pipe.name, frame)
        self._stale(frame, current, worker.core, lambda old: worker.core.receive(pipe.name, old))
        if isinstance(frame, Data) and opened is not None and current == frame.attempt:
            stream = opened.ins[frame.edge]
            if len(stream.waiting) > stream.edge.window:
                self.fail(
                    f"{len(stream.waiting)} packets wait on {stream.edge.name}, its window is {stream.edge.window}"
                )
        if isinstance(frame, Open) and len(worker.core.open_requests) > self.slots:
            self.fail(f"{worker.name} has {worker.core.open_requests} open, its slots are {self.slots}")
        self._after_worker(worker)

    def _deliver_loss(self, pipe: Pipe) -> None:
        """An end learns that its link is gone."""
        if pipe.to == GATEWAY:
            self.gateway.lost(pipe.name, "cut", self.now)
            self.after_gateway()
            return
        worker = self.workers[pipe.to]
        worker.core.lost(pipe.name, "cut")
        self._after_worker(worker)
        if pipe.name == CONTROL:
            if worker.core.open_requests:
                self.fail(f"{worker.name} lost the Gateway and keeps {worker.core.open_requests}")
            kill(self, worker)

    def _stale(
        self, frame: Frame, current: int, core: GatewayCore | WorkerCore, receive: Callable[[Frame], None]
    ) -> None:
        """Now and then the same frame comes once more, of another attempt: it must be dropped and counted."""
        if isinstance(frame, Data | End | Credit | Start | Stop) and self.rng.random() < 0.01:
            before = core.dropped.total()
            other = frame.attempt + self.rng.choice((-1, 1))
            if other == current:
                return
            receive(replace(frame, attempt=other))
            if core.dropped.total() != before + 1:
                self.fail(f"a {type(frame).__name__} of another attempt was not dropped")

    def _step(self, worker: Worker) -> None:
        if self.setting.poison and worker.host == self.poisonous and "r0" in worker.core.open_requests:
            kill(self, worker)
            return
        worker.core.step()
        self._after_worker(worker)

    def _after_worker(self, worker: Worker) -> None:
        for link, reason in worker.core.broken_links():
            self.fail(f"{worker.name} says that {link.peer} broke the protocol: {reason}")
        for link in worker.core.old_links():
            self.network.drop(worker.name, link)
        for link, frames in worker.core.outgoing():
            self.send(worker.name, link, frames)
        if worker.core.awake:
            self.awake[worker.name] = worker
        else:
            self.awake.pop(worker.name, None)

    def after_gateway(self) -> None:
        """Send what the Gateway wants sent, and tell its callers."""
        for link, reason in self.gateway.broken_links():
            self.fail(f"the Gateway says that {link.peer} broke the protocol: {reason}")
        for link in self.gateway.old_links():
            self.network.drop(GATEWAY, link)
        for link, frames in self.gateway.outgoing():
            self.send(GATEWAY, link, frames)
        for request, event in self.gateway.events():
            self._on_event(self.clients[request], event)

    def _on_event(self, client: Client, event: OutputPacket | Ended | Released) -> None:
        if isinstance(event, Ended) and event.error is None and self.wobbles:
            client.expected = self.truth.by_choices(client, self.oracle.told(client.name))
        problem = client.hears(event)
        if problem is not None:
            self.fail(f"{client.name}: {problem}")
        if isinstance(event, Ended):
            self._judge(client, event)
        elif isinstance(event, Released):
            for worker in self.workers.values():
                if client.name in worker.core.open_requests and not worker.doomed:
                    self.fail(f"{client.name} was released, and {worker.name} still has it")

    def _judge(self, client: Client, ended: Ended) -> None:
        """May it end so?"""
        if ended.error is None:
            self._check_choices(client)
        elif not client.excused(ended.error, self.oracle.cuts, self.oracle.dead, self.topology.retries):
            self.fail(f"{client.name} ended with {ended.error} for no reason")

    def _check_choices(self, client: Client) -> None:
        """A request that completed has brought along every choice that was made for it."""
        if client.expected is None:
            return
        for output in set(client.outputs) - client.dropped:
            carried = self.oracle.carried(client.name, output)
            for node in {self.shape.complete.get(output)} - {None}:
                if carried.get(node, 0) != client.expected.choices[output][node]:
                    self.fail(
                        f"{client.name}: {output} brought {carried} of the choices {client.expected.choices[output]}"
                    )

    # ---- the end

    def _check_rest(self) -> None:
        for client in self.clients.values():
            if client.ended is None or not client.released:
                self.fail(f"{client.name} is stuck: {client.progress()}")
        if self.gateway.running or self.gateway.waiting or any(self.gateway.load().values()):
            self.fail(f"the Gateway still holds {self.gateway.running} requests: {self.gateway.load()}")
        for worker in self.workers.values():
            leftover = worker.core.open_requests or worker.core._leftover
            held = [
                name for name, node in worker.nodes.items() if vars(node).get("requests") or vars(node).get("_streams")
            ]
            if leftover or held or any(node.requests for node in worker.core._nodes.values()):
                self.fail(f"{worker.name} still holds something: {leftover or held}")

    def fail(self, message: str) -> None:
        raise Violation(message)
