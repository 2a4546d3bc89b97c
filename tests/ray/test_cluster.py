"""Two Ray nodes, as on two machines: stages pinned and spread, packets over tcp, the graph's folder carried over."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

import omni_graph as og
from omni_graph.plan import make_plan
from omni_graph.runtime.app import App
from omni_graph.runtime.deployment import Deployment
from omni_graph.runtime.ray_cluster import RayCluster
from omni_graph.runtime.ray_launcher import RayLauncher
from omni_graph.spec import DeploySpec
from tests.ray.graphs import asked, where
from tests.runtime.graphs import chain, launch, words

NODE = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 << 20, "num_cpus": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="og-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = Cluster(initialize_head=True, head_node_args={**NODE, "labels": {"pool": "text"}})
        made.add_node(**NODE, labels={"pool": "speech"})
        yield made
        made.shutdown()
    signal.signal(signal.SIGTERM, at_sigterm)


@pytest.fixture
def open_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster has no token; the user has said so."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return cluster


def nodes_by_pool() -> dict[str, str]:
    return {node["Labels"]["pool"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}


def on(cluster: Cluster, made: og.Graph, ipc: bool = True, **deploy: object) -> App:
    plan = make_plan(made, DeploySpec.model_validate(deploy))
    return App(plan, Deployment(plan, RayLauncher(cluster.address, ipc=ipc)))


def test_stages_live_where_their_labels_say_and_their_file_has_travelled(open_cluster: Cluster) -> None:
    stages = {"a": {"labels": {"pool": "text"}}, "b": {"labels": {"pool": "speech"}}}
    with on(open_cluster, where("a", "b"), stages=stages) as app:
        nodes = nodes_by_pool()
        first, second = asked(app, "a"), asked(app, "b")
    assert (first["node"], second["node"]) == (nodes["text"], nodes["speech"])
    assert "working_dir_files" in first["file"] and not first["file"].startswith(str(where("a").folder))


@pytest.mark.parametrize("ipc", [True, False])
def test_packets_cross_from_one_to_the_other_and_tcp_is_encrypted(open_cluster: Cluster, ipc: bool) -> None:
    stages = {"a": {"labels": {"pool": "text"}}, "b": {"labels": {"pool": "speech"}}}
    with on(open_cluster, chain(), ipc, stages=stages) as app:
        result = app.run({"text": words(*(f"w{i} " for i in range(300)))}, outputs=["out"])
        addresses = [handle.address for handle in app._deployment.handles.values()]
    assert result["out"].text == "".join(f"W{i} " for i in range(300))
    assert all("tcp://127.0.0.1:" in one.endpoint and len(one.public_key) == 40 for one in addresses)
    assert all(one.endpoint.startswith("ipc://") == ipc for one in addresses)
    assert len({one.public_key for one in addresses}) == 2


def test_spread_replicas_live_on_different_nodes(open_cluster: Cluster) -> None:
    with on(open_cluster, where("a"), stages={"a": {"replicas": 2, "spread": True}}) as app:
        held = [app.open(outputs=["a"]) for _ in range(2)]
        for handle in held:
            handle.write("text", words("where?")[0])
            handle.end("text")
        told = {next(iter(handle)).packet.text for handle in held}
    assert len(told) == 2
    assert all(sum(node in one for one in told) == 1 for node in _node_ids(open_cluster))


def _node_ids(cluster: Cluster) -> list[str]:
    return [node.node_id for node in (cluster.head_node, *cluster.worker_nodes)]


def test_an_open_cluster_must_be_asked_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(og.LaunchError, match="RAY_AUTH_MODE is None; allowed are `token`"):
        RayCluster(cluster.address)
    assert not ray.is_initialized()


def test_an_address_where_no_ray_is_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(og.LaunchError, match=r"could not use Ray at nowhere"):
        RayCluster("nowhere")


def test_ray_address_names_the_cluster_that_a_launch_uses(
    open_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", open_cluster.address)
    with launch(where("a"), "ray", stages={"a": {"labels": {"pool": "speech"}}}) as app:
        assert asked(app, "a")["node"] == nodes_by_pool()["speech"]
    assert not ray.is_initialized()


def test_a_ray_that_the_caller_has_is_used_and_left_alone(
    open_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)  # or Ray looks for it beyond loopback
    ray.init(address=open_cluster.address, log_to_driver=False, configure_logging=False)
    try:
        with launch(where("a"), "ray") as app:
            assert asked(app, "a")["node"] in _node_ids(open_cluster)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
