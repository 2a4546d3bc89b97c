"""Callers and replicas do what they may, in any order: one terminal event, then released, and every slot comes back."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omni_graph.errors import Code, RequestError
from omni_graph.frames import Address, Closed, End, LinkId, Report, Side
from omni_graph.gateway_request import Ended, Released
from tests.core.one_gateway import OUT, Client


class Everything(RuleBasedStateMachine):
    """Callers and replicas do what they may, in any order: one terminal event, then released, and every slot comes back."""

    @initialize(slots=st.integers(1, 2), most=st.integers(1, 3), queue=st.integers(0, 2), retries=st.integers(0, 2))
    def start(self, slots: int, most: int, queue: int, retries: int) -> None:
        self.client = Client(slots=slots, max_requests=most, queue=queue, retries=retries)
        self.slots, self.most, self.queue = slots, most, queue
        self.now, self.number, self.lives = 0.0, 0, 0
        self.names = ["nobody"]

    def pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.names))

    @rule(deadline=st.sampled_from([1.0, 1000.0]))
    def submit(self, deadline: float) -> None:
        self.number += 1
        name = f"r{self.number}"
        try:
            self.client.submit(name, now=self.now, deadline_s=deadline)
            self.names.append(name)
        except RequestError as error:
            assert error.code in (Code.OVERLOADED, Code.UNAVAILABLE)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.client.gateway.cancel(self.pick(data), self.now)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.client.gateway.drop(self.pick(data), "speech", self.now)

    @rule(data=st.data(), host=st.sampled_from(["think", "talk"]))
    def closed(self, data: st.DataObject, host: str) -> None:
        for name in list(self.client.gateway.load()):
            if name.startswith(host):
                request = self.pick(data)
                word = Closed(request, self.client.attempt(request) or 1, "{}")
                self.client.gateway.receive(LinkId(name, Side.CONTROL), word, self.now)

    @rule(data=st.data(), there=st.sampled_from(["gateway", "talk/0.0", "think/0.0"]))
    def loses_a_link(self, data: st.DataObject, there: str) -> None:
        request = self.pick(data)
        for address in self.client.gateway.addresses(request)[:1]:
            report = Report(request, self.client.attempt(request), Code.LINK_LOST, "", "cut", there)
            self.client.gateway.receive(LinkId(address.name, Side.CONTROL), report, self.now)

    @rule(host=st.sampled_from(["think", "talk"]), coming=st.booleans())
    def expect(self, host: str, coming: bool) -> None:
        self.client.gateway.expect(host, (0,) if coming else (), self.now)

    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        request = self.pick(data)
        for address in self.client.gateway.addresses(request):
            report = Report(request, self.client.attempt(request), Code.NODE_FAILED, "think", "no")
            self.client.gateway.receive(LinkId(address.name, Side.CONTROL), report, self.now)

    @rule(data=st.data())
    def completes(self, data: st.DataObject) -> None:
        request = self.pick(data)
        for address in self.client.gateway.addresses(request):
            if address.name.startswith("talk"):
                end = End(request, self.client.attempt(request), OUT, 0)
                self.client.gateway.receive(LinkId(address.name, Side.READS), end, self.now)
                self.client.gateway.broken_links()

    @rule(host=st.sampled_from(["think", "talk"]))
    def dies(self, host: str) -> None:
        for name in list(self.client.gateway.load()):
            if name.startswith(host):
                self.client.gateway.replica_down(name, Code.REPLICA_DIED, "killed", self.now)

    @rule(host=st.sampled_from(["think", "talk"]))
    def comes(self, host: str) -> None:
        self.lives += 1
        if not any(name.startswith(host) for name in self.client.gateway.load()):
            self.client.gateway.replica_up(host, Address(f"{host}/0.{self.lives}", ""), self.now)

    @rule(seconds=st.sampled_from([0.1, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.client.gateway.tick(self.now)

    @invariant()
    def one_terminal_event(self) -> None:
        if not hasattr(self, "client"):
            return
        client = self.client
        client.collect()
        assert client.gateway.running <= self.most and client.gateway.waiting <= self.queue + 1 + self.most
        assert all(used <= self.slots for name, used in client.gateway.load().items() if name.startswith("think"))
        for request in self.names:
            kinds = [type(event) for name, event in client.events if name == request]
            assert kinds in ([], [Ended], [Ended, Released]), kinds

    def teardown(self) -> None:
        """Once the deployment closes and its replicas are gone, nothing is left."""
        if hasattr(self, "client"):
            self.client.gateway.cancel_all(self.now)
            self.dies("think")
            self.dies("talk")
            self.one_terminal_event()
            ended = [name for name, event in self.client.events if isinstance(event, Released)]
            assert sorted(ended) == sorted(self.names[1:])
            assert (self.client.gateway.running, self.client.gateway.waiting) == (0, 0)


Everything.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEverything = Everything.TestCase
