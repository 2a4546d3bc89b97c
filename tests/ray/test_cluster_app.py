"""What callers rely on over one Ray node holds over two: the same tests, stages pinned apart, encrypted tcp between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from omni_graph.graph import Graph
from omni_graph.runtime.app import App
from tests.ray.test_cluster import cluster as cluster  # a fixture
from tests.ray.test_cluster import on
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


def apart(cluster: Cluster, made: Graph, replicas: int = 1, **deploy: Any) -> App:
    """A deployment with so many replicas of ``a`` on one node, and the rest on the other."""
    stages: dict[str, Any] = {name: {"labels": {"pool": "text"}} for name in made.spec.nodes}
    stages["a"] = {"labels": {"pool": "speech"}, "replicas": replicas}
    return on(cluster, made, ipc=False, stages=stages, **deploy)


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> Iterator[App]:
    with apart(cluster, chain(), replicas=2, max_requests=8, queue=4) as running:
        yield running


@pytest.fixture(autouse=True)
def afterwards_nothing_runs(app: App) -> Iterator[None]:
    """A request that its caller has read holds its slot until every replica has forgotten it."""
    yield
    eventually(lambda: app.status()["requests"]["running"] == 0)


def test_replicas_are_where_they_were_pinned(app: App) -> None:
    """The node that has started a replica is its process's parent."""
    stages = app.status()["stages"]
    first, second, third = (
        psutil.Process(replica["pid"]).ppid() for name in ("a", "b") for replica in stages[name]["replicas"]
    )
    assert first == second != third


@pytest.fixture
def pinned(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests launch themselves is pinned apart too."""
    monkeypatch.setattr(everywhere, "launch", lambda made, _, **deploy: apart(cluster, made, **deploy))


@pytest.mark.usefixtures("pinned")
def test_a_reader_that_stops_pauses_its_own_request_only() -> None:
    everywhere.test_a_reader_that_stops_pauses_its_own_request_only("ray")


@pytest.mark.usefixtures("pinned")
def test_arrays_arrive_as_sent() -> None:
    everywhere.test_arrays_arrive_as_sent("ray")


@pytest.mark.usefixtures("pinned")
def test_status_shows_what_a_node_counts_of_itself_soon_after_it_did() -> None:
    everywhere.test_status_shows_what_a_node_counts_of_itself_soon_after_it_did("ray")
