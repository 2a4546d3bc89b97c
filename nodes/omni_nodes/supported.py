"""Which transformers the stages are held to. Another one may compute something else without a word, so it is refused."""

from __future__ import annotations

from importlib.metadata import version

from omni_graph.errors import OmniGraphError

TRANSFORMERS = "5.23."


class UnsupportedVersion(OmniGraphError):
    """An installed library is not one that the parity tests cover."""


def require_transformers(installed: str | None = None) -> None:
    """Raises UnsupportedVersion, with what to install, when transformers is another than the one the stages are held to."""
    seen = installed or version("transformers")
    if not seen.startswith(TRANSFORMERS):
        raise UnsupportedVersion(
            f"transformers {seen} is installed; supported: ~={TRANSFORMERS}0 (pip install 'transformers~={TRANSFORMERS}0')"
        )
