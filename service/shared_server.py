"""The Valkey or Redis server behind the shared cache: bounded reads and writes, and one error for all that goes wrong.

The only file that knows the client library (redis-py), which is imported when a server is configured and not before.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

from service.errors import ServiceError

# Keys are this and 16 raw bytes; the number changes with the format of the values.
NAMESPACE: Final = b"driftline:1:"
CONNECT_SECONDS: Final = 1.0

T = TypeVar("T")


class Reason(StrEnum):
    """Why an operation failed; a label of the metrics."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    REFUSED = "refused"
    PROTOCOL = "protocol"


class ServerFailed(Exception):
    """The server gave no answer that can be used."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class CacheUnusable(ServiceError):
    """The shared cache cannot be used as it is configured; the message says what to do and never shows the address."""


class SharedServer:
    """A connection pool to one server. Used on one event loop; connects when first used.

    Args:
        url: redis://, rediss:// (TLS, the certificate is verified) or unix://, with user, password and database.

    Raises:
        CacheUnusable: The client library is not installed, or the address is none.
    """

    def __init__(self, url: str) -> None:
        try:
            from redis import exceptions
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            message = "DRIFTLINE_CACHE_URL is set, but the client is not installed: pip install 'driftline[redis]'"
            raise CacheUnusable(message) from None
        self._exceptions = exceptions
        try:
            # RESP2 spares a round trip at connecting and is spoken by every server. No retries: whoever asks has no
            # time for them, and the breaker decides about later.
            self._client: Any = Redis.from_url(
                url,
                protocol=2,
                decode_responses=False,
                socket_timeout=None,  # every operation below has its own limit
                socket_connect_timeout=CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),
                max_connections=8,
            )
        except Exception as error:  # noqa: BLE001  whatever the library says about the address may contain the password
            raise CacheUnusable(f"DRIFTLINE_CACHE_URL is not usable ({type(error).__name__}).") from None

    async def read(self, keys: Sequence[bytes], seconds: float) -> list[Any]:
        """The value of each key, None where there is none. Values are whatever the server says: to be checked.

        Raises:
            ServerFailed: No answer in time, none at all, or an error.
        """
        values = await self._within(self._client.mget([NAMESPACE + key for key in keys]), seconds)
        if not isinstance(values, list) or len(values) != len(keys):
            raise ServerFailed(Reason.PROTOCOL)
        return values

    async def write(self, values: Sequence[tuple[bytes, bytes]], ttl_seconds: int, seconds: float) -> int:
        """Keep values under keys until they expire; returns how many the server took.

        Raises:
            ServerFailed: No answer in time, or none at all.
        """
        pipeline = self._client.pipeline(transaction=False)
        for key, value in values:
            pipeline.set(NAMESPACE + key, value, ex=ttl_seconds)
        answers = await self._within(pipeline.execute(raise_on_error=False), seconds)
        return sum(answer is True for answer in answers)

    async def close(self) -> None:
        """Close all connections."""
        try:
            await self._within(self._client.aclose(), CONNECT_SECONDS)
        except ServerFailed:
            return  # it is gone already

    async def _within(self, work: Awaitable[T], seconds: float) -> T:
        """Await within a limit. Cancelling drops the connection in use, so no later caller reads this one's answer."""
        try:
            async with asyncio.timeout(seconds):
                return await work
        except Exception as error:  # noqa: BLE001  a server may send anything, and the parser may fail in any way
            raise ServerFailed(self._reason(error)) from None

    def _reason(self, error: Exception) -> Reason:
        known = self._exceptions
        if isinstance(error, (TimeoutError, known.TimeoutError)):
            return Reason.TIMEOUT
        if isinstance(error, (known.AuthenticationError, known.BusyLoadingError, known.ResponseError)):
            return Reason.REFUSED
        if isinstance(error, (OSError, known.ConnectionError)) and not isinstance(error, known.InvalidResponse):
            return Reason.CONNECTION
        return Reason.PROTOCOL
