"""Clients that take their time: silent, dripping, flooding, not reading; each is cut, and the others are answered."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from service.patience import Patience, bounded

QUICK = Patience(
    header_seconds=0.5, body_seconds=0.5, body_rate=1000, answer_seconds=0.5, header_bytes=4096, connections=8
)
LARGE = 64 * 1024 * 1024


async def _app(scope, receive, send):
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    answer = b"x" * LARGE if scope["path"] == "/large" else b"%d" % len(body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[int, list[str]]]:
    cut: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(_app, http=bounded(QUICK, cut.append), ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1], cut
    finally:
        server.should_exit = server.force_exit = True
        await running
        listener.close()


@asynccontextmanager
async def client(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _until_closed(reader: asyncio.StreamReader, seconds: float = 10) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), seconds)
    return b""


async def _answer(port: int, request: bytes) -> bytes:
    async with client(port) as (reader, writer):
        writer.write(request)
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)


async def test_a_silent_connection_is_closed_without_a_word() -> None:
    async with serving() as (port, cut):
        async with client(port) as (reader, _writer):
            assert await _until_closed(reader) == b""
        assert cut == ["headers_slow"]


async def test_dripped_headers_end_at_the_deadline_however_often_a_byte_comes() -> None:
    async with serving() as (port, cut):
        async with client(port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\n")
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof() and time.monotonic() - began < 5:
                    writer.write(b"a: b\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.05)
                    if cut:
                        break
            assert b"408" in await _until_closed(reader)
        assert cut == ["headers_slow"]


async def test_a_dripped_body_is_cut_and_a_slow_but_steady_one_is_not() -> None:
    async with serving() as (port, cut):
        async with client(port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
            for _ in range(60):
                if cut:
                    break
                writer.write(b"x")
                await asyncio.sleep(0.05)
            assert b"408" in await _until_closed(reader)
        assert cut == ["body_slow"]
        async with client(port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6000\r\n\r\n")
            for _ in range(30):  # 4,000 bytes a second for 1.5 s: past the grace, above the floor
                writer.write(b"x" * 200)
                await asyncio.sleep(0.05)
            assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert cut == ["body_slow"]


async def test_a_flood_of_headers_gets_431_and_a_large_body_in_one_piece_does_not() -> None:
    async with serving() as (port, cut):
        async with client(port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
            with contextlib.suppress(ConnectionError):
                for number in range(400):
                    writer.write(b"x-%d: %s\r\n" % (number, b"y" * 100))
                    await writer.drain()
            answer = await _until_closed(reader)
            assert answer.startswith(b"HTTP/1.1 431") or answer == b""  # the client may still be writing when it is cut
        assert cut == ["headers_large"]
        body = b"z" * 20_000
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        assert b"200 OK" in await _answer(port, head + body)


async def test_a_client_that_does_not_read_its_answer_is_let_go() -> None:
    async with serving() as (port, cut):
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", port))
        link.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        deadline = time.monotonic() + 10
        while not cut:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        link.close()
        assert cut == ["answer_unread"]


async def test_a_connection_too_many_is_refused_at_once_and_room_is_made_again() -> None:
    async with serving() as (port, cut), contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(client(port)) for _ in range(QUICK.connections)]
        await asyncio.sleep(0.05)
        async with client(port) as (reader, _):
            assert b"503" in await _until_closed(reader)
        for reader, _ in held:  # silent ones are cut
            await _until_closed(reader)
        assert cut.count("crowded") == 1
        assert b"200 OK" in await _answer(port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")


async def test_a_request_that_takes_long_to_compute_and_kept_connections_are_left_alone() -> None:
    async with serving() as (port, cut):
        async with client(port) as (reader, writer):
            for path in (b"/slow", b"/", b"/slow"):
                writer.write(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
                assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                await reader.readexactly(1)
                await asyncio.sleep(0.7)  # longer than headers may take: it is between requests
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n")  # pipelined
            for _ in range(2):
                assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                await reader.readexactly(1)
        assert cut == []


@pytest.mark.parametrize("rubbish", [b"\x00\xff\x16\x03\x01" * 50, b"{}\r\n\r\n"])
async def test_what_is_no_http_gets_400(rubbish: bytes) -> None:
    async with serving() as (port, _), client(port) as (reader, writer):
        writer.write(rubbish)
        assert b"400" in await _until_closed(reader)
