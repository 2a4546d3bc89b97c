"""Flow control of one stream, as a state machine: any interleaving, over a credit channel that loses, doubles and delays."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omni_graph.credit import MAX_COUNT, StreamReceiver, StreamSender
from omni_graph.errors import FlowControlError


class OneStream(RuleBasedStateMachine):
    """A writer, a reader, a FIFO for packets, and a heap of credits that arrive in any order, again, or never."""

    @initialize(window=st.integers(1, 12))
    def start(self, window: int) -> None:
        self.window = window
        self.sender = StreamSender()
        self.receiver = StreamReceiver(window)
        self.pipe: deque[tuple[str, int]] = deque()
        self.credits = [(0, self.receiver.limit)]
        self.taken: list[int] = []

    # ---- the writer

    @precondition(lambda self: self.sender.room > 0)
    @rule()
    def send(self) -> None:
        self.pipe.append(("data", self.sender.send()))

    @precondition(lambda self: self.sender.room <= 0)
    @rule()
    def send_past_the_limit(self) -> None:
        sent = self.sender.sent
        with pytest.raises(FlowControlError):
            self.sender.send()
        assert self.sender.sent == sent

    @rule()
    def end(self) -> None:
        self.sender.end()
        self.flush_end()

    def flush_end(self) -> None:
        if self.sender.end_due():
            assert self.sender.limit is not None, "an End before the first Credit"
            self.pipe.append(("end", self.sender.sent))

    # ---- the reader

    @precondition(lambda self: self.pipe)
    @rule()
    def arrive(self) -> None:
        kind, count = self.pipe.popleft()
        self.receiver.on_data(count) if kind == "data" else self.receiver.on_end(count)

    @precondition(lambda self: self.receiver.taken < self.receiver.received)
    @rule()
    def take(self) -> None:
        self.taken.append(self.receiver.taken)
        limit = self.receiver.take()
        if limit is not None:
            self.credits.append((self.receiver.taken, limit))

    @precondition(lambda self: self.receiver.taken == self.receiver.received)
    @rule()
    def take_nothing(self) -> None:
        with pytest.raises(FlowControlError):
            self.receiver.take()

    # ---- the credit channel

    @precondition(lambda self: self.credits)
    @rule(data=st.data(), again=st.booleans())
    def credit_arrives(self, data: st.DataObject, again: bool) -> None:
        index = data.draw(st.integers(0, len(self.credits) - 1))
        credit = self.credits[index] if again else self.credits.pop(index)
        before, room = self.sender.limit, self.sender.room
        made_room = self.sender.on_credit(*credit)
        assert made_room == (self.sender.limit != before)
        assert self.sender.ended or self.sender.room >= room
        self.flush_end()

    @precondition(lambda self: self.credits)
    @rule(data=st.data())
    def credit_is_lost(self, data: st.DataObject) -> None:
        self.credits.pop(data.draw(st.integers(0, len(self.credits) - 1)))

    # ---- what holds always

    @invariant()
    def counters(self) -> None:
        if not hasattr(self, "sender"):
            return
        sender, receiver = self.sender, self.receiver
        assert receiver.taken <= receiver.received <= sender.sent <= max(sender.limit or 0, 0) <= receiver.limit
        assert receiver.received - receiver.taken <= self.window
        assert receiver.limit <= receiver.taken + self.window
        assert self.taken == list(range(receiver.taken))

    def teardown(self) -> None:
        """With a reader that reads, and its last promise repeated, everything arrives: once, in order, with its end."""
        if not hasattr(self, "sender"):
            return
        self.sender.on_credit(self.receiver.taken, self.receiver.limit)
        self.sender.end()
        self.flush_end()
        while self.pipe:
            self.arrive()
        while self.receiver.taken < self.receiver.received:
            self.take()
        assert self.receiver.drained
        assert self.taken == list(range(self.sender.sent))


OneStream.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestOneStream = OneStream.TestCase


@given(window=st.integers(1, 100), packets=st.integers(0, 300))
def test_a_reader_that_reads_never_starves_its_writer(window: int, packets: int) -> None:
    sender, receiver = StreamSender(), StreamReceiver(window)
    sender.on_credit(0, receiver.limit)
    credits = 0
    for _ in range(packets):
        receiver.on_data(sender.send())
        limit = receiver.take()
        if limit is not None:
            credits += 1
            sender.on_credit(receiver.taken, limit)
    assert credits <= packets / max(1, window // 4), "more credits than one a quarter window"


@given(sent=st.integers(0, 8), taken=st.integers(-2, MAX_COUNT + 5), limit=st.integers(-2, MAX_COUNT + 5))
def test_impossible_credit_is_refused_and_changes_nothing(sent: int, taken: int, limit: int) -> None:
    sender = StreamSender()
    sender.on_credit(0, 8)
    for _ in range(sent):
        sender.send()
    if 0 <= taken <= sent and taken <= limit <= MAX_COUNT:
        sender.on_credit(taken, limit)
        assert sender.limit == max(8, limit)
    else:
        with pytest.raises(FlowControlError):
            sender.on_credit(taken, limit)
        assert (sender.limit, sender.sent) == (8, sent)


@given(received=st.integers(0, 4), seq=st.integers(-1, 6))
def test_packets_out_of_turn_or_past_the_limit_are_refused(received: int, seq: int) -> None:
    receiver = StreamReceiver(4)
    for number in range(received):
        receiver.on_data(number)
    if seq == received < 4:
        receiver.on_data(seq)
        assert receiver.received == received + 1
    else:
        with pytest.raises(FlowControlError):
            receiver.on_data(seq)
        assert receiver.received == received


@given(received=st.integers(0, 4), count=st.integers(-1, 6))
def test_a_truncated_stream_is_detected_and_nothing_follows_an_end(received: int, count: int) -> None:
    receiver = StreamReceiver(8)
    for number in range(received):
        receiver.on_data(number)
    if count != received:
        with pytest.raises(FlowControlError):
            receiver.on_end(count)
        assert not receiver.ended
        return
    receiver.on_end(count)
    for illegal in (lambda: receiver.on_end(count), lambda: receiver.on_data(count)):
        with pytest.raises(FlowControlError):
            illegal()
    assert receiver.count == count


def test_a_stopped_stream_ends_without_a_word() -> None:
    sender = StreamSender()
    sender.on_credit(0, 1)
    sender.on_stop()
    sender.end()
    assert not sender.end_due()


def test_the_reader_says_stop_once_and_not_to_a_writer_that_has_ended() -> None:
    receiver, ended = StreamReceiver(1), StreamReceiver(1)
    assert [receiver.close(), receiver.close()] == [True, False]
    ended.on_end(0)
    assert not ended.close()


def test_a_stream_needs_a_window() -> None:
    with pytest.raises(FlowControlError, match="at least 1"):
        StreamReceiver(0)
