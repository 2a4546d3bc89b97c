"""One replica reachable by ipc and by tcp: who takes which, and that each is guarded as if the other were not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from omni_graph.errors import LinkError
from omni_graph.frames import Address, Credit, LinkId, Side, Start
from omni_graph.links.endpoints import nearest
from omni_graph.links.folders import host_token, is_here
from omni_graph.links.interfaces import address_toward
from omni_graph.links.keys import Curve, KeyPair
from omni_graph.links.sockets import ZmqLinks
from omni_graph.testing import LINK_TYPES
from omni_graph.testing.link_bench import Bench, Peer

START, CREDIT = Start("request", 1, 0), Credit("request", 1, 0, 0, 8)


@pytest.fixture
def bench(short_dir: Path) -> Iterator[Bench]:
    """Peers that bind both; one called ``plain`` has no keys."""
    binds = ["tcp://127.0.0.1", f"ipc://{short_dir}"]

    def make(name: str, _: str) -> ZmqLinks:
        return ZmqLinks(name, binds, LINK_TYPES, curve=None if name == "plain" else Curve(KeyPair()))

    with Bench("dual", make, None, 20.0) as made:
        yield made


def talk(bench: Bench, writer: Peer, reader: Peer) -> str:
    """There and back; the endpoint over which it went."""
    writer.send(reader, Side.WRITES, [START])
    bench.expect(reader, writer, Side.READS, [START])
    reader.send(writer, Side.READS, [CREDIT])
    bench.expect(writer, reader, Side.WRITES, [CREDIT])
    return str(writer.links._outgoing[LinkId(reader.name, Side.WRITES)].endpoint)  # type: ignore[attr-defined]


def test_an_address_lists_both_and_its_host(bench: Bench, short_dir: Path) -> None:
    address = bench.peer().links.address
    ipc, tcp, host = address.endpoint.split(" ")
    assert ipc.startswith(f"ipc://{short_dir}/")
    assert tcp.startswith("tcp://127.0.0.1:")
    assert host == f"host:{host_token(short_dir)}"
    assert len(address.public_key) == 40


def test_who_sees_the_folder_takes_ipc(bench: Bench) -> None:
    """Between processes of one host no packet pays for encryption."""
    writer, reader = bench.pair()
    assert talk(bench, writer, reader) == reader.links.address.endpoint.split(" ")[0]


def test_another_host_takes_tcp(bench: Bench) -> None:
    """The same path on another host is another folder: the token tells."""
    writer, reader = bench.pair()
    ipc, tcp, _ = reader.links.address.endpoint.split(" ")
    writer.links.introduce(replace(reader.links.address, endpoint=f"{ipc} {tcp} host:0123456789abcdef"))
    assert talk(bench, writer, reader) == tcp


def test_the_folder_must_be_the_same_and_ours(short_dir: Path) -> None:
    """A folder that is gone, made anew, or open to others is not the one that the writer meant."""
    folder, other = short_dir / "sockets", short_dir / "other"
    folder.mkdir(mode=0o700)
    other.mkdir(mode=0o700)
    token = host_token(folder)
    both = f"ipc://{folder}/a.sock tcp://10.1.2.3:4 host:{token}"
    assert nearest(both) == f"ipc://{folder}/a.sock"
    assert nearest(both.replace("/sockets/", "/other/")) == "tcp://10.1.2.3:4"
    assert nearest(both.replace("/sockets/", "/gone/")) == "tcp://10.1.2.3:4"
    assert nearest(both.replace("/sockets/", "/sockets/a file of ours/")) == "tcp://10.1.2.3:4"
    folder.chmod(0o755)
    assert not is_here(folder, token)
    assert nearest("tcp://10.1.2.3:4") == "tcp://10.1.2.3:4"


def test_keys_guard_tcp_and_leave_ipc_to_its_folder(bench: Bench) -> None:
    """Both are bound to one socket: whoever has no key is heard over ipc and refused over tcp."""
    reader = bench.peer()
    ipc, tcp, _ = reader.links.address.endpoint.split(" ")
    plain = bench.peer("plain")
    plain.links.introduce(Address(reader.name, tcp))
    plain.send(reader, Side.WRITES, [START])
    bench.until(lambda: bool(plain.losses), "the refusal", [reader, plain])
    bench.until(lambda: reader.links.counters().refused_callers == 1, "one caller to be counted")  # type: ignore[attr-defined]
    plain.links.introduce(Address(reader.name, ipc))
    plain.send(reader, Side.WRITES, [START])
    bench.expect(reader, plain, Side.READS, [START])


def test_both_are_gone_after_close(bench: Bench, short_dir: Path) -> None:
    links = bench.peer().links
    port = int(links.address.endpoint.split(" ")[1].rsplit(":", 1)[1])
    assert len(list(short_dir.iterdir())) == 1
    assert f":{port:04X} " in listening()
    links.close(0)
    assert not list(short_dir.iterdir())
    assert f":{port:04X} " not in listening()


def listening() -> str:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return "".join(f"{line.split()[1]} " for line in lines if line.split()[3] == "0A")


def test_one_half_that_cannot_be_bound_fails_both(bench: Bench, short_dir: Path) -> None:
    """A replica that some peers cannot reach must not start; nothing of it is left."""
    taken = bench.peer().links.address.endpoint.split(" ")[1]
    with pytest.raises(LinkError, match=r"second cannot bind ipc://.* tcp://127"):
        ZmqLinks("second", [f"ipc://{short_dir}", taken], LINK_TYPES, curve=Curve(KeyPair()))
    assert len(list(short_dir.iterdir())) == 1


def test_the_address_toward_a_peer() -> None:
    """On a machine with several interfaces, the one that the peer can call back."""
    assert address_toward("127.0.0.1") == "127.0.0.1"
    with pytest.raises(LinkError, match="'localhost' is no IPv4 address"):
        address_toward("localhost")
