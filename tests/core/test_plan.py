"""One test for each rule of a graph and its deployment, and what the plan says of a sound one."""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import Path

import pytest

from omni_graph.bound import size_text
from omni_graph.codes import FaultCode
from omni_graph.errors import Fault
from omni_graph.graph import Graph
from omni_graph.node import Out
from omni_graph.payload import AudioChunk, TextDelta
from omni_graph.plan import GATEWAY, ForkJoin, make_plan
from omni_graph.spec import DeploySpec, GraphSpec, NodeSpec, StageSpec, Wire
from tests.core import toy_nodes
from tests.core.toy_graphs import (
    SPEECH,
    deploy_faults,
    faults_of,
    graph_faults,
    nodes_only,
    only_fault,
    plan_of,
    write,
)

ECHO = 'echo: {uses: "@Echo", inputs: {text: question}}\n'
DIAMOND = """\
split: {uses: "@Split", inputs: {text: question}}
left: {uses: "@Echo", inputs: {text: split.left}}
right: {uses: "@Echo", inputs: {text: split.right}}
join: {uses: "@Join", inputs: {left: left.said, right: right.said}}
"""
DIAMOND_OUT = "{out: join.said}"


def marked(fault: Fault) -> str:
    """The text under the carets."""
    return fault.source[fault.column - 1 : fault.column - 1 + fault.width]


# --- the rules of a graph


@pytest.mark.parametrize(
    ("uses", "says"),
    [
        ("tests.core.toy_nodes", "is not `package.module:Class` or `./file.py:Class`"),
        ("tests.core.toy_nodes:Ecko", "`tests.core.toy_nodes` has no class `Ecko` (did you mean `Echo`?)"),
        ("tests.core.toy_nodes:make", "is a function, not a class"),
        ("tests.core.toy_nodse:Echo", "there is no module `tests.core.toy_nodse` on the path"),
        ("tests/core:Echo", "neither a module such as `package.module` nor a file"),
        ("./gone.py:Echo", "there is no file `./gone.py` beside the graph"),
    ],
)
def test_og008_a_class_that_cannot_be_imported(tmp_path: Path, uses: str, says: str) -> None:
    fault = only_fault(tmp_path, nodes_only(f'echo: {{uses: "{uses}", inputs: {{text: question}}}}'))
    assert (fault.code, fault.path, marked(fault)) == (FaultCode.NOT_IMPORTABLE, "nodes.echo.uses", f'"{uses}"')
    assert says in fault.message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("NoStep", "NoStep is not a node: it has no step"),
        ("NoPorts", "NoPorts is not a node: it has no port"),
        ("MutableParams", "MutableParams.Params must be a frozen dataclass"),
    ],
)
def test_og009_a_class_that_is_no_node(tmp_path: Path, name: str, says: str) -> None:
    faults = graph_faults(tmp_path, nodes_only(ECHO + f'odd: {{uses: "@{name}"}}'))
    (fault,) = (fault for fault in faults if fault.path == "nodes.odd.uses")
    assert fault.code == FaultCode.NOT_A_NODE
    assert says in fault.message


def test_og010_an_input_that_is_no_payload(tmp_path: Path) -> None:
    for name, says in [
        ("TextDleta", "`TextDleta` is not a payload of omni_graph.payload (did you mean `TextDelta`?)"),
        ("Array", "`Array` is not a payload"),
        ("tests.core.toy_nodes:Echo", "Echo is not a payload: write it as @dataclass(frozen=True)"),
    ]:
        fault = only_fault(tmp_path, nodes_only(ECHO, inputs=f'{{question: "{name}"}}'))
        assert (fault.code, fault.path) == (FaultCode.UNKNOWN_PAYLOAD, "inputs.question.type")
        assert says in fault.message


