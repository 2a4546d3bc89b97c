"""A graph or deploy file that is wrong is told with its place and all its faults at once; never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_graph.codes import FaultCode
from omni_graph.errors import GraphError
from omni_graph.load import load_deploy, load_graph
from omni_graph.reader import read_yaml
from omni_graph.spec import DeploySpec, GraphSpec, NodeSpec, Wire
from tests.core.toy_graphs import SPEECH, faults_of, graph_faults, nodes_only, only_fault, write


def test_a_sound_graph_is_its_spec(tmp_path: Path) -> None:
    graph = load_graph(write(tmp_path, SPEECH))
    built = GraphSpec(
        graph="speech",
        parameters={"rate": 24000},
        inputs={"question": "TextDelta"},
        outputs={"text": "echo.said", "speech": "speak.audio"},
        nodes={
            "echo": NodeSpec(uses="tests.core.toy_nodes:Echo", inputs={"text": Wire(source="question")}),
            "speak": NodeSpec(
                uses="tests.core.toy_nodes:Speak", config={"rate": 24000}, inputs={"text": Wire(source="echo.said")}
            ),
        },
    )
    assert graph.spec == built
    assert (graph.name, graph.folder, graph.unused) == ("speech", tmp_path, ())


def test_a_spec_survives_json() -> None:
    spec = GraphSpec.model_validate(
        {
            "graph": "g",
            "outputs": {"o": "a.b"},
            "nodes": {"a": {"uses": "m:C", "inputs": {"x": {"from": "i", "window": 2}}}},
        }
    )
    assert GraphSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "the file is not a mapping"),
        (b"a: 'x\n", "not YAML: while scanning a quoted scalar"),
        (b"a: 1\n---\nb: 2\n", "another document"),
        (b"a: \xff\xfe\n", "not UTF-8 text: byte 0xff at offset 3"),
        (b"a: \x01\n", "special characters are not allowed"),
        (b"x" * (1 << 20) + b"x", "over 1 MiB"),
        (b"[" * 200_000, "more than 256 brackets open at once"),
        (b"\n".join(b" " * n + b"a:" for n in range(40)), "more than 32 levels"),
        (b"\n".join(b" " * n + b"a:" for n in range(900)), "nested more than 32 levels"),
        (b"%YAML 1.1\n---\na: no\n", "directives"),
        (b"a: *nobody\n", "undefined alias"),
        (b"a: &a {b: *a}\n", "aliases expanded"),
    ],
)
def test_a_file_that_is_no_yaml_mapping(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "graph.yaml"
    path.write_bytes(content)
    for load in (load_graph, load_deploy):
        (fault,) = faults_of(load, path)
        assert (fault.code, fault.file) == (FaultCode.UNREADABLE, str(path))
        assert says in fault.message


def test_aliases_cannot_grow_a_small_file_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    fault = only_fault(tmp_path, "\n".join(lines))
    assert "aliases expanded" in fault.message


def test_a_missing_file_a_folder_and_a_missing_name(tmp_path: Path) -> None:
    (fault,) = faults_of(load_graph, tmp_path / "none.yaml")
    assert fault.message == "the file cannot be read: No such file or directory"
    (fault,) = faults_of(load_graph, tmp_path)
    assert fault.message == "the file cannot be read: Is a directory"
    (fault,) = faults_of(load_graph, "qwen2_5_omny")
    assert fault.message == "there is no file and no graph called `qwen2_5_omny` (did you mean `qwen2_5_omni`?)"


def test_yaml_is_1_2_and_text_stays_text(tmp_path: Path) -> None:
    data = read_yaml("a: no\nb: 2026-01-01\nc: 0x10\nd: 1:30\ne: null\nf: yes\ng: 1e3", "f").data
    assert data == {"a": "no", "b": "2026-01-01", "c": 16, "d": "1:30", "e": None, "f": "yes", "g": 1000.0}


def test_tags_merge_keys_and_keys_that_are_no_text_are_refused() -> None:
    document = read_yaml(
        "a: !!python/object:os.system x\nb: &b {c: 1}\nd: {<<: *b}\n1: x\n? [k]\n: v\ne: " + "9" * 5000, "f"
    )
    assert [(fault.line, fault.code) for fault in document.faults] == [
        (n, FaultCode.ILL_VALUE) for n in (1, 3, 4, 5, 7)
    ]
    assert document.data["a"] == "x"


def test_a_duplicate_key(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, SPEECH.replace("inputs: {text: question}", "inputs: {text: question, text: question}"))
    assert (fault.code, fault.path) == (FaultCode.DUPLICATE_KEY, "nodes.echo.inputs.text")
    assert fault.message == "`text` is written twice in this mapping, first in line 9"
    assert fault.source[fault.column - 1 :].startswith("text: question}")


def test_an_unknown_key_has_its_place_and_the_nearest_key(tmp_path: Path) -> None:
    fault = only_fault(
        tmp_path,
        SPEECH.replace("    config:", "    confg:")
        .replace("Speak", "Echo")
        .replace("speak.audio", "speak.said")
        .replace('{rate: "${rate}"}', "{}"),
    )
    assert str(fault) == (
        f"{tmp_path}/graph.yaml:12:5: error[OG003]: nodes.speak.confg: unknown key `confg` (did you mean `config`?)\n"
        "   12 |     confg: {}\n"
        "      |     ^^^^^"
    )


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("omni_graph/v1", "omni_graph/v2", "api_version", "should be 'omni_graph/v1', got 'omni_graph/v2' (str)"),
        ("graph: speech\n", "", "", "the key `graph` is missing"),
        ("graph: speech", "graph: 3", "graph", "should be a valid string, got 3 (int)"),
        ("echo", "9echo", "nodes.9echo", "`9echo` is not a name"),
        ("    uses: tests.core.toy_nodes:Speak\n", "", "nodes.speak", "the key `uses` is missing"),
        (
            "{text: question}",
            "{text: 3}",
            "nodes.echo.inputs.text",
            "should be `node.port`, the name of a graph input, or a mapping, got 3 (int)",
        ),
        ("{text: question}", "{text: {from: question, window: 0}}", "nodes.echo.inputs.text.window", "greater than 0"),
        (
            "question: TextDelta",
            "question: [a]",
            "inputs.question",
            "should be the name of a payload, or a mapping, got a list",
        ),
    ],
)
def test_an_ill_value_has_its_place_and_both_types(tmp_path: Path, old: str, new: str, path: str, says: str) -> None:
    fault = only_fault(tmp_path, SPEECH.replace(old, new))
    assert (fault.code, fault.path) == (FaultCode.ILL_VALUE, path)
    assert says in fault.message


def test_faults_of_every_kind_are_told_at_once(tmp_path: Path) -> None:
    text = """\
