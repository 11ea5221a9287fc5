"""Slow work of one thread, done aside: one piece after another on a thread of its own, and the result brought back."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


class Aside:
    """A thread that begins with the first piece of work; it never holds up the end of the process.

    Args:
        back: Has the thread that this one works for do something.
    """

    def __init__(self, back: Callable[[Callable[[], None]], None]) -> None:
        self._back = back
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do the work here, then hand what it gave to `then` over there; one that fails is logged, and that is all."""

        def do() -> None:
            found = work()
            self._back(lambda: then(found))

        self._work.put(do)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="driftline-aside", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except Exception as error:  # noqa: BLE001  the next piece has nothing to do with it
                log.error("work_aside_failed", error=type(error).__name__)