def test_og018_a_node_called_gateway(tmp_path: Path) -> None:
    text = nodes_only('gateway: {uses: "@Echo", inputs: {text: question}}', "{out: gateway.said}")
    fault = only_fault(tmp_path, text)
    assert (fault.code, marked(fault)) == (FaultCode.RESERVED_NAME, "gateway")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("ehco.said", "`ehco.said`: the graph has no node `ehco` (did you mean `echo`?)"),
        ("qestion", "the graph has no input `qestion` (did you mean `question`?)"),
        ("echo", "`echo` is a node; name its port (known: `echo.said`)"),
        ("gateway.question", "the graph has no node `gateway`"),
    ],
)
def test_og006_a_source_that_is_not_there(tmp_path: Path, source: str, says: str) -> None:
    nodes = ECHO + f'again: {{uses: "@Echo", inputs: {{text: {source}}}}}'
    fault = only_fault(tmp_path, nodes_only(nodes, "{out: again.said, first: echo.said}"))
    assert (fault.code, fault.path, marked(fault)) == (FaultCode.UNKNOWN_NODE, "nodes.again.inputs.text", source)
    assert says in fault.message


def test_og006_an_output_that_is_not_there(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, nodes_only(ECHO, "{out: echo.said, more: ehco.said}"))
    assert (fault.code, fault.path) == (FaultCode.UNKNOWN_NODE, "outputs.more")
    fault = only_fault(tmp_path, nodes_only(ECHO, "{out: echo.said, more: question}"))
    assert "`question` is not `node.port`" in fault.message


def test_og007_a_port_that_is_not_there_is_shown_as_the_design_shows_it(tmp_path: Path) -> None:
    text = nodes_only(ECHO + 'again: {uses: "@Echo", inputs: {text: echo.sayd}}', "{out: again.said}")
    fault = only_fault(tmp_path, text)
    line = text.splitlines()[6]
    column = line.index("echo.sayd") + 1
    assert str(fault) == (
        f"{tmp_path}/graph.yaml:7:{column}: error[OG007]: nodes.again.inputs.text: "
        "`echo.sayd` is not a port of node `echo` (did you mean `echo.said`?)\n"
        f"    7 | {line}\n      | {' ' * (column - 1)}^^^^^^^^^"
    )


def test_og007_a_port_is_compared_without_its_node(tmp_path: Path) -> None:
    text = nodes_only('a_long_name: {uses: "@Split", inputs: {text: question}}', "{out: a_long_name.zzz}")
    message = only_fault(tmp_path, text).message
    assert message.endswith("(known: `a_long_name.left`, `a_long_name.right`)")


def test_og007_an_input_that_the_node_does_not_have(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, nodes_only(ECHO.replace("{text:", "{text: question, texd:")))
    assert (fault.code, marked(fault)) == (FaultCode.UNKNOWN_PORT, "texd")
    assert fault.message == "`texd` is not an input of node `echo` (did you mean `text`?)"


def test_og007_the_long_form_of_a_wire_points_at_its_source(tmp_path: Path) -> None:
    nodes = ECHO + 'again: {uses: "@Echo", inputs: {text: {from: echo.sayd, window: 2}}}'
    fault = only_fault(tmp_path, nodes_only(nodes, "{out: again.said}"))
    assert (fault.path, marked(fault)) == ("nodes.again.inputs.text", "echo.sayd")


def test_og011_both_types_are_named(tmp_path: Path) -> None:
    nodes = ECHO + 'speak: {uses: "@Speak", config: {rate: 1}, inputs: {text: echo.said}}\n'
    nodes += 'again: {uses: "@Echo", inputs: {text: speak.audio}}'
    fault = only_fault(tmp_path, nodes_only(nodes, "{out: again.said}"))
    assert (fault.code, marked(fault)) == (FaultCode.TYPES_DIFFER, "speak.audio")
    assert fault.message == "`speak.audio` sends AudioChunk, but `again.text` takes TextDelta"


def test_og011_types_of_one_name_are_told_with_their_modules(tmp_path: Path) -> None:
    own = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass TextDelta:\n    text: str\n"
    write(tmp_path, own, "own.py")
    fault = only_fault(tmp_path, nodes_only(ECHO, inputs='{question: "./own.py:TextDelta"}'))
    assert "_own.TextDelta, but `echo.text` takes omni_graph.payload.TextDelta" in fault.message


def test_og012_an_input_that_nothing_feeds(tmp_path: Path) -> None:
    nodes = ECHO + 'join: {uses: "@Join", inputs: {left: echo.said}}'
    fault = only_fault(tmp_path, nodes_only(nodes, "{out: join.said}"))
    assert (fault.code, fault.path, marked(fault)) == (FaultCode.NOT_FED, "nodes.join", "join")
    assert fault.message == "nothing feeds the input `right`, which takes TextDelta"


