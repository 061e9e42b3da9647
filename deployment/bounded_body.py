"""A body that is too long, or never ends, is answered before it fills the memory."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import HTTPException


class BoundedBody:
    """ASGI middleware for every path below it, pages of others included.

    Args:
        app: the ASGI application.
        max_bytes: of a body; more is answered with 413.
        seconds: from the request's head to the end of its body; more is answered with 408.
    """

    def __init__(self, app: Any, max_bytes: int, seconds: float):
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, complete = 0, False
        end = asyncio.get_running_loop().time() + self.seconds

        async def bounded_receive() -> Any:
            nonlocal received, complete
            if complete:  # what comes now is the news that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {self.seconds:g} seconds") from None
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, f"the body has more than {self.max_bytes:,} bytes; send less at a time")
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, bounded_receive, send)
