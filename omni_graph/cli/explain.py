"""``omni-graph explain``: what an error code means and how to mend it."""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="A code such as OG007, or a request's: overloaded.")],
) -> None:
    """Explain an error code."""
    from omni_graph.codes import FaultCode
    from omni_graph.errors import Code
    from omni_graph.explain import explanation, request_explanation
    from omni_graph.suggest import suggest

    if code.lower() in {str(known) for known in Code}:
        typer.echo(request_explanation(Code(code.lower())))
        return
    if code.upper() not in {str(known) for known in FaultCode}:
        raise typer.BadParameter(f"there is no error code `{code}`{suggest(code.upper(), FaultCode)}")
    typer.echo(explanation(FaultCode(code.upper())))
