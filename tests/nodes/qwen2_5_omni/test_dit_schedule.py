"""The DiT's windows. If these break, speech has gaps or repeats, or differs with the network's weather."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_graph.errors import NodeError
from omni_nodes.qwen2_5_omni.dit_schedule import CONTEXTS, MODES, Schedule, Window, chunk_blocks, first_block

SHAPES = [(24, 2), (12, 2), (20, 2), (6, 1), (9, 3), (2, 2)]
schedules = st.builds(
    lambda mode, shape: Schedule(mode, *shape), mode=st.sampled_from(MODES), shape=st.sampled_from(SHAPES)
)


def whole(schedule: Schedule, codes: int) -> list[Window]:
    """The windows when all codes are there and ended."""
    windows: list[Window] = []
    while window := schedule.next_window(len(windows), codes, ended=True):
        windows.append(window)
    return windows


def streamed(schedule: Schedule, arrivals: list[int]) -> list[Window]:
    """The windows when codes arrive in pieces, each asked for as early as it can be."""
    windows: list[Window] = []
    codes = 0
    for piece, ended in [*((piece, False) for piece in arrivals), (0, True)]:
        codes += piece
        while window := schedule.next_window(len(windows), codes, ended):
            windows.append(window)
    return windows


@given(schedules, st.integers(0, 700))
def test_every_frame_is_computed_by_exactly_one_window(schedule: Schedule, codes: int) -> None:
    reached = 0
    for index, window in enumerate(whole(schedule, codes)):
        assert window.index == index
        assert window.start == reached < window.end
        assert window.lo <= window.start and window.end <= window.hi
        assert window.lo % schedule.block_frames == window.start % schedule.block_frames == 0
        reached = window.end
    assert reached == codes * schedule.repeats


@given(schedules, st.lists(st.integers(0, 60), max_size=20))
def test_windows_do_not_depend_on_how_codes_arrive(schedule: Schedule, arrivals: list[int]) -> None:
    assert streamed(schedule, arrivals) == whole(schedule, sum(arrivals))


@given(schedules, st.integers(0, 700))
def test_context_is_the_modes_wherever_it_exists(schedule: Schedule, codes: int) -> None:
    frames, block = codes * schedule.repeats, schedule.block_frames
    for window in whole(schedule, codes):
        if schedule.mode == "exact":
            assert (window.lo, window.hi) == (0, frames)
            continue
        context = CONTEXTS[schedule.mode]
        end = (first_block(window.index) + chunk_blocks(window.index)) * block
        assert window.lo == max(0, window.start - context.back * block)
        assert window.hi == min(frames, end + context.ahead * block)


@given(st.sampled_from(sorted(CONTEXTS)), st.sampled_from(SHAPES), st.integers(0, 12))
def test_a_window_starts_with_the_code_that_completes_it(mode: str, shape: tuple[int, int], index: int) -> None:
    schedule = Schedule(mode, *shape)
    wanted = schedule.codes_wanted(index)
    assert schedule.next_window(index, wanted - 1, ended=False) is None
    assert schedule.next_window(index, wanted, ended=False) is not None


def test_chunks_grow_from_one_block_to_six() -> None:
    assert [chunk_blocks(index) for index in range(6)] == [1, 2, 3, 6, 6, 6]
    assert [first_block(index) for index in range(7)] == [0, 1, 3, 6, 12, 18, 24]


def test_the_first_low_latency_window_needs_24_codes() -> None:
    """480 ms of codec ids until the first mel: the published look-ahead of one block."""
    assert Schedule("low_latency").codes_wanted(0) == 24
    assert Schedule("balanced").codes_wanted(0) == 60
    assert Schedule("low_latency").next_window(0, 24, ended=False) == Window(0, 0, 0, 24, 48)


def test_exact_waits_for_the_end() -> None:
    schedule = Schedule("exact")
    assert schedule.next_window(0, 4096, ended=False) is None
    assert schedule.next_window(0, 25, ended=True) == Window(0, 0, 0, 50, 50)


@pytest.mark.parametrize("mode", MODES)
def test_no_codes_are_no_window(mode: str) -> None:
    assert Schedule(mode).next_window(0, 0, ended=True) is None


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NodeError, match="'fast'; allowed: exact, balanced, low_latency"):
        Schedule("fast")


def test_a_block_that_cuts_a_code_is_refused() -> None:
    with pytest.raises(NodeError, match="25 mel frames is not a whole number of codes of 2"):
        Schedule("exact", 25, 2)
