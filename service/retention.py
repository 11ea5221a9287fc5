"""Texts that are kept for a while, because the key they came with says so: gathered here, stored in the registry.

Off unless a key has `retain_days`, and never on while no key exists. Serving only puts a request's texts and vectors
aside after its answer has gone; a few times a minute a fair part of what came goes to the registry in one transaction.
The same task deletes what has expired. Texts appear in no log line.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from registry import retained
from registry.errors import RegistryError
from registry.registry import Registry
from registry.retained import Sent
from service.auth import Keyring
from service.threads import Threads

if TYPE_CHECKING:
    from service.compute import Computed

log = structlog.get_logger()

STORE_SECONDS: Final = 5.0
EXPIRE_SECONDS: Final = 300.0
# Texts put aside between two stores; of more a random part is kept, all alike likely. A few megabytes at most, unless
# texts are very long.
WAITING: Final = 512


@dataclass(frozen=True, slots=True)
class _Aside:
    """A text to keep, of one version."""

    adapter: str
    version: int
    sent: Sent


class Retention:
    """What waits to be kept. All but the registry's work happens on the event loop, so there are no locks.

    Args:
        keep: Texts the registry keeps of an adapter.
        seed: Seed of the choice among busy traffic.
    """

    def __init__(self, registry: Registry, keyring: Keyring, threads: Threads, *, keep: int, seed: int = 0) -> None:
        self._registry = registry
        self._keyring = keyring
        self._threads = threads
        self._keep = keep
        self._random = Random(seed)
        self._waiting: list[_Aside] = []
        self._offered = 0  # since the last store
        self._expire_at = 0.0

    def offer(self, computed: "Computed", key: str | None) -> None:
        """Put a request's texts aside if the key (by id) allows it and a version with a reference answered."""
        days = self._keyring.retain_days(key)
        version = computed.target.version
        if days is None or key is None or version is None or version.reference is None:
            return
        at = datetime.now(UTC)
        until = at + timedelta(days=days)
        for text, vector in zip(computed.texts, computed.vectors, strict=True):
            self._offered += 1
            place = len(self._waiting)
            if place >= WAITING:
                place = self._random.randrange(self._offered)
                if place >= WAITING:
                    continue
            if retained.storable_text(text):
                sent = Sent(key, text, vector.astype(np.float16).tobytes(), at, until)
                aside = _Aside(version.record.adapter, version.record.number, sent)
                self._waiting[place : place + 1] = [aside]

    async def run(self) -> None:
        """Store what waits and delete what has expired, for ever."""
        while True:
            await self.settle()
            await asyncio.sleep(STORE_SECONDS)

    async def settle(self) -> None:
        """Store what waits now; an outage of the registry leaves it for the next time."""
        waiting, offered = self._waiting, self._offered
        self._waiting, self._offered = [], 0
        expires = time.monotonic() >= self._expire_at
        if not waiting and not expires:
            return
        try:
            await self._threads.registry(self._store, waiting, expires)
        except RegistryError as error:
            log.warning("texts_not_retained", error=type(error).__name__, count=len(waiting))
            self._waiting = (waiting + self._waiting)[:WAITING]
            self._offered += offered
            return
        if expires:
            self._expire_at = time.monotonic() + EXPIRE_SECONDS

    async def close(self) -> None:
        """Store what still waits."""
        await self.settle()

    def _store(self, waiting: list[_Aside], expires: bool) -> None:
        by_version: dict[tuple[str, int], list[Sent]] = {}
        for aside in waiting:
            by_version.setdefault((aside.adapter, aside.version), []).append(aside.sent)
        with self._registry.writing() as session:
            for (adapter, version), texts in by_version.items():
                # A key's retention that was ended meanwhile holds for what was put aside before.
                allowed = [sent for sent in texts if self._keyring.retain_days(sent.key) is not None]
                retained.add(session, adapter, version, allowed, keep=self._keep)
            deleted = retained.expire(session) if expires else 0
        if deleted:
            self._registry.database.scrub(retained.TABLE)
