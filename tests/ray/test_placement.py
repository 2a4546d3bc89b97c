"""What is asked of Ray and what is said to be short, without a Ray."""

from __future__ import annotations

import pytest

from omni_graph.plan import make_plan
from omni_graph.runtime.ray_placement import Machine, actor_options, asked, never_fits, shortage
from omni_graph.runtime.replica import Placement, ReplicaSpec
from omni_graph.runtime.specs import host_spec
from omni_graph.spec import DeploySpec
from tests.runtime.graphs import chain

GIB = float(1 << 30)


def machine(name: str, cpu: float, gpu: float, free_cpu: float, free_gpu: float, **labels: str) -> Machine:
    total = {"CPU": cpu, "GPU": gpu, "memory": 8 * GIB}
    return Machine(name, name, {"ray.io/node-id": name, **labels}, total, total | {"CPU": free_cpu, "GPU": free_gpu})


BUSY = machine("10.0.0.1", 8, 2, 8, 0, pool="speech")
IDLE = machine("10.0.0.2", 4, 0, 3.5, 0)


@pytest.mark.parametrize(
    ("placement", "never", "now"),
    [
        (Placement(), "", ""),
        (Placement(cpu=4), "", ""),
        (Placement(cpu=9), "CPU: 9 asked, the largest machine has 8", None),
        (Placement(gpu=0.5), "", "GPU: 0.5 asked, no machine has more free than 0"),
        (Placement(gpu=3), "GPU: 3 asked, the largest machine has 2", None),
        (Placement(memory=16 << 30), "memory: 1.71799e+10 asked, the largest machine has 8.58993e+09", None),
        (
            Placement(cpu=9, gpu=3),
            "CPU: 9 asked, the largest machine has 8; GPU: 3 asked, the largest machine has 2",
            None,
        ),
        (Placement(labels={"pool": "speech"}), "", ""),
        (
            Placement(labels={"pool": "text"}),
            "no machine has the labels pool=text; machines and their labels: 10.0.0.1: pool=speech; 10.0.0.2: none",
            None,
        ),
        (Placement(cpu=0, gpu=0), "", ""),
    ],
)
def test_each_short_resource_is_named(placement: Placement, never: str, now: str | None) -> None:
    assert never_fits(placement, [BUSY, IDLE]) == never
    assert shortage(placement, [BUSY, IDLE]) == (never if now is None else now)


def test_an_ask_is_held_against_each_machine_by_itself() -> None:
    many_cores, many_gpus = machine("a", 64, 0, 64, 0), machine("b", 4, 8, 4, 8)
    reason = never_fits(Placement(cpu=16, gpu=1), [many_cores, many_gpus])
    assert (
        reason
        == "CPU: 16 asked, the largest machine has 64; GPU: 1 asked, the largest machine has 8, on different machines"
    )


def test_a_cluster_without_machines_is_said() -> None:
    assert never_fits(Placement(labels={"a": "b"}), []).endswith("there is no machine")


def test_ray_restarts_and_repeats_nothing_and_has_the_environment_before_any_import() -> None:
    placement = Placement(0.5, 0.25, 1 << 30, {"pool": "speech"}, True)
    spec = ReplicaSpec("a/0.0", (), (), "", "", "", "", 2, 30.0, env={"MINE": "x"}, placement=placement)
    options = actor_options(spec, "gcs://package.zip")
    assert (options["max_restarts"], options["max_task_retries"]) == (0, 0)
    assert (options["num_cpus"], options["num_gpus"], options["memory"]) == (0.5, 0.25, 1 << 30)
    assert options["label_selector"] == {"pool": "speech"} and options["scheduling_strategy"] == "SPREAD"
    assert options["runtime_env"] == {
        "env_vars": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "MINE": "x"},
        "working_dir": "gcs://package.zip",
    }
    assert asked(placement) == {"CPU": 0.5, "GPU": 0.25, "memory": GIB}
    assert ReplicaSpec.from_json(spec.to_json()) == spec


def test_the_deploy_file_says_how_long_a_place_is_looked_for() -> None:
    for written, seconds in (({}, 60.0), ({"place_timeout_s": 7.5}, 7.5)):
        plan = make_plan(chain(), DeploySpec.model_validate(written))
        assert host_spec(plan, "a", "", "", 1, "INFO").placement.timeout_s == seconds
    with pytest.raises(ValueError, match="place_timeout_s"):
        DeploySpec.model_validate({"place_timeout_s": 0.0})
