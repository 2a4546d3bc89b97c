"""What can go wrong in a simulated deployment, one kind a method; each tells the oracle whom it excuses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from omni_graph.errors import Code, RequestError
from omni_graph.frames import Side

if TYPE_CHECKING:
    from tests.core.sim_client import Client
    from tests.core.sim_setting import Worker
    from tests.core.simulation import World


def inject(world: World, kind: str) -> None:
    """A fault of this kind, where there is something for it to hit."""
    workers = [worker for worker in world.workers.values() if not worker.doomed]
    links = [link for link in world.network.links if not link.dead and link.side is Side.WRITES]
    clients = [client for client in world.clients.values() if client.asked and not client.released]
    if kind in ON_WORKERS and workers:
        ON_WORKERS[kind](world, world.rng.choice(workers))
    elif kind in ("cut", "partition") and links:
        link = world.rng.choice(links)
        between = {link.opener, link.other}
        world.oracle.cuts.append(between)
        for one in links if kind == "partition" else [link]:
            if {one.opener, one.other} == between:
                world.network.cut(one)
    elif kind in ("cancel", "drop") and clients:
        (cancel if kind == "cancel" else drop)(world, world.rng.choice(between_attempts(world, clients) or clients))
    elif kind == "give_up" and world.rng.random() < 0.3:
        host = world.rng.choice(tuple(world.topology.host_of.values()))
        world.gateway.expect(host, (), world.now)
        world.after_gateway()


def between_attempts(world: World, clients: list[Client]) -> list[Client]:
    """Those that have lost an attempt and do not have the next: that is when a cancel is most awkward."""
    held = {
        name for name, one in world.gateway._requests.items() if one.attempt and one.state in ("resetting", "waiting")
    }
    return [client for client in clients if client.name in held]


def kill(world: World, worker: Worker) -> None:
    """The replica is gone at once; its peers hear so link by link, the Gateway by its launcher if it had none yet."""
    world.oracle.dead.add(worker.name)
    del world.workers[worker.name]
    world.awake.pop(worker.name, None)
    world.network.remove(worker.name)
    if world.network.control(worker.name) is None:
        world.gateway.replica_down(worker.name, Code.REPLICA_DIED, "killed", world.now)
        world.after_gateway()
    world.down.append(worker.host)


def cut_control(world: World, worker: Worker) -> None:
    """It loses the Gateway: it will drop everything and come back as another."""
    link = world.network.control(worker.name)
    if link is not None and not link.dead:
        worker.doomed = True
        world.oracle.dead.add(worker.name)
        world.network.cut(link)


def stuck(world: World, worker: Worker) -> None:
    """It is taken for dead, and talks on for a while."""
    leave(world, worker, Code.STUCK)


def drain(world: World, worker: Worker) -> None:
    """It is taken away with what it still serves: that goes on elsewhere."""
    world.gateway.drain(worker.name)
    leave(world, worker, Code.DRAINED)


def leave(world: World, worker: Worker, code: Code) -> None:
    worker.doomed = True
    world.oracle.dead.add(worker.name)
    world.zombies.append(worker)
    world.gateway.replica_down(worker.name, code, "taken away", world.now)
    world.after_gateway()


def bury(world: World, worker: Worker) -> None:
    """A replica that was taken for dead is."""
    if worker.name in world.workers:
        kill(world, worker)


def trip(world: World, worker: Worker, kind: str) -> None:
    """One of its nodes raises in its next slice: a bug fails all its requests, a RequestError one."""
    name, node = world.rng.choice(list(worker.nodes.items()))

    def step(inbox: Any, outbox: Any) -> bool:
        del node.step
        hosted = worker.core._nodes[name]
        here = [request for request, state in hosted.requests.items() if not state.done]
        if not here:
            return bool(node.step(inbox, outbox))
        hit = here if kind == "bug" else [world.rng.choice(here)]
        for request in hit:
            world.clients[request].tripped = True
        raise ValueError("planted") if kind == "bug" else RequestError(hit[0], Code.NODE_FAILED, "planted")

    node.step = step


def cancel(world: World, client: Client) -> None:
    """The caller gives up, perhaps after the end."""
    client.cancelled = True
    world.gateway.cancel(client.name, world.now)
    world.after_gateway()


def drop(world: World, client: Client) -> None:
    """The caller does not want an output any more, perhaps before its request has a Route."""
    output = world.rng.choice(client.outputs)
    client.drop(output)
    world.gateway.drop(client.name, output, world.now)
    world.after_gateway()


ON_WORKERS = {
    "kill": kill,
    "control": cut_control,
    "stuck": stuck,
    "drain": drain,
    "bug": partial(trip, kind="bug"),
    "request_error": partial(trip, kind="request_error"),
}
