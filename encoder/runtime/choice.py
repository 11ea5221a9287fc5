"""The choice of an execution provider by measuring the machine.

Every candidate the machine offers must first reproduce the model's probe vectors; the fastest of those serves. A
provider that fails to load or deviates is reported with its error and never stops the others.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import structlog

from encoder.errors import NoProvider
from encoder.runtime.kinds import Feed, Measurement, Precision, Provider, Vectors, first_line, known
from encoder.runtime.session import Session, candidates, open_session

MIN_COSINE = 0.9999
_MEASURE_SECONDS = 0.15

log = structlog.get_logger()


def choose(
    model: bytes,
    feeds: Sequence[Feed],
    expected: Vectors,
    provider: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> tuple[Session, list[Measurement]]:
    """The fastest session that reproduces the probe vectors, and what every candidate showed.

    Args:
        model: An ONNX file that `check_graph` accepts.
        feeds: The probes as padded batches; the first one is also what speed is measured on.
        expected: (n, d) float32, the probe vectors in the order of the feeds.
        provider, precision: Narrow the candidates; "auto" leaves them open.
        threads: Threads of one run; None takes every core available.

    Raises:
        NoProvider: Nothing asked for is on this machine, or nothing reproduces the probes; names each fault.
    """
    wanted = [
        pair
        for pair in candidates()
        if (provider == "auto" or pair[0] == known(Provider, provider))
        and (precision == "auto" or pair[1] == known(Precision, precision))
    ]
    if not wanted:
        has = ", ".join(f"{name}/{kind}" for name, kind in candidates())
        raise NoProvider(f"provider {provider} in precision {precision} is not on this machine, which has {has}")
    best: Session | None = None
    measured: list[Measurement] = []
    fastest = 0.0
    for name, kind in wanted:
        session, result = _measure(model, name, kind, threads, feeds, expected)
        measured.append(result)
        if result.error is not None:
            log.warning("encoder.provider_left_out", provider=name, precision=kind, reason=result.error)
        elif result.texts_per_second > fastest:
            best, fastest = session, result.texts_per_second
    if best is None:
        faults = "; ".join(f"{m.provider}/{m.precision}: {m.error}" for m in measured)
        raise NoProvider(f"no execution provider reproduces the probe vectors: {faults}")
    chosen = (best.provider, best.precision)
    return best, [replace(m, chosen=(m.provider, m.precision) == chosen) for m in measured]


def min_cosine(vectors: Vectors, expected: Vectors) -> float:
    """Smallest cosine between equal rows of two (n, d) arrays; -1 where shapes differ or values are not finite."""
    if vectors.shape != expected.shape or not np.isfinite(vectors).all():
        return -1.0
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return float(np.min((vectors * expected).sum(axis=1) / np.maximum(norms, 1e-12)))


def _measure(
    model: bytes,
    provider: Provider,
    precision: Precision,
    threads: int | None,
    feeds: Sequence[Feed],
    expected: Vectors,
) -> tuple[Session | None, Measurement]:
    """Load one candidate, hold it against the probes, then time it."""
    result = Measurement(provider, precision)
    try:
        session = open_session(model, provider, precision, threads)
        cosine = min_cosine(np.concatenate([session.run(*feed) for feed in feeds]), expected)
        if cosine < MIN_COSINE:
            fault = f"vectors deviate from the probes: smallest cosine {cosine:.6f}, at least {MIN_COSINE} is required"
            return None, replace(result, min_cosine=cosine, error=fault)
        return session, replace(result, min_cosine=cosine, texts_per_second=_speed(session, feeds[0]))
    except Exception as error:  # noqa: BLE001  a plugin may raise anything; one bad provider must not stop the rest
        return None, replace(result, error=first_line(error))


def _speed(session: Session, feed: Feed) -> float:
    """Texts a second on one batch: the best of some runs within a seventh of a second, at least two."""
    best = float("inf")
    until = time.perf_counter() + _MEASURE_SECONDS
    runs = 0
    while runs < 2 or time.perf_counter() < until:
        start = time.perf_counter()
        session.run(*feed)
        best = min(best, time.perf_counter() - start)
        runs += 1
    return len(feed[0]) / best
