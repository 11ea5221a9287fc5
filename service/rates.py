"""Rate limits and daily quotas of API keys, held in memory and reconciled with the registry once a minute.

The rate is a token bucket of one minute in each service. A day's quota is what the registry knew at the last
reconciliation plus what this service has let in since, so several services together may overshoot by a minute's
traffic; a database that is away stops neither serving nor counting.
"""

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime

from registry import quotas
from registry.quotas import KeyLimits
from registry.registry import Registry
from service.allowance import Allowance
from service.errors import Problem


class Rates:
    """What each key may still ask for. Belongs to the event loop, but for `reconcile`, which may block.

    Args:
        clock: Seconds that only go forward.
        today: The current moment in UTC.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._today = today
        self._limits: Mapping[str, KeyLimits] = {}
        self._buckets: dict[str, tuple[int, Allowance]] = {}  # key -> (rate it was made for, bucket)
        self._day: date = today().date()
        self._known: Mapping[str, int] = {}  # what the registry had of the day
        self._added: dict[str, int] = {}  # what it does not have yet

    def admit(self, key: str | None, texts: int) -> None:
        """Let texts of a key in and count them.

        Raises:
            Problem: 413 for more texts than the key may ever send at once, 429 beyond the rate or the quota, with the
                seconds after which there is room.
        """
        limits = self._limits.get(key) if key is not None else None
        if key is None or limits is None:
            return
        self._check_day(key, limits.texts_per_day, texts)
        if limits.texts_per_minute is not None:
            self._check_minute(key, limits.texts_per_minute, texts)
        self._added[key] = self._added.get(key, 0) + texts

    def reconcile(self, registry: Registry) -> None:
        """Write what was let in and read limits and totals (blocking).

        Raises:
            RegistryError: The registry is away; nothing is lost.
        """
        day, added = self._day, self._added
        self._added = {}
        try:
            if added:
                with registry.writing() as session:
                    quotas.add_uses(session, day, added)
        except BaseException:
            for key, count in added.items():
                self._added[key] = self._added.get(key, 0) + count
            raise
        today = self._today().date()
        with registry.reading() as session:
            limits, known = quotas.all_limits(session), quotas.used(session, today)
        self._limits, self._known, self._day = limits, known, today

    def _check_day(self, key: str, most: int | None, texts: int) -> None:
        if most is None:
            return
        now = self._today()
        fresh = now.date() != self._day  # a new day that the registry was not asked about yet
        had = 0 if fresh else self._known.get(key, 0) + self._added.get(key, 0)
        if had + texts > most:
            midnight = datetime.combine(date.fromordinal(now.toordinal() + 1), datetime.min.time(), UTC)
            wait = math.ceil((midnight - now).total_seconds())
            message = f"The key may send {most} texts a day and has {max(0, most - had)} left until midnight UTC."
            raise Problem(429, message, code="quota_exceeded", headers={"Retry-After": str(wait)})

    def _check_minute(self, key: str, rate: int, texts: int) -> None:
        if texts > rate:
            message = f"The request has {texts} texts; the key may send {rate} a minute. Send fewer at once."
            raise Problem(413, message, code="too_many_texts")
        made_for, bucket = self._buckets.get(key, (0, None))
        if bucket is None or made_for != rate:
            bucket = Allowance(rate / 60, rate, self._clock)
            self._buckets[key] = (rate, bucket)
        if not bucket.take_all(texts):
            wait = max(1, math.ceil(bucket.until(texts)))
            message = f"The key may send {rate} texts a minute. Try again later."
            raise Problem(429, message, code="rate_limited", headers={"Retry-After": str(wait)})
