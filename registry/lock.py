"""An advisory lock on a file: at most one worker owns a data directory. The kernel drops it when its holder dies."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """An exclusive, non-blocking lock; held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False when another process holds it."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    lock = FileLock(path)
    if not lock.acquire():
        return True
    lock.release()
    return False
