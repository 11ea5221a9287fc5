"""How a session should use the cores: runs under way at once, threads of each, spinning or not, by timing them.

What is timed resembles serving: small batches of short texts, as many runs under way as there are streams. Two
arrangements that are as fast to three parts in a hundred tie; the clearly lower latency of a lone run wins then.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from encoder.batch import TokenIds
from encoder.runtime.kinds import Arrangement, Measurement, Provider
from encoder.runtime.session import Session

MAX_STREAMS = 8  # more would cut the queue of a service into batches of one text
_BATCH = 12
_WINDOW_SECONDS = 0.06
_WINDOWS = 2
_LONE_RUNS = 5
_FAST = 0.8  # place among the runs in order of speed
_TIE = 0.03
_QUICKER = 0.9  # share of the other's latency that wins a tie
_NEAR = 0.3  # nearer than this two arrangements are timed twice
# Spinning threads take cores from the web server beside them, which is not in the timing.
_SPINNING_GAIN = 1.15
# What begins at less than this share of the best so far is not tried in other arrangements.
_HOPELESS = 0.6

Open = Callable[[int, bool], Session]
"""Opens the candidate for a number of streams, spinning or not."""


def ladder(provider: Provider, threads: int, streams: int | None) -> list[int]:
    """Numbers of streams to try, in this order; one that was asked for is the only one."""
    if streams is not None:
        return [min(streams, threads)]
    if provider is Provider.CUDA:
        return [1, 2]
    steps = [min(threads, MAX_STREAMS)]
    while steps[-1] > 1:
        steps.append(steps[-1] // 2)
    return steps


class Contest:
    """The fastest session so far. At most it and the one on trial are loaded at once.

    Args:
        tokens: Short texts, of which the batches for timing are made.
        seconds: Time after which no further arrangement is opened.
    """

    def __init__(self, tokens: TokenIds, seconds: float) -> None:
        self._batches = [tokens[row : row + _BATCH] for row in range(0, len(tokens), _BATCH)]
        self._one = tokens[:1]
        self._until = time.monotonic() + seconds
        self.session: Session | None = None
        self.best: Arrangement | None = None

    def enter(self, reopen: Open, steps: Sequence[int], prove: Callable[[Session], Measurement]) -> Measurement:
        """Hold a candidate against its probes and time it; then in other arrangements, while they may still win.

        Args:
            reopen: Opens the candidate.
            steps: Numbers of streams to try.
            prove: Says what its vectors are worth; one with an error goes no further.

        Returns:
            What `prove` said, with the best arrangement and all that were timed.
        """
        session = reopen(steps[0], False)
        result = prove(session)
        if result.error is not None:
            return result
        own = self._timed(session)
        tried = {(own.streams, False): own}
        self._crown(session, own)
        one_for_all = session if result.provider is Provider.CUDA else None
        del session  # one that lost must not stay in memory beside the next
        for streams in steps[1:]:
            if self._closed(own):
                break
            opened = reopen if one_for_all is None else lambda k, _: one_for_all.with_streams(k)
            own, found = self._trial(opened, own, streams)
            tried |= {(each.streams, False): each for each in (own, found) if each is not None}
            if found is None or not beats(found, own):
                break  # still fewer streams would be slower still
            own = found
        if result.provider is Provider.CPU and own.threads > own.streams and not self._closed(own):
            own, found = self._trial(reopen, own, own.streams, spinning=True)
            tried |= {(each.streams, each.spinning): each for each in (own, found) if each is not None}
            own = found if found is not None and beats(found, own) else own
        return replace(result, arrangement=own, tried=tuple(tried.values()))

    def _trial(
        self, reopen: Open, own: Arrangement, streams: int, spinning: bool = False
    ) -> tuple[Arrangement, Arrangement | None]:
        """One more arrangement of a candidate that has proven itself.

        Returns:
            The one before, timed again if it is the best and the new one is near it, for a burst of other work must not
            decide between them; and the new one, None where it does not work.
        """
        try:
            session = reopen(streams, spinning)
            found = self._timed(session)
            if self.session is not None and self.best is own and _near(found, own):
                own = self.best = _better_of(own, self._timed(self.session))
                found = _better_of(found, self._timed(session))
        except Exception:  # noqa: BLE001  a plugin may raise anything; the candidate has another arrangement
            return own, None
        self._crown(session, found)
        return own, found

    def _closed(self, own: Arrangement) -> bool:
        """Whether a candidate that is as fast as this is tried no further."""
        hopeless = self.best is not None and own.texts_per_second < _HOPELESS * self.best.texts_per_second
        return hopeless or time.monotonic() > self._until

    def _crown(self, session: Session, arrangement: Arrangement) -> None:
        if self.best is None or beats(arrangement, self.best):
            self.session, self.best = session, arrangement

    def _timed(self, session: Session) -> Arrangement:
        alone = min(_seconds(session, self._one) for _ in range(_LONE_RUNS))
        speed = 0.0
        for _ in range(_WINDOWS):
            speed = max(speed, _throughput(session, self._batches))
            if self.best is not None and speed < _HOPELESS / 2 * self.best.texts_per_second:
                break
        return Arrangement(session.threads, session.streams, session.spinning, speed, 1000 * alone)


def beats(one: Arrangement, other: Arrangement) -> bool:
    """Whether the first is faster, or about as fast and clearly quicker with a lone run; spinning must gain more."""
    if one.spinning and not other.spinning:
        return one.texts_per_second > _SPINNING_GAIN * other.texts_per_second
    if abs(one.texts_per_second - other.texts_per_second) <= _TIE * other.texts_per_second:
        return one.milliseconds < _QUICKER * other.milliseconds
    return one.texts_per_second > other.texts_per_second


def _near(one: Arrangement, other: Arrangement) -> bool:
    return abs(one.texts_per_second - other.texts_per_second) <= _NEAR * other.texts_per_second


def _better_of(one: Arrangement, again: Arrangement) -> Arrangement:
    """What one arrangement showed in two timings."""
    speed = max(one.texts_per_second, again.texts_per_second)
    return replace(one, texts_per_second=speed, milliseconds=min(one.milliseconds, again.milliseconds))


def _seconds(session: Session, tokens: TokenIds) -> float:
    start = time.perf_counter()
    session.run(tokens)
    return time.perf_counter() - start


def _throughput(session: Session, batches: Sequence[TokenIds]) -> float:
    """Texts a second with one caller a stream, each with a batch under way all the time.

    Of each caller's runs a fast one counts, not the mean: what else the machine does meanwhile must not decide.
    """
    rates: list[list[float]] = [[] for _ in range(session.streams)]
    faults: list[Exception] = []
    until = time.perf_counter() + _WINDOW_SECONDS

    def call(caller: int) -> None:
        turn = caller
        try:
            while not rates[caller] or time.perf_counter() < until:
                tokens = batches[turn % len(batches)]
                rates[caller].append(len(tokens) / _seconds(session, tokens))
                turn += 1
        except Exception as error:  # noqa: BLE001  raised again below, where it is seen
            faults.append(error)

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(session.streams)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if faults:
        raise faults[0]
    return sum(sorted(own)[int(_FAST * (len(own) - 1))] for own in rates)
