"""What an object still holds: a walk over everything that can be reached from it, to find what should be gone.

It does not enter modules, classes or the globals of functions: what is there belongs to nobody's request.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Collection, Iterable, Iterator
from typing import Any

_SHARED = (types.ModuleType, type, types.BuiltinFunctionType, types.CodeType, types.FrameType)


def holds(root: object, words: Collection[str], objects: Iterable[object]) -> str | None:
    """Where one of ``words`` (equal) or ``objects`` (identical) can be reached from ``root``; None when nowhere."""
    wanted = {id(one) for one in objects}
    seen = {id(root)}
    queue: list[tuple[object, str]] = [(root, type(root).__qualname__)]
    while queue:
        holder, path = queue.pop()
        for name, item in _parts(holder):
            if (type(item) is str and item in words) or id(item) in wanted:
                return f"{path}{name}: {item!r:.80}"
            if id(item) not in seen and not isinstance(item, (*_SHARED, str, bytes, int, float)):
                seen.add(id(item))
                queue.append((item, path + name))
    return None


def _parts(holder: Any) -> Iterator[tuple[str, object]]:
    """What ``holder`` refers to, each with how to write that."""
    if isinstance(holder, types.FunctionType):
        yield from ((f".{holder.__name__}()", cell) for cell in holder.__closure__ or ())
        return
    if isinstance(holder, dict):
        yield from ((f"[{key!r:.40}]", key) for key in holder)
        yield from ((f"[{key!r:.40}]", value) for key, value in holder.items())
        return
    attributes = vars(holder) if hasattr(holder, "__dict__") else {}
    named = {id(value): name for name, value in attributes.items()}
    for item in gc.get_referents(holder):
        if item is attributes:
            yield from ((f".{name}", value) for name, value in attributes.items())
        else:
            yield f".{named[id(item)]}" if id(item) in named else "[...]", item
