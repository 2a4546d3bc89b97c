"""When whoever reads our output is slow, the graph waits: this says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from omni_graph.cli.sources import R, Serving
from omni_graph.errors import OmniGraphError


@contextmanager
def says_when_paused(app: Serving[R]) -> Iterator[None]:
    """Says it once a pause."""
    done = threading.Event()

    def watch() -> None:
        said = False
        while not done.wait(0.5):
            try:
                paused = app.paused > 0
                if paused and not said:
                    typer.echo("paused: waiting for the reader", err=True)
            except (OSError, OmniGraphError):  # nobody reads stderr, or the deployment has ended: nothing left to say
                return
            said = paused

    watcher = threading.Thread(target=watch, name="pauses", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
