"""Names in a graph file -> classes: ``package.module:Class``, ``./file.py:Class``, or a payload of this package.

A file is loaded once per process under a name made of its path, so a class is the same object wherever it is named.
A graph is trusted code: importing a node's module runs it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import threading
import traceback
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

from omni_graph import payload
from omni_graph.codes import FaultCode
from omni_graph.errors import Fault, GraphError, NodeError
from omni_graph.suggest import suggest

MODULE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "safetensors", "jinja2", "av", "soundfile", "soxr", "PIL"), "models"),
    "ray": "ray",
}
_loading = threading.Lock()


def node_class(uses: str, folder: Path) -> type:
    """The class that ``uses`` names; a file is relative to ``folder``. Raises GraphError (OG008) with the reason."""
    module_name, colon, class_name = uses.rpartition(":")
    if not colon or not class_name.isidentifier():
        raise _fault(f"`{uses}` is not `package.module:Class` or `./file.py:Class`")
    module = _file_module(module_name, folder) if module_name.endswith(".py") else _module(module_name)
    found = getattr(module, class_name, None)
    if isinstance(found, type):
        return found
    if found is not None:
        raise _fault(f"`{uses}` is a {type(found).__name__}, not a class")
    classes = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    raise _fault(f"`{module_name}` has no class `{class_name}`{suggest(class_name, classes)}")


def payload_class(name: str, folder: Path) -> type:
    """The payload that ``name`` names: a class of ``omni_graph.payload``, or as in ``node_class``. Raises GraphError."""
    try:
        found = node_class(name, folder) if ":" in name else _known_payload(name)
        payload.payload_fields(found)
    except (GraphError, NodeError, NameError) as error:
        reason = error.faults[0].message if isinstance(error, GraphError) else str(error)
        raise GraphError([Fault(FaultCode.UNKNOWN_PAYLOAD, reason)]) from None
    return found


def _known_payload(name: str) -> type:
    known = {
        key: value
        for key, value in vars(payload).items()
        if isinstance(value, type) and is_dataclass(value) and value is not payload.Array
    }
    if name not in known:
        raise _fault(f"`{name}` is not a payload of omni_graph.payload{suggest(name, known)}")
    return known[name]


def _module(name: str) -> ModuleType:
    if not MODULE.match(name):
        raise _fault(f"`{name}` is neither a module such as `package.module` nor a file such as `./file.py`")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _fault(f"there is no module `{error.name}` on the path") from None
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _file_module(name: str, folder: Path) -> ModuleType:
    path = (folder / name).resolve()
    if not path.is_file():
        raise _fault(f"there is no file `{name}` beside the graph (looked for {path})")
    unique = f"omni_graph_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    with _loading:
        return sys.modules.get(unique) or _execute(unique, path, name)


def _execute(unique: str, path: Path, shown: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[unique]
        raise _failed(shown, error) from error
    return module


def missing_extra(error: BaseException) -> str:
    """What to install for a module that is not there: ``pip install 'omni-graph[models]'``; empty where we do not know."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return f"pip install 'omni-graph[{EXTRAS[missing]}]'" if missing in EXTRAS else ""


def _failed(name: str, error: BaseException) -> GraphError:
    if missing_extra(error):
        missing = str(getattr(error, "name", "")).partition(".")[0]
        return _fault(f"importing `{name}` needs {missing}: {missing_extra(error)}")
    where = _where(error)
    return _fault(f"importing `{name}` failed{where}: {type(error).__name__}: {error}")


def _where(error: BaseException) -> str:
    """The line of user code that raised: the last one that is not the import system's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    outside = [frame for frame in frames if frame.filename != __file__]
    return f" at {Path(outside[-1].filename).name}:{outside[-1].lineno}" if outside else ""


def _fault(message: str) -> GraphError:
    return GraphError([Fault(FaultCode.NOT_IMPORTABLE, message)])
