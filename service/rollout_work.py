"""What is measured of one answered request under the other version: both versions' vectors, time, and failures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from encoder.adapters import Head
from monitoring.disagreement import Comparer
from monitoring.tally import Tally
from service.snapshot import LoadedVersion
from service.tracing import RequestTrace

log = structlog.get_logger()

UNIT_TOLERANCE = 1e-2
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A request that was answered by one version, and of which some texts are looked at.

    Attributes:
        by_candidate: Whether the candidate answered it; else the live version did.
        texts: Those chosen, as they were computed.
        computed: What the backbone gave for them under the version that answered (n, d).
        vectors: What the caller got for them (n, d), before it was cut or encoded.
        part: Which share of the request's texts they are, in (0, 1].
        seconds, inference: What the request took, and the run of the backbone in it; 0 where all came from the cache.
        whole: Whether all texts were chosen and none came from the cache, so that a run of its own can be compared.
        trace: Of the request, if there is one.
    """

    by_candidate: bool
    texts: Sequence[str]
    computed: NDArray[np.float32]
    vectors: NDArray[np.float32]
    part: float
    seconds: float
    inference: float
    whole: bool
    trace: RequestTrace | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Mirrored:
    """An answered request with what the backbone gave under the other version (n, d), and the seconds of that run.

    `inference` is None where the backbone gives the same for both versions.
    """

    answered: Answered
    computed: NDArray[np.float32]
    inference: float | None


def measure(
    mirrored: Sequence[Mirrored],
    live: LoadedVersion,
    candidate: LoadedVersion,
    comparer: Comparer | None,
    ratio: float,
) -> Tally:
    """What to add for requests whose other version's vectors are to be made and compared (blocking).

    Args:
        comparer: None where a version has no reference.
        ratio: A request is slow that takes more than this many times as long with the candidate.
    """
    total = Tally()
    pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for one in mirrored:
        answered = one.answered
        server, other = (candidate, live) if answered.by_candidate else (live, candidate)
        attempt = 0 if answered.by_candidate else 1  # a request that the candidate answered is counted as such
        try:
            vectors, own_seconds = _applied(other, one.computed)
        except Exception as error:  # noqa: BLE001  whatever a version does, it is its failure and nobody else's
            log.warning("mirrored_request_failed", version=other.record.name, error=type(error).__name__)
            total += Tally(attempts=attempt, failures=attempt)
            continue
        total += Tally(observations=1, attempts=attempt) + _timed(one, server, own_seconds, ratio)
        pairs.append((vectors, answered.vectors) if answered.by_candidate else (answered.vectors, vectors))
    if pairs and comparer is not None:
        sizes = [len(old) for old, _ in pairs]
        old, new = (np.concatenate(side) for side in zip(*pairs, strict=True))
        total += comparer.compare(old, new, sizes)
    return total


def _applied(version: LoadedVersion, computed: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """A version's unit vectors (n, d), and the seconds its head took.

    Raises:
        ValueError: They are not of unit length, or not finite.
    """
    began = time.perf_counter()
    head = version.adapter
    vectors = head.apply(computed) if isinstance(head, Head) else computed
    seconds = time.perf_counter() - began
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.abs(lengths - 1.0) <= UNIT_TOLERANCE):  # written so that a NaN fails
        raise ValueError("vectors that are not of unit length")
    return vectors, seconds


def _timed(one: Mirrored, server: LoadedVersion, other_seconds: float, ratio: float) -> Tally:
    """How long the request took, and would have taken with the other version: its own run in place of the server's."""
    answered = one.answered
    if one.inference is not None and not (answered.whole and one.inference > 0):
        return Tally()  # a run of other texts, or of none: nothing to compare
    server_seconds = _applied(server, answered.computed)[1]  # again, on the same thread as the other's
    elsewhere = answered.seconds + (other_seconds - server_seconds) / answered.part
    if one.inference is not None:
        elsewhere += one.inference - answered.inference
    elsewhere = max(elsewhere, 0.0)
    live, new = (elsewhere, answered.seconds) if answered.by_candidate else (answered.seconds, elsewhere)
    return Tally(timed=1, slow=int(new > ratio * live), live_us=round(live * _MICRO), candidate_us=round(new * _MICRO))
