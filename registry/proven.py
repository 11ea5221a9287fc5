"""Moving the live pointer only to a version that was proven to load; the database is not held meanwhile."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from registry.errors import Conflict
from registry.registry import Registry
from registry.versions import Version

T = TypeVar("T")

_TRIES = 5


class _Rehearsed(Exception):
    """Undoes the transaction of a move that was only tried."""


def move_proven(
    registry: Registry, move: Callable[[Session], Version], prove: Callable[[Version], T]
) -> tuple[Version, T]:
    """Find out where a move leads, prove that version, then move, if it still leads there.

    A proof may take seconds, and while a transaction that writes is open nobody else writes to SQLite.

    Args:
        move: Moves the pointer and returns the version that is live then; called in one transaction after another.
        prove: Raises where the version cannot be served: nothing is moved then.

    Returns:
        The version that is live now, and what `prove` gave for it.

    Raises:
        Conflict: Others kept moving the pointer meanwhile.
    """
    for _ in range(_TRIES):
        wanted = _rehearse(registry, move)
        proof = prove(wanted)
        try:
            with registry.writing() as session:
                version = move(session)
                if (version.number, version.digest) != (wanted.number, wanted.digest):
                    raise _Rehearsed
        except _Rehearsed:
            continue
        return version, proof
    raise Conflict("the live version kept changing meanwhile; look at it and try again")


def _rehearse(registry: Registry, move: Callable[[Session], Version]) -> Version:
    found: list[Version] = []
    try:
        with registry.writing() as session:
            found.append(move(session))
            raise _Rehearsed
    except _Rehearsed:
        return found[0]
