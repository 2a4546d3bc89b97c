"""``check_link``: every rule of the Links contract, over any implementation. No pytest; a broken rule is an AssertionError.

Nothing here sleeps or measures time: a rule polls until what it waits for is there, or fails at the deadline it was given.
That nothing *more* came is shown by a marker sent afterwards, which must be the next thing heard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from omni_graph.frames import GATEWAY, Address, Credit, Data, Frame, Goaway, Leaving, LinkId, Links, Side, Start, Stop
from omni_graph.payload import AudioChunk, TextDelta
from omni_graph.testing.link_bench import Bench, Peer, require
from omni_graph.testing.link_samples import ARRAYS, CONTROL_FRAMES, EDGE_FRAMES, REPORT_FRAMES

LINK_TYPES: dict[int, type] = {0: TextDelta, 1: AudioChunk, 2: TextDelta, 3: AudioChunk}
"""Edge -> payload class that the links under test must be made with."""


@dataclass(frozen=True, slots=True)
class LinkReport:
    """The rules that hold, and those that could not be tried."""

    passed: tuple[str, ...]
    untested: tuple[str, ...]


def check_link(
    make: Callable[[str, str], Links],
    *,
    cut: Callable[[str, str], None] | None = None,
    deadline_s: float = 10.0,
) -> LinkReport:
    """Hold an implementation of Links to its contract; AssertionError names the first rule that is broken.

    ``make(name, wiring)``: a new Links with ``LINK_TYPES`` that can reach all others it made. ``cut(a, b)``: break every
    connection between two names at once and unannounced, as a pulled cable does; without it, rules about losses from
    outside are reported untested. ``deadline_s``: how long any one thing may take to arrive.
    """
    passed, untested = [], ["untested_a_frozen_peer_is_lost_by_heartbeat"]
    for rule in RULES:
        if rule in NEED_CUT and cut is None:
            untested.append(rule.__name__.replace("required", "untested"))
            continue
        with Bench(rule.__name__, make, cut, deadline_s) as bench:
            rule(bench)
        passed.append(rule.__name__)
    return LinkReport(tuple(passed), tuple(untested))


# ---- order and content


def required_order_is_kept_in_both_directions(bench: Bench) -> None:
    """FIFO per link and direction: none lost, none doubled, whatever the sizes of the sends."""
    writer, reader = bench.pair()
    there, back = [_start(i) for i in range(300)], [_credit(i) for i in range(300)]
    writer.send(reader, Side.WRITES, there[:1])
    bench.until_heard(reader, writer, Side.READS, 1)
    for start in range(0, 300, 7):
        writer.send(reader, Side.WRITES, there[max(1, start) : start + 7])
        reader.send(writer, Side.READS, back[start : start + 7])
    bench.expect(reader, writer, Side.READS, there)
    bench.expect(writer, reader, Side.WRITES, back)


def required_every_frame_arrives_equal(bench: Bench) -> None:
    """What is heard equals what was sent, for every frame of edge and control links."""
    writer, reader = bench.pair()
    writer.send(reader, Side.WRITES, EDGE_FRAMES)
    bench.expect(reader, writer, Side.READS, EDGE_FRAMES)
    gateway, replica = bench.peer(GATEWAY), bench.peer()
    bench.introduce(gateway, replica)
    gateway.send(replica, Side.CONTROL, CONTROL_FRAMES)
    bench.expect(replica, gateway, Side.CONTROL, CONTROL_FRAMES)
    replica.send(gateway, Side.CONTROL, REPORT_FRAMES)
    bench.expect(gateway, replica, Side.CONTROL, REPORT_FRAMES)


def required_arrays_arrive_bit_for_bit(bench: Bench) -> None:
    """Every dtype, no element, no dimension, 1 MiB, NaN bits: all equal, and read-only at the reader."""
    writer, reader = bench.pair()
    sent = [Data("r", 1, 1, seq, 0.0, (), AudioChunk(array, 16_000)) for seq, array in enumerate(ARRAYS)]
    writer.send(reader, Side.WRITES, sent)
    bench.expect(reader, writer, Side.READS, sent)
    for data in reader.heard_frames(Data):
        require(
            not data.packet.samples.values.flags.writeable, f"{data.packet.samples} can be written to by its reader"
        )


def required_one_send_may_carry_many_frames(bench: Bench) -> None:
    """A thousand packets in one send arrive whole."""
    writer, reader = bench.pair()
    sent = [Data("r", 1, 0, seq, 0.0, (), TextDelta(f"{seq} " * 50, (seq,))) for seq in range(1000)]
    writer.send(reader, Side.WRITES, sent)
    bench.expect(reader, writer, Side.READS, sent)


def required_the_links_of_a_pair_are_independent(bench: Bench) -> None:
    """A writes to B and B writes to A: two links, and the end of one is not the end of the other."""
    a, b = bench.pair()
    a.send(b, Side.WRITES, [_start(1)])
    b.send(a, Side.WRITES, [_start(2)])
    bench.expect(b, a, Side.READS, [_start(1)])
    bench.expect(a, b, Side.READS, [_start(2)])
    a.send(b, Side.READS, [_credit(3)])
    b.send(a, Side.READS, [_credit(4)])
    bench.expect(b, a, Side.WRITES, [_credit(3)])
    bench.expect(a, b, Side.WRITES, [_credit(4)])
    a.drop(b, Side.WRITES)
    bench.expect_loss(b, a, Side.READS, [_start(1)])
    b.send(a, Side.WRITES, [_start(5)])
    bench.expect(a, b, Side.READS, [_start(2), _start(5)])
    a.send(b, Side.READS, [_credit(6)])
    bench.expect(b, a, Side.WRITES, [_credit(3), _credit(6)])


def required_send_never_blocks(bench: Bench) -> None:
    """10,000 frames leave while nobody polls; none is lost."""
    writer, reader = bench.pair()
    sent = [_start(i) for i in range(10_000)]

    def send_all() -> None:
        for start in range(0, len(sent), 100):
            writer.send(reader, Side.WRITES, sent[start : start + 100])

    bench.in_thread(send_all, "sending 10,000 frames with nobody polling")
    bench.expect(reader, writer, Side.READS, sent)


# ---- losses


def required_a_drop_is_told_to_the_peer_alone(bench: Bench) -> None:
    """Either end may drop; the other sees one LinkLost, the dropper none, and nothing of that link comes later."""
    for dropper_opened in (True, False):
        writer, reader = bench.pair()
        writer.send(reader, Side.WRITES, [_start(1)])
        bench.expect(reader, writer, Side.READS, [_start(1)])
        reader.send(writer, Side.READS, [_credit(1)])
        bench.expect(writer, reader, Side.WRITES, [_credit(1)])
        if dropper_opened:
            writer.drop(reader, Side.WRITES)
            bench.expect_loss(reader, writer, Side.READS, [_start(1)])
            bench.expect(writer, reader, Side.WRITES, [_credit(1)])
        else:
            reader.drop(writer, Side.READS)
            bench.expect_loss(writer, reader, Side.WRITES, [_credit(1)])
            bench.expect(reader, writer, Side.READS, [_start(1)])
        _expect_new_link(bench, writer, reader)


def required_dropping_nothing_is_harmless(bench: Bench) -> None:
    """Unknown links are ignored, by drop and by a second drop."""
    writer, reader = bench.pair()
    writer.drop(reader, Side.WRITES)
    reader.drop(writer, Side.READS)
    _expect_new_link(bench, writer, reader)


def required_a_loss_is_told_once_at_both_ends(bench: Bench) -> None:
    """A link cut from outside: one unannounced LinkLost each, then silence, until a new link is opened."""
    writer, reader = _connected(bench)
    bench.cut(writer, reader)
    bench.expect_loss(reader, writer, Side.READS, [_start(1)])
    bench.expect_loss(writer, reader, Side.WRITES, [_credit(1)])
    require(not writer.losses[0].announced and not reader.losses[0].announced, "a cut link was called announced")
    _expect_new_link(bench, writer, reader)


def required_a_lost_link_is_not_resumed(bench: Bench) -> None:
    """What is sent before the sender has heard of the loss never appears on a later link."""
    writer, reader = _connected(bench)
    bench.cut(writer, reader)
    bench.until(lambda: bool(reader.losses), "the reader to hear of the cut", [reader])
    writer.send(reader, Side.WRITES, [_start(2), _start(3)])
    bench.until(lambda: bool(writer.losses), "the writer to hear of the cut", [writer])
    bench.expect(reader, writer, Side.READS, [_start(1), reader.losses[0]])
    _expect_new_link(bench, writer, reader)


def required_losing_one_link_leaves_the_others(bench: Bench) -> None:
    """A cut between two peers is not seen on their links to a third."""
    writer, reader = _connected(bench)
    third = bench.peer()
    bench.introduce(writer, third)
    writer.send(third, Side.WRITES, [_start(7)])
    bench.expect(third, writer, Side.READS, [_start(7)])
    bench.cut(writer, reader)
    bench.expect_loss(writer, reader, Side.WRITES, [_credit(1)])
    writer.send(third, Side.WRITES, [_start(8)])
    bench.expect(third, writer, Side.READS, [_start(7), _start(8)])


def required_an_unknown_peer_is_a_loss(bench: Bench) -> None:
    """Nobody by that name, nobody at that address, somebody else there: LinkLost out of poll, never an exception."""
    writer, gone, other = bench.peer(), bench.peer(), bench.peer()
    stranger = LinkId("stranger/0.0", Side.WRITES)
    impostor = LinkId("impostor/0.0", Side.WRITES)
    bench.introduce(writer, gone)
    gone.links.close(0)
    writer.links.introduce(Address(impostor.peer, other.links.address.endpoint))
    for link in (stranger, LinkId(gone.name, Side.WRITES), impostor):
        writer.links.send(link, [_start(1)])
        bench.expect_loss_of(writer, link)
    require(not any(loss.announced for loss in writer.losses), f"nobody announced these: {writer.losses}")
    require(not other.heard, f"frames for somebody else were delivered: {other.heard}")


def required_a_reply_without_a_link_is_no_error(bench: Bench) -> None:
    """A reader that grants before its writer has come loses nothing: no link yet is no loss."""
    writer, reader = bench.pair()
    reader.send(writer, Side.READS, [_credit(1)])
    writer.send(reader, Side.WRITES, [_start(1)])
    bench.expect(reader, writer, Side.READS, [_start(1)])
    reader.send(writer, Side.READS, [_credit(2)])
    bench.expect(writer, reader, Side.WRITES, [_credit(2)])


def required_other_wiring_is_refused_naming_both(bench: Bench) -> None:
    """Two plans must not talk: the opener loses the link, and the reason has both values."""
    writer, reader = bench.peer(wiring="wiring-of-a"), bench.peer(wiring="wiring-of-b")
    bench.introduce(writer, reader)
    writer.send(reader, Side.WRITES, [_start(1)])
    loss = bench.expect_loss_of(writer, LinkId(reader.name, Side.WRITES))
    both = "wiring-of-a" in loss.reason and "wiring-of-b" in loss.reason
    require(both, f"the refusal does not name both wirings: {loss.reason!r}")
    require(not reader.heard, f"frames of another wiring were delivered: {reader.heard}")


# ---- waking and closing


def required_wake_returns_a_blocked_poll(bench: Bench) -> None:
    """From another thread, whether the poll has begun or not; twenty times."""
    sleeper, friend = bench.pair()
    polling = threading.Semaphore(0)
    returned = threading.Semaphore(0)

    def poll_for_long() -> None:
        for _ in range(20):
            polling.release()
            sleeper.poll(60 * bench.deadline_s)
            returned.release()

    thread = threading.Thread(target=poll_for_long, daemon=True)
    thread.start()
    try:
        for nth in range(20):
            polling.acquire()
            sleeper.links.wake()
            require(returned.acquire(timeout=bench.deadline_s), f"wake {nth} did not return the poll")
    except AssertionError:
        _release(friend, sleeper, returned)
        raise
    thread.join()


def required_close_is_announced(bench: Bench) -> None:
    """What a closing peer sent arrives, then its end, announced: on links that it opened and on links opened to it."""
    for closer_opened in (True, False):
        writer, reader = _connected(bench)
        closer, other, side = (writer, reader, Side.READS) if closer_opened else (reader, writer, Side.WRITES)
        last = _start(9) if closer_opened else _credit(9)
        closer.send(other, Side.WRITES if closer_opened else Side.READS, [last])
        closing = threading.Thread(target=closer.links.close, args=(bench.deadline_s,), daemon=True)
        bench.leave(closer)
        closing.start()
        bench.expect_loss_of(other, LinkId(closer.name, side), after=2)
        closing.join(bench.deadline_s)
        require(not closing.is_alive(), "close outlived the time it was given")
        heard = other.heard[LinkId(closer.name, side)]
        require(other.losses[0].announced, f"close was not announced: {heard}")
        require(heard[1:] == [last, other.losses[0]], f"{last} and one loss expected, heard {heard}")
        closer.links.close(0)


def required_a_goodbye_ends_one_link(bench: Bench) -> None:
    """Goaway(closing) and a drop: the peer hears one announced loss, of that link; the next link is a new one."""
    writer, reader = _connected(bench)
    writer.send(reader, Side.WRITES, [_start(2), Goaway(Leaving.CLOSING)])
    writer.drop(reader, Side.WRITES)
    bench.expect_loss(reader, writer, Side.READS, [_start(1), _start(2)])
    require(reader.losses[0].announced, f"a goodbye was not announced: {reader.losses}")
    _expect_new_link(bench, writer, reader)


RULES: tuple[Callable[[Bench], None], ...] = (
    required_order_is_kept_in_both_directions,
    required_every_frame_arrives_equal,
    required_arrays_arrive_bit_for_bit,
    required_one_send_may_carry_many_frames,
    required_the_links_of_a_pair_are_independent,
    required_send_never_blocks,
    required_a_drop_is_told_to_the_peer_alone,
    required_dropping_nothing_is_harmless,
    required_a_loss_is_told_once_at_both_ends,
    required_a_lost_link_is_not_resumed,
    required_losing_one_link_leaves_the_others,
    required_an_unknown_peer_is_a_loss,
    required_a_reply_without_a_link_is_no_error,
    required_other_wiring_is_refused_naming_both,
    required_wake_returns_a_blocked_poll,
    required_close_is_announced,
    required_a_goodbye_ends_one_link,
)
NEED_CUT = frozenset(
    {
        required_a_loss_is_told_once_at_both_ends,
        required_a_lost_link_is_not_resumed,
        required_losing_one_link_leaves_the_others,
    }
)


def _connected(bench: Bench) -> tuple[Peer, Peer]:
    """A writer and a reader that have each heard one frame of the other."""
    writer, reader = bench.pair()
    writer.send(reader, Side.WRITES, [_start(1)])
    bench.expect(reader, writer, Side.READS, [_start(1)])
    reader.send(writer, Side.READS, [_credit(1)])
    bench.expect(writer, reader, Side.WRITES, [_credit(1)])
    return writer, reader


def _expect_new_link(bench: Bench, writer: Peer, reader: Peer) -> None:
    """A marker there and back on a new link, and nothing else than it since what was heard before."""
    before_there = list(reader.heard.get(LinkId(writer.name, Side.READS), ()))
    before_back = list(writer.heard.get(LinkId(reader.name, Side.WRITES), ()))
    there, back = Stop("marker", 1, 2), Credit("marker", 1, 2, 0, 1)
    writer.send(reader, Side.WRITES, [there])
    bench.expect(reader, writer, Side.READS, [*before_there, there])
    reader.send(writer, Side.READS, [back])
    bench.expect(writer, reader, Side.WRITES, [*before_back, back])


def _release(friend: Peer, sleeper: Peer, returned: threading.Semaphore) -> None:
    """End the polls of a thread that wake does not reach, by frames."""
    for _ in range(20):
        friend.send(sleeper, Side.WRITES, [_start(0)])
        returned.acquire(timeout=1)


def _start(number: int) -> Frame:
    return Start(f"request-{number}", 1, 0)


def _credit(number: int) -> Frame:
    return Credit("request", 1, 0, number, number + 8)
