"""Which callers a canary answers: a fixed share of units, each of which always gets the same version.

Vectors of two versions must not meet in one index, so it is never the single request that is drawn: a unit (an API
key, or what the caller names as one) is hashed with the rollout's salt to a place in [0, 1), and those below the share
get the candidate. As the share grows, units only ever go over to the candidate; another rollout draws others.
"""

import hashlib
from dataclasses import dataclass

from starlette.requests import Request

from service.auth import CALLER
from service.snapshot import LoadedVersion, Target

UNIT_HEADER = "x-driftline-unit"


@dataclass(frozen=True, slots=True, eq=False)
class Canary:
    """A loaded candidate that answers a share of an adapter's callers while the champion is live.

    Attributes:
        salt: The rollout's.
        share: Of the units, in (0, 1).
        unit: What is kept together: "key", "user" or "header".
        champion: Digest of the version it is compared with.
    """

    salt: bytes
    share: float
    unit: str
    champion: str
    candidate: LoadedVersion

    def route(self, found: Target, request: Request, user: str | None) -> Target:
        """What answers a request for the adapter's name: `found`, or the candidate on the same backbone.

        A request that names no unit stays with what it found, and so does everything once another version is live.
        """
        if found.version is None or found.version.record.digest != self.champion:
            return found
        unit = self._unit(request, user)
        if unit is None or place(self.salt, unit) >= self.share:
            return found
        return Target(found.backbone, self.candidate)

    def _unit(self, request: Request, user: str | None) -> str | None:
        if self.unit == "user":
            return user or None
        if self.unit == "header":
            return request.headers.get(UNIT_HEADER) or None
        key: str | None = request.scope.get(CALLER)
        return key


def place(salt: bytes, unit: str) -> float:
    """Where a unit lies in [0, 1): uniform over units, the same for ever under one salt of at most 64 bytes."""
    digest = hashlib.blake2b(unit.encode("utf-8", "replace"), key=salt, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
