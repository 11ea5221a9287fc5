"""What libraries say, as log lines of our own: who said it, where, and the kind of error, never the words.

A library's message may repeat what it was given: uvicorn prints the traceback of an error that came after an answer had
begun, asyncio that of a forgotten task, the interpreter that of a thread. Their words, and those of the error, could be
a user's text.
"""

import logging
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final

import structlog

log = structlog.get_logger()

_PLACES: Final = 6
_LEVELS: Final[tuple[tuple[int, str], ...]] = ((logging.ERROR, "error"), (logging.WARNING, "warning"))


class _Lines(logging.Handler):
    """Every record of the standard library's logging as one of our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for least, name in _LEVELS if record.levelno >= least), "info")
        error, trace = record.exc_info[0::2] if record.exc_info else (None, None)
        say: Callable[..., object] = getattr(log, level)
        say(
            "library_message",
            logger=record.name,
            place=f"{record.filename}:{record.lineno}",
            error=None if error is None else error.__name__,
            places=_places(trace),
        )


def take_over(*apart: str) -> None:
    """Send warnings and errors that libraries log, warnings of Python, and errors of threads through structlog.

    Args:
        apart: Loggers that would otherwise print by themselves: one that has a handler makes none of its own.
    """
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for logger in (root, *map(logging.getLogger, apart)):
        for handler in [each for each in logger.handlers if isinstance(each, _Lines)]:
            logger.removeHandler(handler)
        logger.addHandler(_Lines())
        logger.propagate = False
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended


def _thread_ended(ended: "threading.ExceptHookArgs") -> None:
    if ended.exc_type is SystemExit:
        return
    name = ended.thread.name if ended.thread is not None else None
    log.error("thread_ended", thread=name, error=ended.exc_type.__name__, places=_places(ended.exc_traceback))


def _places(trace: TracebackType | None) -> list[str]:
    """Where an error came from: file, line and function of its last frames."""
    frames = traceback.extract_tb(trace)[-_PLACES:]
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
