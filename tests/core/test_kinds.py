"""MapNode and StreamNode: what an author may rely on beyond the rules that every node keeps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from omni_graph.errors import Code, NodeError, RequestError
from omni_graph.kinds import MapNode, StreamNode
from omni_graph.node import In, NoParams, Out
from omni_graph.payload import TextDelta
from omni_graph.testing import NodeRun, check_node, check_stream, run_node


def words(text: str) -> list[TextDelta]:
    return [TextDelta(word) for word in text.split()]


def texts(packets: list[TextDelta]) -> list[str]:
    return [packet.text for packet in packets]


class Shout(MapNode[TextDelta, TextDelta]):
    """Upper case; fails on ``bad`` as its ``mode`` says."""

    text = In(TextDelta)
    loud = Out(TextDelta)
    max_batch = 4

    def __init__(self, mode: str = "raise") -> None:
        self.mode = mode  # and no super().__init__(): authors forget it
        self.batches: list[int] = []

    def forward(self, batch: list[TextDelta]) -> list[TextDelta | RequestError]:
        self.batches.append(len(batch))
        if self.mode == "crowd" and len(batch) > 1:
            raise RequestError("", Code.NUMERIC, "too many")
        return [self.one(packet) for packet in batch]

    def one(self, packet: TextDelta) -> TextDelta | RequestError:
        if packet.text == "bad" and self.mode == "bug":
            raise ValueError("a bug")
        error = RequestError("", Code.INVALID_INPUT, "bad word")
        if packet.text == "bad" and self.mode == "raise":
            raise error
        return error if packet.text == "bad" else TextDelta(packet.text.upper())


class Pairs(StreamNode[list[str], TextDelta, TextDelta]):
    """Letters two by two; one left over comes at the end."""

    text = In(TextDelta)
    pairs = Out(TextDelta)

    def start(self, params: NoParams) -> list[str]:
        return []

    def forward(self, states: list[list[str]], chunks: list[TextDelta]) -> list[list[TextDelta] | RequestError]:
        return [self.cut(state, chunk) for state, chunk in zip(states, chunks, strict=True)]

    def cut(self, state: list[str], chunk: TextDelta) -> list[TextDelta] | RequestError:
        if "!" in chunk.text:
            return RequestError("", Code.INVALID_INPUT, "no shouting")
        if "?" in chunk.text:
            raise RequestError("", Code.INVALID_INPUT, "no questions")
        state.extend(chunk.text)
        out = []
        while len(state) >= 2:
            out.append(TextDelta(state.pop(0) + state.pop(0)))
        return out

    def finish(self, state: list[str]) -> TextDelta | None:
        if state == ["#"]:
            raise RequestError("", Code.INVALID_INPUT, "no hash at the end")
        return TextDelta(state[0]) if state else None


def errors_of(node: MapNode | StreamNode, inputs: dict[str, str]) -> tuple[dict[str, Code], dict[str, list[str]]]:
    """Run requests given as words together; the codes of those that failed, and what all of them got."""
    run = NodeRun(node)
    (port,) = run.node._ports.inputs
    (out,) = run.node._ports.outputs
    for request, text in inputs.items():
        run.open(request, {port: words(text)})
    run.run()
    got = {request: texts(ports[out]) for request, ports in run.outputs.items()}
    return {request: error.code for request, error in run.errors.items()}, got


def test_both_keep_the_rules() -> None:
    check_node(Shout, [{"text": words("a b c d e f g h i j")}, {"text": []}, {"text": words("x y z")}])
    check_node(Pairs, [{"text": words("abc d efghijkl m")}, {"text": []}, {"text": words("a")}])


def test_a_stream_is_the_same_in_any_chunks() -> None:
    check_stream(Pairs, [TextDelta(letter) for letter in "a stream of letters"], merge_output=tuple)


def test_check_stream_catches_a_node_that_depends_on_its_chunks() -> None:
    class Chunky(Pairs):
        def finish(self, state: list[str]) -> None:
            return None

        def cut(self, state: list[str], chunk: TextDelta) -> list[TextDelta]:
            return [TextDelta(chunk.text[:2])]

    with pytest.raises(AssertionError, match="chunked == whole"):
        check_stream(Chunky, [TextDelta(letter) for letter in "letters"])


def test_batches_are_filled_across_requests_and_never_waited_for() -> None:
    node = Shout()
    run_node(node, {"a": {"text": words("1 2 3")}, "b": {"text": words("4 5 6")}})
    assert node.batches == [4, 2]
    run_node(node, {"c": {"text": words("1")}})
    assert node.batches == [4, 2, 1]


def test_a_slow_reader_holds_up_only_its_own_request() -> None:
    run = NodeRun(Shout(), windows={"loud": 2})
    run.paused.add("slow")
    run.open("slow", {"text": words("a b c d e")})
    run.open("quick", {"text": words("f g h i j k l m n o p q")})
    run.run()
    assert run.complete("quick") and not run.complete("slow")
    run.paused.clear()
    run.run()
    assert texts(run.outputs["slow"]["loud"]) == ["A", "B", "C", "D", "E"]


@pytest.mark.parametrize("mode", ["raise", "return"])
def test_a_request_error_fails_that_request_alone(mode: str) -> None:
    failed, got = errors_of(Shout(mode), {"a": "x y", "b": "p bad q", "c": "bad", "d": "z"})
    assert failed == {"b": Code.INVALID_INPUT, "c": Code.INVALID_INPUT}
    assert got == {"a": ["X", "Y"], "b": ["P"], "c": [], "d": ["Z"]}


def test_a_batch_that_fails_only_as_a_batch_fails_all_of_it() -> None:
    failed, _ = errors_of(Shout("crowd"), {"a": "x", "b": "y"})
    assert failed == {"a": Code.NUMERIC, "b": Code.NUMERIC}


def test_a_bug_fails_the_batch_and_nobody_else() -> None:
    node = Shout("bug")
    node.max_batch = 2
    failed, got = errors_of(node, {"a": "x", "b": "bad", "c": "z"})
    assert failed == {"a": Code.NODE_FAILED, "b": Code.NODE_FAILED}
    assert got["c"] == ["Z"]


def test_a_stream_may_fail_one_request_by_its_result() -> None:
    failed, got = errors_of(Pairs(), {"a": "ab", "b": "c!", "c": "de f"})
    assert failed == {"b": Code.INVALID_INPUT}
    assert got["a"] == ["ab"] and got["c"] == ["de", "f"]


def test_what_forward_raises_fails_every_request_of_the_batch() -> None:
    failed, _ = errors_of(Pairs(), {"a": "ab", "b": "c?"})
    assert failed == {"a": Code.INVALID_INPUT, "b": Code.INVALID_INPUT}
    assert errors_of(Pairs(), {"a": "ab"})[1]["a"] == ["ab"]


def test_what_finish_raises_fails_one_request() -> None:
    failed, got = errors_of(Pairs(), {"a": "ab c", "b": "xy #"})
    assert failed == {"b": Code.INVALID_INPUT}
    assert got["a"] == ["ab", "c"]


def test_a_wrong_number_of_results_says_so() -> None:
    class Short(Shout):
        def forward(self, batch: list[TextDelta]) -> list[TextDelta | RequestError]:
            return []

    with pytest.raises(RequestError, match="made 0 results of 1 packets"):
        run_node(Short(), {"a": {"text": words("x")}})


@pytest.mark.parametrize("kind", [MapNode, StreamNode])
def test_other_ports_are_refused_where_the_class_is_written(kind: type) -> None:
    body = {"left": In(TextDelta), "right": In(TextDelta), "out": Out(TextDelta), "forward": lambda self, batch: batch}
    with pytest.raises(NodeError, match=rf"Wide has inputs \(left, right\) .* a {kind.__name__} has exactly one In"):
        type("Wide", (kind,), body)
    with pytest.raises(NodeError, match="exactly one In"):
        type("None_", (kind,), {"forward": lambda self, batch: batch})


def test_a_shape_in_between_may_leave_its_ports_open() -> None:
    @dataclass
    class Ratio(MapNode[TextDelta, TextDelta]):
        times: int = 2

    class Twice(Ratio):
        text = In(TextDelta)
        out = Out(TextDelta)

        def forward(self, batch: list[TextDelta]) -> list[TextDelta]:
            return [TextDelta(one.text * self.times) for one in batch]

    assert texts(run_node(Twice(), {"a": {"text": words("ab")}})["a"]["out"]) == ["abab"]
