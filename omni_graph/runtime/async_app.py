"""The same graph from asyncio: ``alaunch``, ``arun``, ``astream``. asyncio lives here, at the edge, and nowhere below."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from omni_graph.graph import Graph
from omni_graph.runtime.app import App, Handle, PacketEvent, Params, Result, launch
from omni_graph.runtime.handle import BEHIND_POLL_S
from omni_graph.runtime.replicas import OnChange
from omni_graph.spec import DeploySpec


class AsyncHandle:
    """A Handle whose waits are awaits: its inputs are written in one task, its packets read in another, or later."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    async def write(self, name: str, packet: Any) -> None:
        """See Handle.write. No thread is held while it waits."""
        behind = await asyncio.to_thread(self.handle.put, name, packet)
        while behind:
            await asyncio.sleep(BEHIND_POLL_S)
            behind = await asyncio.to_thread(self.handle.behind, name, packet)

    def end(self, name: str) -> None:
        """See Handle.end."""
        self.handle.end(name)

    def cancel(self) -> None:
        """See Handle.cancel."""
        self.handle.cancel()

    def __aiter__(self) -> AsyncIterator[PacketEvent]:
        """Packets in order of arrival; see Handle. Leaving the loop early does not cancel the request."""
        return events(self.handle)


class AsyncApp:
    """An App whose waits are awaits. ``app`` is the App itself, for ``status`` and the rest."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def arun(
        self,
        inputs: Mapping[str, Any],
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        folder: Path | None = None,
        session: str | None = None,
    ) -> Result:
        """One request, whole; see App.run. Cancelling the task cancels the request."""
        handle = await asyncio.to_thread(self.app.start, inputs, outputs, params, seed, deadline_s, folder, session)
        try:
            return await asyncio.to_thread(self.app.collect, handle)
        finally:
            handle.cancel()

    async def astream(
        self,
        inputs: Mapping[str, Any],
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        folder: Path | None = None,
        session: str | None = None,
    ) -> AsyncIterator[PacketEvent]:
        """Packets as they arrive. Leaving the loop, or cancelling the task, cancels the request."""
        handle = await asyncio.to_thread(self.app.start, inputs, outputs, params, seed, deadline_s, folder, session)
        try:
            async for event in events(handle):
                yield event
        finally:
            handle.cancel()

    async def aopen(
        self,
        outputs: Iterable[str] | None = None,
        params: Params | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        session: str | None = None,
        inputs: Iterable[str] | None = None,
    ) -> AsyncHandle:
        """A request whose inputs are written piece by piece; see App.open."""
        return AsyncHandle(await asyncio.to_thread(self.app.open, outputs, params, seed, deadline_s, session, inputs))

    async def ascale(self, stage: str, replicas: int) -> None:
        """See App.scale."""
        await asyncio.to_thread(self.app.scale, stage, replicas)

    async def adrain(self, stage: str, replica: int | None = None) -> None:
        """See App.drain."""
        await asyncio.to_thread(self.app.drain, stage, replica)

    async def areplace(self, stage: str, config: Mapping[str, Any]) -> None:
        """See App.replace."""
        await asyncio.to_thread(self.app.replace, stage, config)

    async def aclose(self, drain_s: float = 0.0) -> None:
        """End everything; see App.close."""
        await asyncio.to_thread(self.app.close, drain_s)

    async def __aenter__(self) -> AsyncApp:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def events(handle: Handle) -> AsyncIterator[PacketEvent]:
    """The handle's packets, without a thread that waits for them."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(arrived.set)

    handle.on_arrival(wake)
    try:
        while not handle.ended:
            arrived.clear()
            while (event := handle.next_now()) is not None:
                yield event
            if not handle.ended:
                await arrived.wait()
    finally:
        handle.on_arrival(None)


class _Launching:
    """``async with alaunch(...)``, or ``await alaunch(...)``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args, self._kwargs = args, kwargs
        self._app: AsyncApp | None = None

    async def _launch(self) -> AsyncApp:
        self._app = AsyncApp(await asyncio.to_thread(launch, *self._args, **self._kwargs))
        return self._app

    def __await__(self) -> Any:
        return self._launch().__await__()

    async def __aenter__(self) -> AsyncApp:
        return await self._launch()

    async def __aexit__(self, *exc: object) -> None:
        assert self._app is not None
        await self._app.aclose()


def alaunch(
    graph: Graph,
    deploy: DeploySpec | None = None,
    launcher: str | None = None,
    *,
    outputs: Iterable[str] | None = None,
    on_change: OnChange | None = None,
    log_level: str = "INFO",
) -> _Launching:
    """``launch`` for asyncio: ``async with og.alaunch(graph) as app: await app.arun(...)``."""
    return _Launching(graph, deploy, launcher, outputs=outputs, on_change=on_change, log_level=log_level)
