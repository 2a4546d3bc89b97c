"""Ray's head on the other host, and the cable cut: what is served here does not pass through it, so nobody notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_graph.runtime.app import App
from tests.ray.hosts import HERE, TwoHosts, run_on
from tests.ray.hosts import hosts_with_the_head_there as hosts_with_the_head_there  # a fixture
from tests.runtime.fault_matrix import STAGES, Three, epilogue, replicas, speaking


@pytest.fixture(scope="module")
def app(hosts_with_the_head_there: TwoHosts) -> Iterator[App]:
    with run_on(hosts_with_the_head_there, speaking(), STAGES, []) as running:
        yield running


@pytest.mark.parametrize(
    "seconds", [pytest.param(0.2, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow), 3.0]
)
def test_what_runs_does_not_notice_that_rays_head_is_cut_off(
    seconds: float, app: App, hosts_with_the_head_there: TwoHosts, tmp_path: Path
) -> None:
    before = [(one["pid"], one["host"]) for one in replicas(app)]
    assert {host for _, host in before} == {HERE}
    three = Three.begin(app, tmp_path)
    with hosts_with_the_head_there.cut():
        three.release()
        assert three.finish() == [0, 0, 0]
        threading.Event().wait(seconds)
    epilogue(app)
    assert [(one["pid"], one["host"]) for one in replicas(app)] == before