def test_og012_an_optional_wire_does_not_excuse_a_required_input(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, nodes_only('echo: {uses: "@Echo", inputs: {text: {from: no.said, optional: true}}}'))
    assert fault.code == FaultCode.NOT_FED


def test_og013_a_cycle_is_named_along_its_way(tmp_path: Path) -> None:
    nodes = ECHO + 'one: {uses: "@Join", inputs: {left: two.said, right: echo.said}}\n'
    nodes += 'two: {uses: "@Echo", inputs: {text: one.said}}\nself: {uses: "@Echo", inputs: {text: self.said}}'
    first, second = graph_faults(tmp_path, nodes_only(nodes, "{out: two.said, me: self.said}"))
    assert first.code == second.code == FaultCode.CYCLE
    assert "one -> two -> one form a cycle" in first.message
    assert "self -> self form a cycle" in second.message


def test_og014_an_output_that_nothing_arrives_at(tmp_path: Path) -> None:
    nodes = ECHO + 'listen: {uses: "@Listen"}'
    fault = only_fault(tmp_path, nodes_only(nodes, "{out: echo.said, more: listen.said}"))
    assert (fault.code, fault.path) == (FaultCode.UNREACHABLE_OUTPUT, "outputs.more")
    sources = 'clock: {uses: "@Clock"}\necho: {uses: "@Echo", inputs: {text: clock.tick}}'
    assert graph_faults(tmp_path, nodes_only(sources, inputs="{}")) == ()


def test_og015_a_node_that_no_output_needs(tmp_path: Path) -> None:
    nodes = ECHO + 'idle: {uses: "@Echo", inputs: {text: echo.said}}'
    fault = only_fault(tmp_path, nodes_only(nodes))
    assert (fault.code, marked(fault)) == (FaultCode.USELESS_NODE, "idle")


def test_og016_config_keys(tmp_path: Path) -> None:
    for config, says, under in [
        ("{rate: 1, voise: x}", "Speak takes no `voise` (did you mean `voice`?)", "voise"),
        ("{voice: x}", "Speak needs the config `rate`", "config"),
        ("{rate: 1, device: cpu}", "`device` is given by the framework", "device"),
        ("{rate: 1, kv_bytes: 1}", "`kv_bytes` is given by the framework", "kv_bytes"),
    ]:
        fault = only_fault(tmp_path, SPEECH.replace('{rate: "${rate}"}', config))
        assert (fault.code, marked(fault)) == (FaultCode.CONFIG_KEY, under)
        assert says in fault.message


def test_og016_a_constructor_that_takes_any_key_is_given_any(tmp_path: Path) -> None:
    nodes = 'echo: {uses: "@Anything", config: {a: 1, b: [x]}, inputs: {text: question}}'
    assert plan_of(tmp_path, nodes_only(nodes)).stages["echo"].config == {"a": 1, "b": ["x"]}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{rate: fast}", "`rate`: takes int, got 'fast' (str)"),
        ("{rate: true}", "`rate`: takes int, got True (bool)"),
        ("{rate: 1.5}", "`rate`: takes int, got 1.5 (float)"),
        ("{rate: 1, voice: 3}", "`voice`: takes str, got 3 (int)"),
        ("{rate: 1, mode: slow}", "`mode`: takes Literal['fast', 'exact'], got 'slow' (str)"),
        ("{rate: 1, steps: [1, x]}", "`steps`: takes Sequence[int], got [1, 'x'] (list)"),
        ("{rate: 1, price: 3}", "`price`: its type Decimal | None is none that a graph file can write"),
    ],
)
def test_og017_config_values(tmp_path: Path, config: str, says: str) -> None:
    fault = only_fault(tmp_path, SPEECH.replace('{rate: "${rate}"}', config))
    assert (fault.code, fault.message) == (FaultCode.CONFIG_VALUE, says)


# --- the rules of a deployment


def test_og019_a_stage_that_is_not_there(tmp_path: Path) -> None:
    (fault,) = deploy_faults(tmp_path, SPEECH, "stages: {speek: {replicas: 2}}")
    assert (fault.code, marked(fault)) == (FaultCode.UNKNOWN_STAGE, "speek")
    assert fault.message == "the graph has no node `speek` (did you mean `speak`?)"
    (fault,) = deploy_faults(tmp_path, SPEECH, "stages: {speak: {with: eco}}")
    assert (fault.path, marked(fault)) == ("stages.speak.with", "eco")


