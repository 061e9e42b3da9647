"""Serve an application until a signal says stop: then take nothing more, and answer what was taken."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import uvicorn

from vanilla_transformer.deployment.request_batching import RequestBatches

# Longer than proxies keep a connection they may use again (60 s is common): who closes first must not be the service, or a
# request that is sent at that moment is lost. uvicorn's own 5 s lost one of 5,000 under load.
KEEP_ALIVE = 75
LAST_WORDS = 2  # seconds for answers on their way, when all are made


class HttpServer(uvicorn.Server):
    """uvicorn, which on SIGTERM or SIGINT waits for the requests in `batches`, but not for open browser tabs.

    A page's tab keeps a connection open as long as it is there; waiting for it would be waiting for nothing.

    Args:
        app: the ASGI application.
        batches: what must be finished before the end.
        shutdown_seconds: how long to wait for that. A second Ctrl-C ends the waiting.
    """

    def __init__(self, app: Any, batches: RequestBatches, shutdown_seconds: float):
        # No access log: who asked what is nobody's business. What fails is told on stderr.
        config = uvicorn.Config(
            app, log_level="error", access_log=False, timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=LAST_WORDS
        )
        super().__init__(config)
        self.batches, self.shutdown_seconds, self.given_up = batches, shutdown_seconds, 0

    def serve_until_stopped(self, listening: socket.socket) -> int:
        """Returns how many requests were given up: 0, unless they took longer than `shutdown_seconds`."""
        # uvicorn raises the signal that stopped it once more, at the end, for handlers of before; to stop is no failure.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.given_up

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self.batches.stop_taking()
        end = asyncio.get_running_loop().time() + self.shutdown_seconds
        while self.batches.unfinished and asyncio.get_running_loop().time() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        self.given_up = self.batches.unfinished
        await super().shutdown(sockets)