api_version: omni_graph/v1
graph: many
colour: red
parameters: {rate: 1}
inputs: {question: TextDelta}
outputs: {text: echo.said, speech: speak.audio, gone: nobody.said}
nodes:
  echo: {uses: "tests.core.toy_nodes:Echo", inputs: {text: question}, inputs: {}}
  speak: {uses: "tests.core.toy_nodes:Speak", config: {rat: "${rte}"}, inputs: {text: echo.sad}}
  broken: {uses: 3, inputs: {text: speak.text}}
"""
    faults = graph_faults(tmp_path, text)
    assert [fault.line for fault in faults] == sorted(fault.line for fault in faults)
    assert sorted(str(fault.code) for fault in faults) == [
        "OG002",
        "OG003",
        "OG004",
        "OG005",
        "OG006",
        "OG007",
        "OG016",
        "OG016",
    ]


def test_what_reads_a_broken_node_is_not_blamed(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, SPEECH.replace('uses: "tests.core.toy_nodes:Echo"', "uses: [x]"))
    assert fault.path == "nodes.echo.uses"


def test_parameters_keep_their_type_alone_and_are_text_inside_text(tmp_path: Path) -> None:
    text = SPEECH.replace('{rate: "${rate}"}', '{rate: "${rate}", voice: "v${rate}-${rate}"}')
    assert load_graph(write(tmp_path, text)).spec.nodes["speak"].config == {"rate": 24000, "voice": "v24000-24000"}
    assert (
        load_graph(write(tmp_path, text), parameters={"rate": 8000}).spec.nodes["speak"].config["voice"] == "v8000-8000"
    )


def test_settings_stand_above_parameters_and_those_above_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, SPEECH)
    for parameters, settings, rate in [(None, [], 24000), ({"rate": 1}, [], 1), ({"rate": 1}, ["rate=2"], 2)]:
        assert load_graph(path, parameters, settings).spec.nodes["speak"].config["rate"] == rate


def test_settings_reach_config_and_windows(tmp_path: Path) -> None:
    settings = ["nodes.speak.config.voice=high", "nodes.speak.config.steps=[1, 2]", "nodes.speak.inputs.text.window=3"]
    node = load_graph(write(tmp_path, SPEECH), settings=settings).spec.nodes["speak"]
    assert node.config == {"rate": 24000, "voice": "high", "steps": [1, 2]}
    assert node.inputs["text"] == Wire(source="echo.said", window=3)


def test_a_setting_of_a_text_parameter_stays_text(tmp_path: Path) -> None:
    text = SPEECH.replace("rate: 24000", "voice: low").replace('{rate: "${rate}"}', '{rate: 1, voice: "${voice}"}')
    graph = load_graph(write(tmp_path, text), settings=["voice=2026"])
    assert graph.spec.nodes["speak"].config["voice"] == "2026"


@pytest.mark.parametrize(
    ("setting", "code", "says"),
    [
        ("rat=1", FaultCode.UNKNOWN_PARAMETER, "the graph has no parameter `rat` (did you mean `rate`?)"),
        ("nodes.speek.config.rate=1", FaultCode.UNKNOWN_NODE, "`nodes` has no `speek` (did you mean `speak`?)"),
        ("nodes.speak.uses.x=1", FaultCode.ILL_VALUE, "`nodes.speak.uses` is not a mapping"),
        ("nodes.speak.confg.rate=1", FaultCode.UNKNOWN_KEY, "unknown key `confg` (did you mean `config`?)"),
        ("nodes.speak.config.rate=fast", FaultCode.CONFIG_VALUE, "`rate`: takes int, got 'fast' (str)"),
        ("rate", FaultCode.ILL_VALUE, "write it as KEY=VALUE"),
        ("=3", FaultCode.ILL_VALUE, "write it as KEY=VALUE"),
        ("nodes..x=3", FaultCode.ILL_VALUE, "write it as KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_told_as_it_was_written(tmp_path: Path, setting: str, code: FaultCode, says: str) -> None:
    fault = only_fault(tmp_path, SPEECH, settings=[setting])
    assert (fault.code, fault.file) == (code, f"--set {setting}")
    assert says in fault.message


def test_an_unknown_parameter(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, SPEECH, parameters={"ratte": 1})
    assert fault.message == "the graph has no parameter `ratte` (did you mean `rate`?)"
    fault = only_fault(tmp_path, SPEECH.replace("${rate}", "${rat}"))
    assert (fault.code, fault.path, fault.line) == (FaultCode.UNKNOWN_PARAMETER, "nodes.speak.config.rate", 12)
    fault = only_fault(tmp_path, SPEECH.replace("${rate}", "${rate"))
    assert "not closed" in fault.message


def test_a_value_given_for_a_parameter_is_never_substituted(tmp_path: Path) -> None:
    text = SPEECH.replace("rate: 24000", "voice: low").replace('{rate: "${rate}"}', '{rate: 1, voice: "${voice}"}')
    graph = load_graph(write(tmp_path, text), parameters={"voice": "${env:HOME}"}, environ={"HOME": "secret"})
    assert graph.spec.nodes["speak"].config["voice"] == "${env:HOME}"


def test_the_environment_is_what_the_caller_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE", "1")
    path = write(tmp_path, SPEECH.replace("rate: 24000", 'rate: "${env:RATE:-24000}"'))
    assert load_graph(path).spec.nodes["speak"].config["rate"] == 24000
    assert load_graph(path, environ={"RATE": "8000"}).spec.nodes["speak"].config["rate"] == 8000


def test_an_environment_variable_that_is_not_set(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, SPEECH.replace("${rate}", "${env:RATE}").replace("parameters:\n  rate: 24000\n", ""))
    assert (fault.code, fault.path) == (FaultCode.NO_ENVIRONMENT, "nodes.speak.config.rate")
    assert "the environment has no RATE" in fault.message


def test_a_default_may_not_refer_to_a_parameter(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, SPEECH.replace("rate: 24000", 'rate: 1\n  twice: "${rate}"'))
    assert (fault.code, fault.path) == (FaultCode.UNKNOWN_PARAMETER, "parameters.twice")


def test_a_deploy_file(tmp_path: Path) -> None:
    text = """\