def test_og020_a_shared_stage_has_no_workers_of_its_own(tmp_path: Path) -> None:
    first, second = deploy_faults(
        tmp_path, SPEECH, "stages: {speak: {with: echo, replicas: 1, threads: 2, device: cpu}}"
    )
    assert first.code == second.code == FaultCode.SHARED_STAGE
    assert (first.path, second.path) == ("stages.speak.replicas", "stages.speak.threads")
    assert first.message == "`replicas` belongs to the workers of `echo`, where `speak` lives; set it there"


def test_og020_a_stage_does_not_live_with_one_that_has_no_workers(tmp_path: Path) -> None:
    deploy = "stages: {left: {with: right}, right: {with: join}, split: {with: split}}"
    first, second = deploy_faults(tmp_path, nodes_only(DIAMOND, DIAMOND_OUT), deploy)
    assert (first.path, second.path) == ("stages.left.with", "stages.split.with")
    assert "`right` has no workers of its own" in first.message


def test_og021_memory_is_refused_above_the_limit_and_not_at_it(tmp_path: Path) -> None:
    bound = plan_of(tmp_path, SPEECH).bound.in_flight
    assert plan_of(tmp_path, SPEECH, f"memory_limit: {bound}").bound.in_flight == bound
    (fault,) = deploy_faults(tmp_path, SPEECH, f"memory_limit: {bound - 1}")
    assert (fault.code, fault.path, marked(fault)) == (FaultCode.MEMORY, "memory_limit", str(bound - 1))
    assert "the largest part is speak.audio -> gateway.speech with 128 MiB" in fault.message


def test_faults_of_a_graph_and_of_its_deployment_come_together() -> None:
    nodes = {"echo": NodeSpec(uses="tests.core.toy_nodes:Echo", inputs={"text": Wire(source="nowhere")})}
    graph = Graph(GraphSpec(graph="g", outputs={"out": "echo.said"}, nodes=nodes))
    faults = faults_of(make_plan, graph, DeploySpec(stages={"other": StageSpec()}))
    assert [fault.code for fault in faults] == [FaultCode.UNKNOWN_NODE, FaultCode.UNKNOWN_STAGE]
    assert str(faults[0]) == "error[OG006]: nodes.echo.inputs.text: the graph has no input `nowhere` (known: `echo`)"


# --- the plan


def test_edges_are_numbered_in_the_order_of_the_file(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SPEECH)
    assert [(edge.number, edge.name, edge.type, edge.window) for edge in plan.edges] == [
        (0, "gateway.question -> echo.text", TextDelta, 64),
        (1, "echo.said -> speak.text", TextDelta, 64),
        (2, "echo.said -> gateway.text", TextDelta, 64),
        (3, "speak.audio -> gateway.speech", AudioChunk, 8),
    ]
    assert plan.inputs["question"].edges == (0,)
    assert plan.outputs == {"text": 2, "speech": 3}


def test_stages_are_in_topological_order_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    backwards = "\n".join(reversed(DIAMOND.strip().splitlines()))
    plan = plan_of(tmp_path, nodes_only(backwards, DIAMOND_OUT))
    assert tuple(plan.stages) == ("split", "right", "left", "join")
    assert plan.edges[0].name == "left.said -> join.left"


def test_a_stage_lives_where_the_deployment_says(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SPEECH, "stages: {speak: {with: echo, kv_bytes: 1KiB}, echo: {replicas: 3}}")
    assert (plan.stages["speak"].host, plan.stages["speak"].spec.kv_bytes) == ("echo", 1024)
    assert (plan.stages["echo"].host, plan.stages["echo"].spec.replicas) == ("echo", 3)
    assert plan.stages["speak"].node_class is toy_nodes.Speak


def test_only_what_the_asked_outputs_need(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SPEECH)
    assert plan.needed(["text"]) == ("echo",)
    assert plan.needed(["speech"]) == plan.needed(["speech", "text"]) == ("echo", "speak")
    (fault,) = faults_of(plan.needed, ["speach"])
    assert fault.message == "the graph has no output `speach` (did you mean `speech`?)"


