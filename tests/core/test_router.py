"""The Router never takes a slot that is not there, takes all or nothing, and gives every slot back."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omni_graph.frames import Address
from omni_graph.router import Router

HOSTS = ("ears", "thinker", "talker")
hosts = st.lists(st.sampled_from(HOSTS), min_size=1, unique=True)


class Routing(RuleBasedStateMachine):
    """Replicas come, drain and go; requests are routed, as suspects too, and released. The model is a few dicts."""

    @initialize()
    def start(self) -> None:
        self.router = Router(HOSTS)
        self.slots: dict[str, int] = {}
        self.draining: set[str] = set()
        self.routed: dict[str, set[str]] = {}
        self.suspects: dict[str, str] = {}
        self.coming: set[str] = set()
        self.names = 0

    def used(self, name: str) -> int:
        return sum(name in route for route in self.routed.values())

    def open_to(self, host: str) -> list[str]:
        here = [name for name in self.slots if name.startswith(host) and name not in self.draining]
        return [name for name in here if self.used(name) < self.slots[name] and name not in self.suspects]

    @rule(host=st.sampled_from(HOSTS), slots=st.integers(1, 3))
    def add(self, host: str, slots: int) -> None:
        self.names += 1
        name = f"{host}/{self.names}"
        self.slots[name] = slots
        self.router.add(host, Address(name, ""), slots)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*self.slots, "nobody/1"]))
        assert set(self.router.remove(name)) == {request for request, route in self.routed.items() if name in route}
        self.slots.pop(name, None)
        self.suspects.pop(name, None)
        for route in self.routed.values():
            route.discard(name)

    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*self.slots, "nobody/1"]))
        self.router.drain(name)
        self.draining.add(name)

    @rule(data=st.data(), more=st.integers(1, 2))
    def resize(self, data: st.DataObject, more: int) -> None:
        name = data.draw(st.sampled_from([*self.slots, "nobody/1"]))
        if name in self.slots:
            self.slots[name] += more
        self.router.resize(name, self.slots.get(name, more))

    @rule(wanted=hosts, probation=st.sets(st.sampled_from(HOSTS)))
    def route(self, wanted: list[str], probation: set[str]) -> None:
        self.names += 1
        request = f"r{self.names}"
        possible = all(self.open_to(host) for host in wanted)
        assert self.router.has_room(wanted) == possible
        route = self.router.route(request, wanted, probation)
        assert (route is not None) == possible
        if route is None:
            return
        for host, address in route.items():
            least = min(self.used(name) for name in self.open_to(host))
            assert address.name in self.open_to(host) and self.used(address.name) == least
        self.suspects |= {address.name: request for host, address in route.items() if host in probation}
        self.routed[request] = {address.name for address in route.values()}

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([*self.routed, "unknown"]))
        self.router.release(request)
        self.routed.pop(request, None)
        self.acquit(request)

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([*self.routed, "unknown"]))
        self.router.share(request)
        self.acquit(request)

    def acquit(self, request: str) -> None:
        self.suspects = {name: suspect for name, suspect in self.suspects.items() if suspect != request}

    @rule(host=st.sampled_from(HOSTS), coming=st.booleans())
    def expect(self, host: str, coming: bool) -> None:
        self.router.expect(host, (0,) if coming else ())
        (self.coming.add if coming else self.coming.discard)(host)

    @rule(wanted=hosts)
    def name_the_fullest(self, wanted: list[str]) -> None:
        def free(host: str) -> int:
            live = [name for name in self.slots if name.startswith(host) and name not in self.draining]
            return sum(self.slots[name] - self.used(name) for name in live if name not in self.suspects)

        assert free(self.router.fullest(wanted)) == min(free(host) for host in wanted)
        dead = self.router.without_replica(wanted)
        serving = self.slots.keys() - self.draining
        empty = [host for host in wanted if not any(name.startswith(host) for name in serving)]
        hopeless = [host for host in empty if host not in self.coming]
        assert dead == (hopeless[0] if hopeless else None)

    @invariant()
    def as_the_model(self) -> None:
        if hasattr(self, "router"):
            load = self.router.load()
            assert load == {name: self.used(name) for name in self.slots}
            assert all(load[name] <= slots for name, slots in self.slots.items())
            assert {name: self.router.on_probation(name) for name in self.slots if self.router.on_probation(name)} == {
                name: request for name, request in self.suspects.items() if name in self.slots
            }


Routing.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRouting = Routing.TestCase


def router(*names: str, slots: int = 2, sessions: int = 10) -> Router:
    made = Router(HOSTS, sessions)
    for name in names:
        made.add(name.partition("/")[0], Address(name, ""), slots)
    return made


def place(made: Router, request: str, session: str = "") -> str | None:
    """The replica of ``ears`` that it got."""
    route = made.route(request, ["ears"], session=session)
    return None if route is None else route["ears"].name


def test_among_equals_the_one_not_chosen_for_longest_comes_next() -> None:
    made = router("ears/0", "ears/1", "ears/2")
    names = []
    for number in range(6):
        names.append(place(made, str(number)))
        made.release(str(number))
    assert names == ["ears/0", "ears/1", "ears/2"] * 2


# ---- sessions


def test_a_session_comes_back_to_its_replica_though_another_is_less_loaded() -> None:
    made = router("ears/0", "ears/1")
    first = place(made, "a", "mine")
    assert place(made, "b", "mine") == first
    assert place(made, "c") != first


def test_a_session_does_not_wait_for_its_replica() -> None:
    made = router("ears/0", "ears/1", slots=1)
    first = place(made, "a", "mine")
    second = place(made, "b", "mine")
    assert {first, second} == {"ears/0", "ears/1"}
    made.release("a")
    made.release("b")
    assert place(made, "c", "mine") == second
    made.release("c")
    made.drain(str(second))
    assert place(made, "d", "mine") == first
    made.release("d")
    made.remove(str(first))
    assert place(made, "e", "mine") is None


def test_the_least_used_session_is_forgotten() -> None:
    made = router("ears/0", "ears/1", slots=99, sessions=2)
    kept = place(made, "a", "first")
    place(made, "b", "second")
    assert place(made, "c", "first") == kept
    place(made, "d", "third")
    assert list(made._sessions) == ["first", "third"]


# ---- revisions


def test_what_began_on_a_revision_goes_on_with_no_other() -> None:
    made = Router(HOSTS)
    made.add("ears", Address("ears/0", ""), 1, revision=0)
    made.add("ears", Address("ears/1", ""), 1, revision=1)
    route = made.route("a", ["ears"], revisions={"ears": 1})
    assert route is not None and route["ears"].name == "ears/1" and made.revision("ears/1") == 1
    assert made.route("b", ["ears"], revisions={"ears": 1}) is None
    assert made.without_replica(["ears"], {"ears": 1}) is None
    assert made.without_replica(["ears"], {"ears": 2}) == "ears"
    made.expect("ears", {2})
    assert made.without_replica(["ears"], {"ears": 2}) is None


def test_draining_replicas_serve_only_what_no_other_of_their_revision_can() -> None:
    made = router("ears/0", "ears/1")
    made.drain("ears/0")
    assert [place(made, name) for name in ("a", "b", "c")] == ["ears/1", "ears/1", None]
    assert made.route("d", ["ears"], revisions={"ears": 0}) is None
    made.drain("ears/1")
    assert made.without_replica(["ears"]) == "ears"
    route = made.route("e", ["ears"], revisions={"ears": 0})
    assert route is not None and route["ears"].name == "ears/0"
    made.expect("ears", {0})
    assert made.route("f", ["ears"], revisions={"ears": 0}) is None
