"""What a person sees while stages load: a spinner on a terminal, else a line per replica."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer

from omni_graph.plan import Plan
from omni_graph.runtime.replica import Change, State


@contextmanager
def starting(plan: Plan, outputs: Sequence[str]) -> Iterator[Callable[[Change], None]]:
    """Yields what ``launch`` calls with every Change."""
    stages = plan.needed(outputs)
    hosts = dict.fromkeys(plan.stages[name].host for name in stages)
    total = sum(plan.deploy.stage(host).replicas for host in hosts)
    progress = _Progress(total, len(stages))
    if not sys.stderr.isatty():
        yield progress.line
        typer.echo(progress.summary(), err=True)
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status(progress.text()) as status:

        def changed(change: Change) -> None:
            progress.note(change)
            status.update(progress.text())

        yield changed
    console.print(f"[dim]{progress.summary()}[/dim]")


class _Progress:
    """Who is ready so far."""

    def __init__(self, total: int, stages: int) -> None:
        self._total = total
        self._stages = stages
        self._began = time.monotonic()
        self._ready: list[str] = []
        self._lock = threading.Lock()

    def note(self, change: Change) -> None:
        with self._lock:
            if change.state is State.READY:
                self._ready.append(change.name.partition(".")[0])

    def line(self, change: Change) -> None:
        self.note(change)
        if change.state in (State.READY, State.FAILED):
            typer.echo(f"{change.name.partition('.')[0]}: {change.state}", err=True)

    def text(self) -> str:
        last = f", last {self._ready[-1]}" if self._ready else ""
        return f"starting {self._stages} stages: {len(self._ready)} of {self._total} replicas ready{last}"

    def summary(self) -> str:
        return f"{self._stages} stages ready in {time.monotonic() - self._began:.1f} s"
