"""Whose sound comes first. If this breaks, one listener hears a gap while another has seconds to spare."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omni_nodes.playback import HEAD_START, Playback


class Clock:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def speaking(clock: Clock, **seconds: float) -> Playback:
    """Listeners with this much to hear, each with a piece to compute."""
    playback = Playback(clock)
    for request, length in seconds.items():
        playback.ready(request)
        playback.delivered(request, length)
        playback.ready(request)
    return playback


def test_who_runs_dry_first_goes_first_and_a_newcomer_before_all() -> None:
    playback = speaking(Clock(), rich=5.0, poor=0.5)
    playback.ready("new")
    playback.ready("newer")
    assert playback.in_order() == ["new", "newer", "poor", "rich"]


def test_a_newcomer_goes_before_who_ran_dry_just_now_and_not_before_who_waits_long() -> None:
    clock = Clock()
    playback = speaking(clock, dry=1.0)
    clock.now += 1.0 + HEAD_START / 2
    playback.ready("new")
    clock.now += HEAD_START
    playback.ready("late")
    assert playback.in_order() == ["new", "dry", "late"]


def test_sound_that_comes_late_is_heard_when_it_comes() -> None:
    """A listener who stood still for 10 s does not owe them: the next piece is due when what it got now is heard."""
    clock = Clock()
    playback = speaking(clock, slow=1.0, steady=12.0)
    clock.now += 11.0
    playback.delivered("slow", 2.0)
    playback.ready("slow")
    assert playback.in_order() == ["steady", "slow"]


def test_an_endless_row_of_newcomers_does_not_keep_a_listener_waiting() -> None:
    """One newcomer for every piece that can be computed: who is dry waits HEAD_START, then for those ready before."""
    clock = Clock()
    playback = speaking(clock, listener=0.0)
    pieces = 0
    while True:
        clock.now += 0.1
        playback.ready(f"new {pieces}")
        first = playback.in_order()[0]
        playback.delivered(first, 0.2)
        pieces += 1
        if first == "listener":
            break
        playback.forget(first)
        assert pieces <= HEAD_START / 0.1 + 1
    assert pieces > 10, "newcomers are meant to go first for a while"


REQUESTS = st.sampled_from("abcd")
EVENTS = st.lists(st.one_of(REQUESTS, st.integers(1, 40)), max_size=60)


@given(EVENTS)
def test_the_order_is_that_of_what_listeners_have_left(events: list[str | int]) -> None:
    """Against players that play: a name makes that request's next piece ready, or delivers it; a number lets time pass."""
    clock, heard = Clock(), dict[str, float]()
    playback, due = Playback(clock), dict[str, float]()
    for event in events:
        if isinstance(event, int):
            clock.now += event
            heard = {request: max(0.0, left - event) for request, left in heard.items()}
        elif event in due:
            del due[event]
            heard[event] = heard.get(event, 0.0) + 7
            playback.delivered(event, 7)
        else:
            due[event] = clock.now + heard[event] if event in heard else clock.now - HEAD_START
            playback.ready(event)
        assert playback.in_order() == sorted(due, key=due.__getitem__)
    for request in "abcd":
        playback.forget(request)
        playback.forget(request)
    assert len(playback) == 0 and playback.in_order() == []
