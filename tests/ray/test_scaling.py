"""A deployment over Ray actors that is changed under load: the tests of the other launchers, on a local Ray."""

from __future__ import annotations

import pytest

from tests.runtime import test_scaling as everywhere
from tests.runtime.graphs import launch, tagged
from tests.runtime.test_scaling import begun, finish, replicas, say, who

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_stage_grows_shrinks_is_replaced_and_keeps_its_sessions() -> None:
    with launch(tagged(), "ray") as app:
        old = who(app, session="mine")
        handle, served = begun(app)
        app.scale("a", 2)
        assert replicas(app) == ["a/0.0", "a/1.0"]
        assert {who(app, session="mine") for _ in range(4)} == {old}
        app.scale("a", 1, drain_timeout_s=0)
        assert say(handle, "more") == "MORE" and served == old
        finish(handle)
        app.replace("a", {"tag": "new"})
        assert replicas(app) == ["a/2.0"] and who(app, session="mine").startswith("new")


@pytest.mark.slow
def test_one_to_three_to_one_ten_times_and_a_replacement_lose_and_double_nothing() -> None:
    everywhere.test_one_to_three_to_one_ten_times_and_a_replacement_lose_and_double_nothing("ray")


@pytest.mark.slow
def test_what_a_drain_does_not_wait_for_goes_on_elsewhere() -> None:
    everywhere.test_what_a_drain_does_not_wait_for_goes_on_elsewhere("ray")
