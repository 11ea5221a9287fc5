"""What is refused before any route sees a request: bodies over the limit; pages and proxies while it is open."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem
from service.settings import is_loopback

UPLOADS = "/admin/datasets/"

# What proxies add to a request that they pass on.
_PROXIED = frozenset({b"forwarded", b"via", b"x-real-ip"})
_PROXIED_PREFIX = b"x-forwarded-"


class BodyLimit:
    """Answers 413 to a body over the limit, by its Content-Length or, for a chunked one, by counting what arrives.

    A compressed body gets 415 unread: nothing here unpacks one, so none can unpack to more than it seems.
    """

    def __init__(self, app: ASGIApp, *, limit: int, upload_limit: int) -> None:
        self.app = app
        self.limit = limit
        self.upload_limit = upload_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.upload_limit if scope["path"].startswith(UPLOADS) else self.limit
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > limit):
                await _too_large(limit).response()(scope, receive, send)
                return
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                await _encoded().response()(scope, receive, send)
                return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise _too_large(limit)
            return message

        await self.app(scope, counted, send)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The body is too large; the limit is {limit} bytes.", code="body_too_large")


def _encoded() -> Problem:
    message = "Send the body as it is: compressed bodies (Content-Encoding) are not taken."
    return Problem(415, message, code="content_encoding", headers={"Accept-Encoding": "identity"})


class LocalOnly:
    """While the service is open (no key was ever issued), only local programs and pages may talk to it.

    A web page can reach a loopback port: by a name that it rebinds to 127.0.0.1 (the Host header gives that away) or by
    a plain cross-site request (the Origin header does). A proxy on this machine would open the service to whoever
    reaches the proxy; the headers it adds give it away, if it adds any.
    """

    def __init__(self, app: ASGIApp, *, is_open: Callable[[], bool], allowed: Iterable[str]) -> None:
        self.app = app
        self.is_open = is_open
        self.allowed = frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.is_open() and (refusal := self._refusal(scope["headers"])) is not None:
            await refusal.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> Problem | None:
        host = origin = None
        for name, value in headers:
            if name in _PROXIED or name.startswith(_PROXIED_PREFIX):
                message = (
                    "While no API key exists, requests that came through a proxy are refused. Make a key first: "
                    "driftline key create NAME --scope admin"
                )
                return Problem(403, message, code="proxied")
            if name == b"host" and host is None:
                host = value
            elif name == b"origin" and origin is None:
                origin = value
        if not self._local(host or b""):
            message = "While no API key exists, requests must name a loopback host (see allowed_hosts)."
            return Problem(403, message, code="host_not_allowed")
        if origin is not None and not self._local(_netloc(origin)):
            message = "While no API key exists, pages of other sites may not call this service."
            return Problem(403, message, code="origin_not_allowed")
        return None

    def _local(self, netloc: bytes) -> bool:
        host = _host(netloc)
        return is_loopback(host) or host in self.allowed


def _netloc(origin: bytes) -> bytes:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.encode("latin-1")
    except ValueError:
        return b""


@lru_cache(maxsize=64)  # a service is reached by few names, and looking one apart costs more than a cached embedding
def _host(netloc: bytes) -> str:
    """Host of `host:port`, in lower case; empty when there is none."""
    try:
        return urlsplit(f"//{netloc.decode('latin-1')}").hostname or ""
    except ValueError:
        return ""
