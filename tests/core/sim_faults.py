"""What can go wrong in a simulated deployment, one kind a method; each tells the oracle whom it excuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omni_graph.errors import Code, RequestError
from omni_graph.frames import Side

if TYPE_CHECKING:
    from tests.core.sim_client import Client
    from tests.core.simulation import Worker, World


def inject(world: World, kind: str) -> None:
    """A fault of this kind, where there is something for it to hit."""
    workers = [worker for worker in world.workers.values() if not worker.doomed]
    links = [link for link in world.network.links if not link.dead and link.side is Side.WRITES]
    clients = [client for client in world.clients.values() if client.asked and not client.released]
    if kind == "kill" and workers:
        kill(world, world.rng.choice(workers))
    elif kind == "control" and workers:
        cut_control(world, world.rng.choice(workers))
    elif kind in ("bug", "request_error") and workers:
        trip(world, world.rng.choice(workers), kind)
    elif kind == "cut" and links:
        link = world.rng.choice(links)
        world.oracle.cuts.append({link.opener, link.other})
        world.network.cut(link)
    elif kind in ("cancel", "drop") and clients:
        (cancel if kind == "cancel" else drop)(world, world.rng.choice(clients))


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
