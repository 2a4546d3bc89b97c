"""What callers rely on over one machine holds over two hosts: the same tests, every edge across the cable, encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from omni_graph.graph import Graph
from omni_graph.runtime.app import App
from tests.ray.hosts import HERE, THERE, TwoHosts, run_on
from tests.ray.hosts import hosts as hosts  # a fixture
from tests.runtime import test_app as everywhere
from tests.runtime.graphs import chain, eventually
from tests.runtime.test_app import (  # noqa: F401
    test_a_deadline_ends_the_request_everywhere,
    test_a_dropped_output_is_not_waited_for,
    test_admission_is_bounded_and_says_what_is_full,
    test_an_input_is_given_whole_or_written_live,
    test_an_output_that_is_not_asked_for_is_not_computed,
    test_asyncio_callers_share_the_app,
    test_bad_requests_are_refused_before_they_start,
    test_both_replicas_serve,
    test_cancelled_requests_leave_no_state,
    test_every_stage_that_was_routed_is_timed,
    test_live_inputs_stream_through,
    test_many_threads_may_call,
    test_packets_come_out_in_order_and_whole,
    test_params_and_the_seed_reach_the_node,
    test_what_a_node_raises_fails_that_request_alone,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def app(hosts: TwoHosts) -> Iterator[App]:
    """Both replicas of ``a`` there, ``b`` and the Gateway here."""
    with run_on(hosts, chain(), ["b"], ["a"], replicas=2, max_requests=8, queue=4) as running:
        yield running


@pytest.fixture(autouse=True)
def afterwards_nothing_runs(app: App) -> Iterator[None]:
    """A request that its caller has read holds its slot until every replica has forgotten it."""
    yield
    eventually(lambda: app.status()["requests"]["running"] == 0)


def test_replicas_are_where_they_were_pinned(app: App) -> None:
    stages = app.status()["stages"]
    assert [replica["host"] for replica in stages["a"]["replicas"]] == [THERE, THERE]
    assert [replica["host"] for replica in stages["b"]["replicas"]] == [HERE]


@pytest.fixture
def pinned(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests launch themselves has ``a`` there and the rest here."""

    def launch(made: Graph, _: str, **deploy: Any) -> App:
        return run_on(hosts, made, [name for name in made.spec.nodes if name != "a"], ["a"], **deploy)

    monkeypatch.setattr(everywhere, "launch", launch)


@pytest.mark.usefixtures("pinned")
def test_a_reader_that_stops_pauses_its_own_request_only() -> None:
    everywhere.test_a_reader_that_stops_pauses_its_own_request_only("ray")


@pytest.mark.usefixtures("pinned")
def test_arrays_arrive_as_sent() -> None:
    everywhere.test_arrays_arrive_as_sent("ray")


@pytest.mark.usefixtures("pinned")
def test_status_shows_what_a_node_counts_of_itself_soon_after_it_did() -> None:
    everywhere.test_status_shows_what_a_node_counts_of_itself_soon_after_it_did("ray")
