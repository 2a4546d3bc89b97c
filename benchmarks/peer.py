"""A process of its own for what we are held against: asked by name over a pipe, in JSON, one question at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any

LEAVE_S = 10.0
Questions = Mapping[str, Callable[..., Any]]


class Peer:
    """A process that runs ``module:function(**arguments)``, which returns its questions: {name: function}.

    ``environment`` is set before torch is imported.
    """

    def __init__(self, maker: str, environment: Mapping[str, str], **arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        call = (theirs, maker, dict(environment), json.dumps(arguments))
        self._process = context.Process(target=_serve, args=call, name=maker, daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def __call__(self, question: str, **arguments: Any) -> Any:
        """Ask and wait. Raises RuntimeError when the process has died; it has then said why on stderr."""
        self._pipe.send_bytes(json.dumps([question, arguments]).encode())
        return self._answer()

    def _answer(self) -> Any:
        try:
            return json.loads(self._pipe.recv_bytes())
        except EOFError:
            raise RuntimeError(f"the process that a bench compares with has died: {self._process.name}") from None

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # it reads its end, and goes
        self._process.join(LEAVE_S)
        self._process.kill()
        self._process.join()


def _serve(pipe: Any, maker: str, environment: Mapping[str, str], arguments: str) -> None:
    os.environ.pop("OMP_WAIT_POLICY", None)
    os.environ.update(environment)
    module, _, name = maker.partition(":")
    questions: Questions = getattr(import_module(module), name)(**json.loads(arguments))
    pipe.send_bytes(b"null")
    while True:
        try:
            question, values = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(json.dumps(questions[question](**values)).encode())
