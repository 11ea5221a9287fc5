"""A pipe that ties a process to the life of another: it ends the moment its holder dies, even by kill -9."""

import os
import threading
from collections.abc import Callable


def on_release(descriptor: int, act: Callable[[], None]) -> threading.Thread:
    """Call `act` from a thread of its own when the other end of a pipe is closed; what comes through it is ignored."""

    def wait() -> None:
        while os.read(descriptor, 4096):
            pass
        act()

    thread = threading.Thread(target=wait, name="leash", daemon=True)
    thread.start()
    return thread
