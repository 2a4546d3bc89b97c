"""``start``: how long the commands that only look take to answer, against an interpreter that does nothing.

Each command is a fresh process, as a shell would start it. Beside the wall time: what it imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from benchmarks.command import Options
from benchmarks.measure import interleaved, seconds
from benchmarks.report import OURS, Goal, Of, Report, Series

BARE = "python -c pass"
COMMANDS = {"--help": ["--help"], "check": ["check", "qwen2_5_omni"], "draw": ["draw", "qwen2_5_omni"]}
HEAVY = ("torch", "ray", "transformers")
LISTING = """
import json, sys
sys.argv = ["omni-graph", *json.loads(sys.argv[1])]
from omni_graph.cli.main import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    rounds = 2 if options.quick else 21
    sides = {BARE: [sys.executable, "-c", "pass"]}
    sides |= {name: [sys.executable, "-m", "omni_graph.cli.main", *words] for name, words in COMMANDS.items()}
    walls = interleaved(rounds, {name: partial(_wall, words) for name, words in sides.items()})
    for name in COMMANDS:
        bare = Series(name, "wall_s", BARE, walls[BARE])
        report.compare(Series(name, "wall_s", OURS, walls[name]), bare, Goal(Of.MORE, at_most=0.3))
    nothing = _modules(
        [sys.executable, "-c", "import json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"]
    )
    for name, words in COMMANDS.items():
        loaded = _modules([sys.executable, "-c", LISTING, json.dumps(words)])
        report.compare(_one(name, "modules", OURS, len(loaded)), _one(name, "modules", BARE, len(nothing)))
        heavy = {module.partition(".")[0] for module in loaded} & set(HEAVY)
        report.alone(
            _one(name, "heavy_modules", OURS, len(heavy)),
            f"{', '.join(heavy) if heavy else 'none'} of {', '.join(HEAVY)}",
            Goal(Of.OURS, at_most=0),
        )


def _one(case: str, metric: str, of: str, value: float) -> Series:
    return Series(case, metric, of, ((value,),))


def _wall(words: list[str]) -> list[float]:
    return [seconds(lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True))]


def _modules(words: list[str]) -> list[str]:
    """The modules that a process says, on its last line of stderr, it has imported."""
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    names: list[str] = json.loads(ran.stderr.splitlines()[-1])
    return names
