"""One finding of `driftline doctor`, and what all its checks share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from encoder.errors import EncoderError
from registry.errors import RegistryError


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it came out, what was seen, and what to do next (empty where nothing is to be done)."""

    name: str
    state: State
    seen: str
    next: str = ""


def ok(name: str, seen: str) -> Check:
    """All is well."""
    return Check(name, State.OK, seen)


def warning(name: str, seen: str, next: str = "") -> Check:
    """It works, and somebody should know."""
    return Check(name, State.WARNING, seen, next)


def problem(name: str, seen: str, next: str) -> Check:
    """It will not work."""
    return Check(name, State.PROBLEM, seen, next)


def guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """What a check finds; an error that it does not expect is a problem of its own and stops no other check.

    The words of such an error are left out: they could hold an address with its password.
    """
    found: list[Check] = []
    try:
        found.extend(look())
    except (RegistryError, EncoderError) as error:
        found.append(problem(name, str(error), ""))
    except Exception as error:  # noqa: BLE001 - a doctor who faints helps nobody
        found.append(problem(name, f"could not be looked at ({type(error).__name__})", ""))
    return found
