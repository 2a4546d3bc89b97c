"""What each fault code means, how to mend it, and an example. A table; ``codes`` has the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill

from omni_graph.codes import FaultCode
from omni_graph.errors import RETRYABLE, Code

WIDTH = 96


@dataclass(frozen=True, slots=True)
class Explanation:
    """``meaning`` and ``mend`` are sentences; ``example`` shows the fault, then what to write instead."""

    title: str
    meaning: str
    mend: str
    example: str


def explanation(code: FaultCode) -> str:
    """The text of ``omni-graph explain``."""
    found = EXPLANATIONS[code]
    example = "\n".join(f"    {line}" for line in found.example.splitlines())
    meaning, mend = fill(found.meaning, WIDTH), fill(f"To mend it: {found.mend}", WIDTH)
    return f"{code}: {found.title}\n\n{meaning}\n\n{mend}\n\n{example}"


EXPLANATIONS: dict[FaultCode, Explanation] = {
    FaultCode.UNREADABLE: Explanation(
        "the file cannot be read",
        "There is no such file or packaged graph, or it is not one UTF-8 YAML 1.2 mapping of at most 1 MiB.",
        "check the path. For a YAML error, look at the line and at the one before it: a bracket, brace or quote is "
        "often left open there.",
        "outputs: {text: thinker.text        # the brace is not closed\noutputs: {text: thinker.text}",
    ),
    FaultCode.DUPLICATE_KEY: Explanation(
        "a key is written twice",
        "Of two equal keys most YAML readers keep the last without a word; here it is an error. It is also how an "
        "input port would be fed twice.",
        "remove one of the two. To merge two streams, write a node with two input ports.",
        "inputs: {text: a.text, text: b.text}\ninputs: {first: a.text, second: b.text}",
    ),
    FaultCode.UNKNOWN_KEY: Explanation(
        "a key that the format does not have",
        "Unknown keys are never ignored: most are typing errors.",
        "take the suggested key, or see `omni-graph schema` for all keys. What a node's constructor takes goes under "
        "`config`.",
        "codec: {uses: ..., widow: 4}\ncodec: {uses: ..., config: {window: 4}}",
    ),
    FaultCode.ILL_VALUE: Explanation(
        "a value of the wrong type or form, or a key that is missing",
        'The value does not have the type that this key takes. Nothing is converted: `"4"` is text, 4 is a number. '
        "A whole number of bytes may be written as 16GiB.",
        "write the type that the message names.",
        'max_requests: "64"\nmax_requests: 64',
    ),
    FaultCode.UNKNOWN_PARAMETER: Explanation(
        "a parameter that the graph does not declare",
        "`${name}` and `--set name=value` refer to a key under `parameters`. A parameter's own default may refer to "
        "the environment, not to another parameter.",
        "declare it, with a default, or mend the name.",
        'config: {checkpoint: "${chekpoint}"}\nparameters: {checkpoint: tiny}\nconfig: {checkpoint: "${checkpoint}"}',
    ),
    FaultCode.UNKNOWN_NODE: Explanation(
        "a name that the graph does not have",
        "A wire comes from `node.port`, or from a graph input, which is a name without a dot. An output of the graph "
        "is always a `node.port`.",
        "take the suggested name, or add the node or the input.",
        "inputs: {prompt: interleavr.prompt}\ninputs: {prompt: interleaver.prompt}",
    ),
    FaultCode.UNKNOWN_PORT: Explanation(
        "a port that the node does not have",
        "Ports are the In and Out attributes of the node's class. A wire leaves an Out and enters an In; the key under "
        "`inputs` is the In of the node that reads.",
        "take the suggested port; `omni-graph nodes NODE` lists them.",
        "inputs: {thought: thinker.hiden}\ninputs: {thought: thinker.thought}",
    ),
    FaultCode.NOT_IMPORTABLE: Explanation(
        "the node's class cannot be imported",
        "`uses` is `package.module:Class` on the Python path, or `./file.py:Class` beside the graph file. The module "
        "is imported to read its ports; the message has what it raised, and where.",
        "mend the path, or what the module raises. Where a package is missing, install it; heavy imports belong in "
        "the constructor, so that a graph can be checked without them.",
        "uses: loudness.py:Loudness\nuses: ./loudness.py:Loudness",
    ),
    FaultCode.NOT_A_NODE: Explanation(
        "the class is not a node",
        "A node has the methods open, step and close, at least one port, and, if it takes parameters per request, a "
        "Params that is a frozen dataclass.",
        "derive it from MapNode or StreamNode, or write the methods that are missing.",
        "class Loudness: ...\nclass Loudness(MapNode): ...",
    ),
    FaultCode.UNKNOWN_PAYLOAD: Explanation(
        "the type of a graph input is no payload",
        "A graph input has a payload's name: one of omni_graph.payload, or a class as in `uses`. A payload is a frozen "
        "dataclass of Array, str, int, float, bool, bytes and tuples of them.",
        "take the suggested name, or write `@dataclass(frozen=True)` over the class.",
        "inputs: {question: Text}\ninputs: {question: TextDelta}",
    ),
    FaultCode.TYPES_DIFFER: Explanation(
        "the two ends of a wire carry different types",
        "An output port may feed an input port only where both name the same payload class. Two classes of the same "
        "name from different modules are different.",
        "wire the port that has the type, or put a node between them that turns the one into the other.",
        "codes: talker.text      # sends TextDelta, takes Codes\ncodes: talker.codes",
    ),
    FaultCode.NOT_FED: Explanation(
        "an input port that nothing feeds",
        "Every In of a node is fed by exactly one wire, unless its class says `In(..., optional=True)`.",
        "wire it under the node's `inputs`.",
        "talker: {uses: ..., inputs: {thought: thinker.thought}}\n"
        "talker: {uses: ..., inputs: {prompt: thinker.states, thought: thinker.thought}}",
    ),
    FaultCode.CYCLE: Explanation(
        "nodes that feed each other",
        "The graph is acyclic. A loop at the rate of tokens across processes is the slowest mistake there is, and "
        "one that waits for its own credit stands still for ever.",
        "put the loop inside one node, as the Talker holds its code predictor.",
        "a: {inputs: {x: b.y}}\nb: {inputs: {y: a.x}}",
    ),
    FaultCode.UNREACHABLE_OUTPUT: Explanation(
        "an output that nothing can arrive at",
        "No graph input, and no node without input ports, leads to this output: its stream would end empty for every "
        "request.",
        "wire the optional inputs of the nodes before it.",
        "outputs: {speech: voice.audio}\nnodes: {voice: {uses: ..., inputs: {}}}",
    ),
    FaultCode.USELESS_NODE: Explanation(
        "a node that no output needs",
        "No path leads from this node to an output of the graph, so it would be started and never used.",
        "remove it, or name one of its ports under `outputs`.",
        "outputs: {text: thinker.text}                # and a node `talker`\n"
        "outputs: {text: thinker.text, codes: talker.codes}",
    ),
    FaultCode.CONFIG_KEY: Explanation(
        "a `config` key that the constructor does not take, or one it needs",
        "`config` is the keyword arguments of the node's constructor. `device` and `kv_bytes` come from the deploy "
        "file: they say where a stage lives, not what it computes.",
        "take the suggested key; `omni-graph nodes NODE` lists them.",
        "config: {max_bacth: 4}\nconfig: {max_batch: 4}",
    ),
    FaultCode.CONFIG_VALUE: Explanation(
        "a `config` value of the wrong type",
        "The value does not have the type that the constructor declares. Nothing is converted.",
        "write the type that the message names; without quotes a number is a number.",
        'config: {max_batch: "4"}\nconfig: {max_batch: 4}',
    ),
    FaultCode.RESERVED_NAME: Explanation(
        "a node with a reserved name",
        "`gateway` is the graph's own end: it writes the inputs and reads the outputs.",
        "give the node another name.",
        "nodes: {gateway: {...}}\nnodes: {entry: {...}}",
    ),
    FaultCode.UNKNOWN_STAGE: Explanation(
        "a stage that the graph does not have",
        "Every key under `stages`, and every `with:`, is the name of a node of the graph.",
        "take the suggested name, or remove the stage.",
        "stages: {thinkr: {replicas: 2}}\nstages: {thinker: {replicas: 2}}",
    ),
    FaultCode.SHARED_STAGE: Explanation(
        "a stage that shares workers and asks for its own",
        "A stage `with:` another lives in the other's workers: it has no replicas, threads or reservations, and the "
        "other must have workers of its own.",
        "set those keys on the stage that has the workers. `device` and `kv_bytes` are the node's and may stay.",
        "interleaver: {with: thinker, replicas: 2}\nthinker: {replicas: 2}\ninterleaver: {with: thinker}",
    ),
    FaultCode.MEMORY: Explanation(
        "packets in flight could take more memory than allowed",
        "At most max_requests x window x largest packet is in flight on an edge; summed over the edges, with what "
        "nodes take ahead and what is buffered for clients, it is over `memory_limit`. `omni-graph check` prints each "
        "edge.",
        "lower max_requests or the window of the largest edge, or raise memory_limit.",
        "max_requests: 4096\nmax_requests: 64",
    ),
    FaultCode.NO_ENVIRONMENT: Explanation(
        "an environment variable that is not set",
        "`${env:NAME}` has no default and NAME is not in the environment. In Python, `load_graph` reads only the "
        "`environ` it is given.",
        "set it, or give a default.",
        'config: {checkpoint: "${env:CHECKPOINT}"}\nconfig: {checkpoint: "${env:CHECKPOINT:-tiny}"}',
    ),
}


def request_explanation(code: Code) -> str:
    """The text of ``omni-graph explain`` for a code with which a request ends."""
    meaning, mend = REQUEST_CODES[code]
    again = "Trying again may help." if code in RETRYABLE else "The same request would end the same way."
    return f"{code}\n\n{fill(f'{meaning} {again}', WIDTH)}\n\n{fill(f'What to do: {mend}', WIDTH)}"


REQUEST_CODES: dict[Code, tuple[str, str]] = {
    Code.INVALID_INPUT: (
        "The request itself is wrong: an input, a parameter, a medium, or a prompt past the context.",
        "the message names the place and what is allowed; limits are in the deploy file under `limits`.",
    ),
    Code.NODE_FAILED: (
        "A stage's code raised an error while it worked for this request; other requests went on.",
        "the message has the error and the line that raised it; the traceback is in the stage's log and in `.detail`.",
    ),
    Code.NUMERIC: ("A stage computed a NaN or an infinity for this request.", "try float32 for the stage named."),
    Code.LINK_LOST: (
        "A connection between two replicas broke, and the retries were used up.",
        "look at the network between the hosts of the two replicas named, and at `retries` in the deploy file.",
    ),
    Code.REPLICA_DIED: (
        "A replica's process ended in the middle of the request, and the retries were used up.",
        "`status --json` says how it ended (`last_end`; `oom`: out of memory), and the stage's log what came before.",
    ),
    Code.STUCK: (
        "A stage stayed in one step for longer than its `max_step_s`.",
        "raise `max_step_s` in the deploy file if the step is that long by nature, else look at what it waits for.",
    ),
    Code.WEDGED: (
        "Nothing could move any more: every stage idle, and the edges named without room.",
        "a node that feeds two arms of a join must serve each arm on demand; see `check`'s list of fork-join pairs.",
    ),
    Code.POISON: (
        "The request took down the replica that served it alone, after it had taken down one in company.",
        "keep the request: it is the way to reproduce a crash of the stage named.",
    ),
    Code.PROTOCOL: ("A peer broke the link protocol.", "do not mix replicas of different versions; else report it."),
    Code.DIVERGED: (
        "A replay said something else than the client already has, so the request was ended rather than mixed.",
        "a node whose output depends on time, order or its batch must `choose` that; see docs/write-a-node.md.",
    ),
    Code.DRAINED: ("The replica was drained before the request was complete.", "send it again."),
    Code.UNAVAILABLE: (
        "The stage named has no live replica, or was not started.",
        "`status` shows its replicas; while a stage keeps dying nothing is started for 30 s.",
    ),
    Code.OVERLOADED: (
        "All slots of the stage named are taken and the queue is full.",
        "wait `retry_after_s`, add replicas of that stage, or raise `streams`, `max_requests` or `queue`.",
    ),
    Code.CANCELLED: ("The caller cancelled the request.", "nothing; every stage has forgotten it."),
    Code.DEADLINE_EXCEEDED: (
        "The request was not complete when its time was over.",
        "give it more (`deadline_s`), or look in the waterfall for the stage that took it.",
    ),
    Code.CLOSED: ("The deployment was closed while the request ran.", "send it to a running one."),
}
