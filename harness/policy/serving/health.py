"""`/health` and `/metrics` over HTTP: a few bytes read, one answer written, and the connection is closed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

SECONDS = 2.0
"""For a request to come, and for its answer to go."""
MOST = 32
"""Requests at once; those beyond are closed."""


async def serve_health(
    listening: socket.socket, state: Callable[[], tuple[bool, dict[str, Any]]], metrics: Callable[[], str]
) -> asyncio.Server:
    at_once = 0

    def answer(line: bytes) -> bytes:
        method, _, rest = line.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return response("405 Method Not Allowed", "text/plain", "GET alone\n", method)
        if path == b"/health":
            well, about = state()
            status = "200 OK" if well else "503 Service Unavailable"
            return response(status, "application/json", json.dumps(about) + "\n", method)
        if path == b"/metrics":
            return response("200 OK", "text/plain; version=0.0.4", metrics(), method)
        return response("404 Not Found", "text/plain", "there are /health and /metrics\n", method)

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once
        at_once += 1
        try:
            if at_once <= MOST:
                async with asyncio.timeout(SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(answer(head.partition(b"\r\n")[0]))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            at_once -= 1
            writer.close()

    return await asyncio.start_server(on_connection, sock=listening, limit=8192)


def response(status: str, kind: str, body: str, method: bytes) -> bytes:
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if method == b"HEAD" else content)
