"""Which of the served texts are evidence: no text twice in a while, and not much of one session in a minute.

The monitor's bounds hold for texts that say something new: a client that tries again, a page that sends one greeting
for every visitor, or one long conversation are not as many independent texts as they are requests. What is left out
here is counted by reason and never scored. Texts are known by the digest their vectors are cached under, sessions by a
hash; neither the texts nor what callers name as their session is kept. Each process remembers what it served itself.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

REPEAT_SECONDS: Final = 600.0
"""A text is no evidence again for this long after it was; at most for twice as long."""
SESSION_SECONDS: Final = 60.0
MOST_TEXTS: Final = 65_536
"""Texts of one half of the memory, and sessions of one minute; more are forgotten sooner."""


class Thinning:
    """The memory of one watched version. Not safe for concurrent use.

    Args:
        per_session: Texts of one session that are evidence in one minute.
        clock: Seconds that only go forward.
    """

    def __init__(self, per_session: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_session = per_session
        self._clock = clock
        # Two halves that take turns: what both have forgotten was not seen for REPEAT_SECONDS, and nothing is searched
        # for its age.
        self._recent: set[bytes] = set()
        self._before: set[bytes] = set()
        self._turned_at = clock()
        self._sessions: Counter[int] = Counter()
        self._minute_at = clock()

    def take(self, keys: Sequence[bytes], session: int | None) -> tuple[list[int], int, int]:
        """Choose among the texts of one request.

        Args:
            keys: A digest of each text.
            session: A hash of the session they belong to, if they are known to belong to one.

        Returns:
            The positions that are evidence, how many texts were repeated, and how many were beyond the session's share.
        """
        self._forget()
        rows = []
        for row, key in enumerate(keys):
            if key not in self._recent and key not in self._before:
                self._recent.add(key)
                rows.append(row)
        repeated = len(keys) - len(rows)
        beyond = 0
        if session is not None:
            room = max(0, self._per_session - self._sessions[session])
            beyond = max(0, len(rows) - room)
            del rows[room:]
            self._sessions[session] += len(rows)
        return rows, repeated, beyond

    def _forget(self) -> None:
        now = self._clock()
        age = now - self._turned_at
        if age >= REPEAT_SECONDS or len(self._recent) >= MOST_TEXTS:
            self._before = self._recent if age < 2 * REPEAT_SECONDS else set()
            self._recent = set()
            self._turned_at = now
        if now - self._minute_at >= SESSION_SECONDS or len(self._sessions) >= MOST_TEXTS:
            self._sessions.clear()
            self._minute_at = now
