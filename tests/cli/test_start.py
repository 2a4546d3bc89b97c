"""Commands that only look at files start without the heavy packages, and work where those are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# what importing, --help, check, draw, explain and schema must work without
HEAVY = ("torch", "transformers", "ray", "zmq", "numpy", "opentelemetry", "asyncio")
ALWAYS_REFUSED = ("torch", "transformers", "ray", "zmq", "safetensors", "av", "soundfile", "soxr", "PIL")

RUN = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError("refused by the test: " + name, name=name)

sys.meta_path.insert(0, Refused())
from omni_graph.cli.main import main
sys.argv = ["omni-graph", *{arguments}]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
loaded = {heavy} & {{name.partition(".")[0] for name in sys.modules}}
assert not loaded, loaded
"""


def run(arguments: list[str], heavy: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    code = RUN.format(refused=set(ALWAYS_REFUSED), arguments=arguments, heavy=set(heavy))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", "--help"],
        ["explain", "OG007"],
        ["check", "qwen2_5_omni"],
        ["draw", "qwen2_5_omni"],
        ["schema"],
        ["schema", "--deploy"],
        ["nodes", "thinker"],
    ],
    ids=" ".join,
)
def test_no_heavy_package_is_imported(arguments: list[str]) -> None:
    ran = run(arguments, HEAVY)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_the_guard_itself_refuses(tmp_path_factory: pytest.TempPathFactory) -> None:
    node = tmp_path_factory.mktemp("node") / "heavy.py"
    node.write_text("import torch\n")
    ran = run(["nodes", f"{node}:Heavy"], HEAVY)
    assert ran.returncode == 1
    assert "needs torch: pip install 'omni-graph[models]'" in ran.stderr