api_version: omni_graph/v1
deploy: two
launcher: ray
max_requests: 64
memory_limit: 1.5GiB
limits: {audio_bytes: 1MB, deadline_s: 5}
stages:
  echo: {replicas: 2, gpu: 1, kv_bytes: 40GiB, labels: {pool: a}, env: {MKL_NUM_THREADS: "2"}}
  speak: {with: echo}
"""
    deploy = load_deploy(write(tmp_path, text))
    assert (deploy.launcher, deploy.max_requests, deploy.memory_limit) == ("ray", 64, 3 << 29)
    assert (deploy.limits.audio_bytes, deploy.limits.deadline_s, deploy.limits.images) == (1_000_000, 5.0, 16)
    assert (deploy.stage("echo").kv_bytes, deploy.stage("speak").with_) == (40 << 30, "echo")
    assert deploy.stage("unnamed").replicas == 1


@pytest.mark.parametrize(
    ("line", "path", "says"),
    [
        ("launcher: slurm", "launcher", "should be 'threads', 'processes' or 'ray', got 'slurm' (str)"),
        ("memory_limit: 16 gigs", "memory_limit", "'16 gigs' is not a size"),
        ("memory_limit: -1", "memory_limit", "greater than or equal to 0"),
        ("max_requests: '4'", "max_requests", "should be a valid integer, got '4' (str)"),
        ("stages: {a: {device: cdua}}", "stages.a.device", "should match pattern"),
        ("stages: {a: {env: {A: 2}}}", "stages.a.env.A", "should be a valid string, got 2 (int)"),
        ("stages: {a: {replica: 2}}", "stages.a.replica", "unknown key `replica` (did you mean `replicas`?)"),
        ("stages: {a: {wiht: b}}", "stages.a.wiht", "unknown key `wiht` (did you mean `with`?)"),
        ("limits: {image: 2}", "limits.image", "unknown key `image` (did you mean `images`?)"),
    ],
)
def test_a_wrong_deploy_file(tmp_path: Path, line: str, path: str, says: str) -> None:
    (fault,) = faults_of(load_deploy, write(tmp_path, f"api_version: omni_graph/v1\ndeploy: d\n{line}\n"))
    assert (fault.path, fault.line) == (path, 3)
    assert says in fault.message


def test_defaults_of_a_deployment() -> None:
    deploy = DeploySpec()
    assert (deploy.launcher, deploy.max_requests, deploy.queue, deploy.retries) == ("threads", 16, 64, 2)
    assert (deploy.memory_limit, deploy.stage("x").streams, deploy.stage("x").max_step_s) == (16 << 30, 16, 30.0)


@given(st.text(st.sampled_from("abc:{}[],&*!%#|>\"' \n\t-?${}<1."), max_size=60) | st.text(max_size=30))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    try:
        document = read_yaml(text, "any")
    except GraphError as error:
        assert error.faults
    else:
        assert isinstance(document.data, dict)


@given(
    place=st.sampled_from(["api_version", "graph", "parameters", "inputs", "outputs", "nodes", "extra"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("ab.${}", max_size=6),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", min_size=1, max_size=4), inner, max_size=2)
        ),
        max_leaves=6,
    ),
)
def test_no_value_makes_the_loader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: object
) -> None:
    import json

    folder = tmp_path_factory.getbasetemp()
    lines = dict(line.split(": ", 1) for line in nodes_only("echo: {}").splitlines()[:4])
    lines["nodes"] = '{echo: {uses: "tests.core.toy_nodes:Echo", inputs: {text: question}}}'
    lines[place] = json.dumps(value)
    try:
        load_graph(write(folder, "\n".join(f"{name}: {text}" for name, text in lines.items())))
    except GraphError as error:
        assert error.faults
