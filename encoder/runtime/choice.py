"""The choice of provider, precision and arrangement by measuring the machine.

Every candidate must first give the vectors that the model's probes record, to the bar of its precision; the fastest of
those serves. One that fails to load or deviates is reported with its error and never stops the others.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import structlog

from encoder.batch import TokenIds
from encoder.errors import NoProvider
from encoder.runtime.kinds import Measurement, Precision, Provider, Vectors, first_line, known
from encoder.runtime.machine import cores
from encoder.runtime.session import Session, candidates, open_session
from encoder.runtime.tuning import Contest, ladder

# A start must not take long, least of all with a large model or beside other work: after these seconds no candidate is
# tried in further arrangements, and no further candidate at all where one serves; those come first that promise most.
_ARRANGE_SECONDS = 2.0
_MEASURE_SECONDS = 2.5
_SAME_VECTORS = 0.999999  # no ranking changes by what lies beyond this cosine

Run = Callable[[TokenIds], Vectors]
"""Token ids of the texts of one batch to vectors (b, d) float32."""

_NO_TIME = "not tried: the time for measuring was over; it is tried where it is asked for by name"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bar:
    """What vectors must keep of those in float32.

    Attributes:
        cosine: Smallest cosine to the probe vectors.
        loss: Most points of nDCG@10 (of 100) that may be lost on the retrieval probe.
    """

    cosine: float
    loss: float


BAR = Bar(0.9999, 0.1)
"""What `auto` requires of every precision, and every precision but int8 in any case."""
INT8_BAR = Bar(0.95, 1.0)
"""What int8 must keep where it is asked for by name."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What candidates are held against.

    Attributes:
        batches: Token ids of the probes, shortest first; the first batch is also what speed is measured on.
        expected: (n, d) float32, the probe vectors in the order of the batches.
        retrieval: Scores a session on the retrieval probe in points of nDCG@10; None without such a probe.
        score: What float32 scored at import.
    """

    batches: Sequence[TokenIds]
    expected: Vectors
    retrieval: Callable[[Session], float] | None = None
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Int8:
    """The int8 form of a backbone.

    Attributes:
        model: Gives its ONNX file; called when it is wanted.
        fault: Why `auto` need not try it, by what was measured at import; None if it may win.
    """

    model: Callable[[], bytes]
    fault: str | None = None


def least_cosine(precision: Precision) -> float:
    """Smallest cosine to the probe vectors of a session that may serve in this precision."""
    return INT8_BAR.cosine if precision is Precision.INT8 else BAR.cosine


def choose(
    model: bytes,
    yardstick: Yardstick,
    provider: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    streams: int | None = None,
    int8: Int8 | None = None,
) -> tuple[Session, list[Measurement]]:
    """The fastest session that holds against the yardstick, and what every candidate showed.

    Args:
        model: An ONNX file that `check_graph` accepts.
        yardstick: What every candidate is held against.
        provider, precision: Narrow the candidates; "auto" leaves them open.
        threads: Threads of all runs together; None takes every core available.
        streams: Runs under way at once; None measures.
        int8: The same backbone with int8 weights, where there is one.

    Raises:
        NoProvider: Nothing asked for is on this machine, or nothing holds against the yardstick; names each fault.
    """
    wanted = _wanted(provider, precision, int8)
    contest = Contest(yardstick.batches[0], _ARRANGE_SECONDS)
    until = time.monotonic() + _MEASURE_SECONDS
    measured: list[Measurement] = []
    for name, kind in wanted:
        if kind is Precision.INT8 and precision == "auto" and int8 is not None and int8.fault is not None:
            measured.append(Measurement(name, kind, error=int8.fault))
            continue
        if contest.session is not None and time.monotonic() > until:
            measured.append(Measurement(name, kind, error=_NO_TIME))
            continue
        weights = int8.model() if kind is Precision.INT8 and int8 is not None else model
        bar = INT8_BAR if kind is Precision.INT8 and precision != "auto" else BAR
        result = _measure(weights, name, kind, threads, streams, yardstick, bar, contest)
        measured.append(result)
        if result.error is not None:
            log.warning("encoder.provider_left_out", provider=name, precision=kind, reason=result.error)
    best = contest.session
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


def _wanted(provider: str, precision: str, int8: Int8 | None) -> list[tuple[Provider, Precision]]:
    here = candidates(int8=int8 is not None)
    wanted = [
        pair
        for pair in here
        if (provider == "auto" or pair[0] == known(Provider, provider))
        and (precision == "auto" or pair[1] == known(Precision, precision))
    ]
    if wanted:
        return wanted
    if precision == Precision.INT8 and int8 is None:
        raise NoProvider("this backbone has no int8 weights; importing it again makes them where they hold")
    has = ", ".join(f"{name}/{kind}" for name, kind in here)
    raise NoProvider(f"provider {provider} in precision {precision} is not on this machine, which has {has}")


def _measure(
    model: bytes,
    provider: Provider,
    precision: Precision,
    threads: int | None,
    streams: int | None,
    yardstick: Yardstick,
    bar: Bar,
    contest: Contest,
) -> Measurement:
    """Load one candidate, hold it against the yardstick, then let it enter the contest of speed."""
    result = Measurement(provider, precision)
    threads = threads or cores()
    try:
        return contest.enter(
            lambda runs, spinning: open_session(model, provider, precision, threads, runs, spinning),
            ladder(provider, threads, streams),
            lambda session: _proven(session, yardstick, bar),
        )
    except Exception as error:  # noqa: BLE001  a plugin may raise anything; one bad provider must not stop the rest
        return replace(result, error=first_line(error))


def _proven(session: Session, yardstick: Yardstick, bar: Bar) -> Measurement:
    """What the vectors of a session are worth."""
    result = Measurement(session.provider, session.precision)
    with ThreadPoolExecutor(session.streams) as pool:
        found = list(pool.map(session.run, yardstick.batches))
    cosine = min_cosine(np.concatenate(found), yardstick.expected)
    result = replace(result, min_cosine=cosine)
    if cosine < bar.cosine:
        fault = f"vectors deviate from the probes: smallest cosine {cosine:.6f}, at least {bar.cosine} is required"
        return replace(result, error=fault)
    if yardstick.retrieval is None or cosine >= _SAME_VECTORS:
        return result
    score = yardstick.retrieval(session)
    if not yardstick.score - score <= bar.loss:
        fault = f"retrieval suffers: nDCG@10 {score:.2f}, float32 has {yardstick.score:.2f}, {bar.loss} may be lost"
        return replace(result, retrieval=score, error=fault)
    return replace(result, retrieval=score)
