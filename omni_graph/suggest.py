"""What a person probably meant: the nearest known name, or the known names where none is near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 10


def suggest(name: str, known: Iterable[str], shown: str = "{}") -> str:
    """`` (did you mean `x`?)``, else `` (known: `a`, `b`)``, else nothing; ready to stand behind a sentence.

    Names are compared as they are and written as ``shown``, such as ``thinker.{}``.
    """
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f" (did you mean `{shown.format(near[0])}`?)"
    if not names or len(names) > SHOWN:
        return ""
    return f" (known: {', '.join(f'`{shown.format(item)}`' for item in names)})"
