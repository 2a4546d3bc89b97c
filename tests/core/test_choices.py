"""Choices travel with the data: whatever is taken and chosen, in any order, every stream carries a prefix without a gap."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omni_graph.choices import ChoiceLedger, ChoiceOrder
from omni_graph.errors import FlowControlError
from omni_graph.frames import Choice


def choices(node: str, *indices: int) -> list[Choice]:
    return [Choice(node, index, (index,)) for index in indices]


class Join(RuleBasedStateMachine):
    """One chooser feeds two arms; a node joins them, chooses too, and writes one stream."""

    @initialize()
    def start(self) -> None:
        self.made = 0
        self.own = 0
        self.arms = [ChoiceLedger(), ChoiceLedger()]
        self.waiting: list[deque[tuple[Choice, ...]]] = [deque(), deque()]
        self.out = ChoiceLedger()
        self.reader = ChoiceOrder()
        self.owed: dict[str, int] = {}
        self.carried: dict[str, list[int]] = {"chooser": [], "join": []}

    @rule()
    def choose_upstream(self) -> None:
        for arm in self.arms:
            arm.add(choices("chooser", self.made))
        self.made += 1

    @rule(arm=st.integers(0, 1))
    def send_on_an_arm(self, arm: int) -> None:
        self.waiting[arm].append(self.arms[arm].carry())

    @precondition(lambda self: any(self.waiting))
    @rule(arm=st.integers(0, 1))
    def take(self, arm: int) -> None:
        if self.waiting[arm]:
            taken = self.waiting[arm].popleft()
            self.out.add(taken)
            for choice in taken:
                self.owed["chooser"] = max(self.owed.get("chooser", 0), choice.index + 1)

    @rule()
    def choose_here(self) -> None:
        self.out.add(choices("join", self.own))
        self.own += 1
        self.owed["join"] = self.own

    @rule()
    def send(self) -> None:
        frame = self.out.carry()
        self.reader.check(frame)
        for choice in frame:
            self.carried[choice.node].append(choice.index)
        assert {node: len(seen) for node, seen in self.carried.items() if seen} == self.owed

    @invariant()
    def no_gap_and_no_double(self) -> None:
        for seen in getattr(self, "carried", {}).values():
            assert seen == list(range(len(seen)))


Join.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestJoin = Join.TestCase


@given(st.integers(0, 5), st.integers(0, 9))
def test_a_gap_among_choices_taken_is_an_error(had: int, index: int) -> None:
    ledger = ChoiceLedger()
    ledger.add(choices("t", *range(had)))
    if index > had:
        with pytest.raises(FlowControlError, match=f"{had} was due"):
            ledger.add(choices("t", index))
    else:
        ledger.add(choices("t", index))
        assert len(ledger.carry()) == max(had, index + 1)


@given(st.integers(0, 5), st.integers(0, 9))
def test_a_writer_that_leaves_a_gap_or_repeats_itself_is_found_out(had: int, index: int) -> None:
    order = ChoiceOrder()
    order.check(choices("t", *range(had)))
    order.check(choices("other", 0))
    if index != had:
        with pytest.raises(FlowControlError, match=f"{had} was due"):
            order.check(choices("t", index))
    else:
        order.check(choices("t", index))
