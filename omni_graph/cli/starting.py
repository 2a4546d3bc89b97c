"""What a person sees while stages load their weights: a line per replica, and on a terminal a spinner below them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import typer

from omni_graph.cli.terminal import console
from omni_graph.plan import Plan
from omni_graph.runtime.replica import STARTING, Change, State


@contextmanager
def starting(plan: Plan, outputs: Sequence[str]) -> Iterator[Callable[[Change], None]]:
    """Yields what ``launch`` calls, from any thread, with every Change. It never raises: who only watches breaks nothing."""
    stages = plan.needed(outputs)
    hosts = dict.fromkeys(plan.stages[name].host for name in stages)
    progress = _Progress({host: plan.deploy.stage(host).replicas for host in hosts}, len(stages))
    if not sys.stderr.isatty():
        yield _follower(progress, lambda line: typer.echo(line, err=True))
        typer.echo(progress.summary(), err=True)
        return
    screen = console(stderr=True)
    with screen.status(progress.text(), spinner="dots") as status:

        def show(line: str) -> None:
            screen.print(line, style="dim", markup=False, emoji=False)
            status.update(progress.text())

        yield _follower(progress, show)
    screen.print(progress.summary(), style="dim")


def _follower(progress: _Progress, show: Callable[[str], None]) -> Callable[[Change], None]:
    """Counts each Change and shows its line; not that of a failure, which ``launch`` tells, with its reason and its log."""

    def changed(change: Change) -> None:
        progress.note(change)
        if change.state is State.READY or change.state in STARTING:
            with suppress(OSError):  # nobody reads stderr any more; who writes to it next in the main thread says so
                show(f"{change.name.partition('.')[0]}: {change.state} {change.detail}".rstrip())

    return changed


class _Progress:
    """Whom we still wait for: replicas by stage."""

    def __init__(self, replicas: dict[str, int], stages: int) -> None:
        self._loading = replicas
        self._total = sum(replicas.values())
        self._stages = stages
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def note(self, change: Change) -> None:
        stage = change.name.partition("/")[0]
        with self._lock:
            if change.state is State.READY:
                self._loading[stage] -= 1

    def text(self) -> str:
        with self._lock:
            missing = [stage for stage, left in self._loading.items() if left > 0]
            ready = self._total - sum(max(0, left) for left in self._loading.values())
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        waits = f"; loading {missing[0]}{more}" if missing else ""
        return f"starting {self._stages} stages: {ready} of {self._total} replicas ready{waits}"

    def summary(self) -> str:
        return f"{self._stages} stages ready in {time.monotonic() - self._began:.1f} s"
