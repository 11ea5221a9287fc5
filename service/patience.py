"""How long a client may take: uvicorn's HTTP protocol with deadlines for silence, headers, bodies and reading.

uvicorn waits for ever for a request that has begun. Here a connection is cut when its headers (or trailers) take too
long or are too many, when its body comes slower than a floor or goes on long after it was refused, and when its client
does not read the answer. What a client was not told by then it is told in one line (408, 431 or 503). One timer a
connection, set anew only at those turns, costs nothing on the hot path.

uvicorn's own log lines are left out: one for each piece of rubbish would let a stranger fill the disk, and a traceback
may hold a caller's text. What is no HTTP is counted; an answer that broke off is logged by the kind of its error.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger()

Reason = Literal["headers_slow", "headers_large", "body_slow", "body_unwanted", "answer_unread", "crowded", "malformed"]

_STATUS: Final = {
    "headers_slow": b"408 Request Timeout",
    "body_slow": b"408 Request Timeout",
    "headers_large": b"431 Request Header Fields Too Large",
    "crowded": b"503 Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of one connection.

    Attributes:
        header_seconds: From the first byte (or from connecting) to the end of the headers.
        body_seconds: Grace of a body, before the floor applies to it.
        body_rate: Bytes a second that a body must reach on average once the grace is over.
        answer_seconds: Longest pause in which a client reads nothing of its answer.
        header_bytes: Request line and headers together; and the trailers of a chunked body.
        unwanted_bytes: What a client may still send of a body after its answer is complete.
        connections: Open ones at a time; beyond it a new one is refused.
    """

    header_seconds: float = 15.0
    body_seconds: float = 20.0
    body_rate: float = 8 * 1024
    answer_seconds: float = 60.0
    header_bytes: int = 64 * 1024
    unwanted_bytes: int = 16 * 1024 * 1024
    connections: int = 4096


def bounded(patience: Patience, on_cut: Callable[[Reason], None]) -> type[HttpToolsProtocol]:
    """The protocol class with these limits; `on_cut` is told why a connection was cut."""

    class Bounded(_Bounded):
        limits = patience
        cut_for = staticmethod(on_cut)

    return Bounded


class _Log:
    """What uvicorn's protocol takes for a logger."""

    level: Final = logging.WARNING

    def warning(self, message: str, *arguments: Any) -> None:
        """Nothing: what it warns of is what any stranger can send."""

    def error(self, message: str, *arguments: Any, exc_info: BaseException | None = None) -> None:
        """An error that arose after the answer had begun, without its message."""
        log.error("answer_broken_off", error=type(exc_info).__name__)


class _Bounded(HttpToolsProtocol):
    limits: Patience
    cut_for: Callable[[Reason], None]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = _Log()  # type: ignore[assignment]
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._receiving = False  # between the first byte of a request and its last
        self._in_headers = False
        self._began = 0.0
        self._bytes = 0
        self._trailer_bytes = 0
        self._unwanted = 0  # bytes of a body that arrived after its answer was complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to what asyncio passes
        if len(self.connections) > self.limits.connections:
            self._cut("crowded")
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_writing_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._in_headers and self._bytes > self.limits.header_bytes and not self._complete_within(data):
            self._cut("headers_large")
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        if not self._in_headers:
            self._expect_headers()  # the next request of a connection that was kept alive
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._receiving:
            super().on_header(name, value)
            return
        self._trailer_bytes += len(name) + len(value)  # a trailer, which nothing here reads
        if self._trailer_bytes > self.limits.header_bytes:
            self._cut("headers_large")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_headers, self._receiving = False, True
        self._began, self._bytes = self.loop.time(), 0
        self._trailer_bytes = self._unwanted = 0
        self._arm(self.limits.body_seconds, self._check_body)

    def on_body(self, body: bytes) -> None:
        self._bytes += len(body)
        if self.cycle.response_complete:
            self._unwanted += len(body)
            if self._unwanted > self.limits.unwanted_bytes:
                self._cut("body_unwanted")
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = self._in_headers = False
        self._bytes = 0
        self._disarm()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.limits.answer_seconds, self._unread)

    def resume_writing(self) -> None:
        self._stop_writing_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            self.cut_for("malformed")
        super().send_400_response(msg)

    def _expect_headers(self) -> None:
        self._in_headers, self._bytes = True, 0
        self._arm(self.limits.header_seconds, self._headers_slow)

    def _complete_within(self, data: bytes) -> bool:
        """Whether the headers end within the allowed bytes and only the body made this piece large."""
        end = data.find(b"\r\n\r\n")
        return end >= 0 and self._bytes - len(data) + end <= self.limits.header_bytes

    def _headers_slow(self) -> None:
        self._cut("headers_slow")

    def _check_body(self) -> None:
        if not self._receiving:
            return
        if self.flow.read_paused:  # it is this program that does not take more
            self._began = self.loop.time() - self._bytes / self.limits.body_rate
        behind = (self.loop.time() - self._began - self.limits.body_seconds) * self.limits.body_rate - self._bytes
        if behind > 0:
            self._cut("body_slow")
            return
        self._arm(max(1.0, -behind / self.limits.body_rate), self._check_body)

    def _unread(self) -> None:
        self._writing = None
        if not self.transport.is_closing():
            self.cut_for("answer_unread")
            self.transport.abort()

    def _cut(self, reason: Reason) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        self.cut_for(reason)
        answered = (
            self.cycle is not None
            and self.cycle.response_started
            and (reason == "body_unwanted" or not self.cycle.response_complete)
        )
        silent = reason == "headers_slow" and not self._bytes  # an idle connection is not told that it was
        if not answered and not silent:
            status = _STATUS[reason]
            head = b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n"
            self.transport.write(head + (b"retry-after: 1\r\n\r\n" if reason == "crowded" else b"\r\n"))
        self.transport.close()

    def _arm(self, seconds: float, act: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, act)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_writing_timer(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