def test_a_window_in_the_file_stands_above_the_payload_s(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SPEECH.replace("{text: echo.said}", "{text: {from: echo.said, window: 3}}"))
    assert [edge.window for edge in plan.edges] == [64, 3, 64, 8]


def test_the_bound_is_requests_times_window_times_packet(tmp_path: Path) -> None:
    bound = plan_of(tmp_path, nodes_only(DIAMOND, DIAMOND_OUT), "max_requests: 2").bound
    edge = 2 * 64 * (64 << 10)
    assert [row.total for row in bound.rows] == [edge] * 6
    assert bound.lookahead == 2 * 2 * 2 * (64 << 10)
    assert bound.gateway == 2 * ((4 << 20) + (64 << 10)), "a buffer, and the packet that filled it"
    assert bound.kept == 2 * ((64 << 20) + (1 << 20)), "inputs, and what a replay is compared with"
    assert bound.total == bound.kept + bound.in_flight == bound.kept + 6 * edge + bound.lookahead + bound.gateway


def test_every_fork_join_pair_is_told_with_its_arms(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, nodes_only(DIAMOND, DIAMOND_OUT))
    assert plan.joins == (ForkJoin("split", "join", ("left.said -> join.left", "right.said -> join.right")),)
    assert plan_of(tmp_path, SPEECH).joins == (
        ForkJoin("echo", GATEWAY, ("echo.said -> gateway.text", "speak.audio -> gateway.speech")),
    )


def test_notes_are_printed_and_refuse_nothing(tmp_path: Path) -> None:
    nodes = 'echo: {uses: "@Listen", inputs: {text: question, audio: {from: ear.audio, optional: true}}}'
    text = nodes_only(nodes, inputs="{question: TextDelta, spare: TextDelta}").replace(
        "inputs:", "parameters: {a: 1}\ninputs:", 1
    )
    assert plan_of(tmp_path, text, "max_requests: 40\nstages: {echo: {replicas: 2}}").notes == (
        "stage echo serves 2 x 16 = 32 requests at once, under max_requests 40",
        "no node reads the graph input spare",
        "no value refers to the parameter a",
        "echo.audio is left unwired: the graph has no ear.audio",
    )


def test_a_shared_stage_serves_as_many_requests_as_its_host(tmp_path: Path) -> None:
    deploy = "max_requests: 32\nstages: {speak: {with: echo}, echo: {replicas: 2}}"
    assert plan_of(tmp_path, SPEECH, deploy).notes == ()


def test_wiring_tells_graphs_apart_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wiring = plan_of(tmp_path, SPEECH).wiring
    assert len(wiring) == 64
    same = [SPEECH + "# a comment\n", SPEECH.replace("rate: 24000", "rate: 8000")]
    assert {plan_of(tmp_path, text, "launcher: ray").wiring for text in same} == {wiring}
    other = [
        SPEECH.replace("echo", "first"),
        SPEECH.replace("toy_nodes:Echo", "toy_nodes:MoreEcho"),
        SPEECH.replace("{text: echo.said}", "{text: {from: echo.said, window: 3}}"),
        SPEECH.replace("text: echo.said, speech", "words: echo.said, speech"),
    ]
    monkeypatch.setattr(toy_nodes, "MoreEcho", type("MoreEcho", (toy_nodes.Echo,), {}), raising=False)
    assert len({wiring, *(plan_of(tmp_path, text).wiring for text in other)}) == 5


def test_wiring_changes_with_the_fields_of_a_payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_with(*names: str) -> str:
        tick = make_dataclass("Tick", [(name, int) for name in names], frozen=True)
        monkeypatch.setattr(toy_nodes, "Ticker", type("Ticker", (toy_nodes.Clock,), {"tick": Out(tick)}), raising=False)
        return plan_of(tmp_path, nodes_only('clock: {uses: "@Ticker"}', "{out: clock.tick}", "{}")).wiring

    assert plan_with("count") == plan_with("count")
    assert len({plan_with("count"), plan_with("number"), plan_with("count", "total")}) == 3


def test_sizes_as_text() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 3 << 29, 17 << 40)] == ["0 B", "1023 B", "1 KiB", "1.5 GiB", "17 TiB"]
