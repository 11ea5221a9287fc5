"""Open-loop load: requests leave at times fixed beforehand, however slow the answers: `python benchmarks/openloop.py`.

A closed loop cannot overload a server, as it waits for it. Here arrivals are random (exponential gaps, seeded) at a
fixed rate, each on a connection that is free or on a new one, and a latency counts from the planned moment to the last
byte of the answer, so a late sender cannot hide a queue. Prints one JSON document; benchmarks/overload.py runs it as a
process of its own beside the server. Bodies come from a file, one a line.
"""

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

OPENED_FIRST = 64
"""Connections opened before the clock runs."""


@dataclass(slots=True)
class Tally:
    """What came back; latencies in seconds by status.

    Attributes:
        sent: Requests planned inside the counted part.
        late: How long after its planned moment each was sent, in seconds.
        retry_after: Answers with status 429 that say when to come again.
        broken: Connections that ended before the answer.
    """

    sent: int = 0
    late: list[float] = field(default_factory=list)
    latencies: dict[int, list[float]] = field(default_factory=dict)
    retry_after: int = 0
    broken: int = 0


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, idle: "list[Connection]", tally: Tally) -> None:
        self._idle = idle
        self._tally = tally
        self._transport: Any = None
        self._head = b""
        self._missing = -1  # bytes of the body still to come; -1 before the headers are whole
        self._planned: float | None = None
        self._counted = False

    def connection_made(self, transport: Any) -> None:
        """Remember where to write."""
        self._transport = transport

    def send(self, request: bytes, planned: float, *, counted: bool) -> None:
        """Write one whole request that was planned for a moment of the monotonic clock."""
        self._planned, self._counted = planned, counted
        self._head, self._missing = b"", -1
        if counted:
            self._tally.sent += 1
            self._tally.late.append(time.monotonic() - planned)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer; when it is whole, note it and be free again."""
        if self._missing >= 0:
            self._missing -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            rest = len(self._head) - end - 4
            self._head = self._head[:end].lower()
            self._missing = int(self._header(b"content-length") or 0) - rest
        if self._missing <= 0:
            self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        """The server closed it; a request under way is broken."""
        if self._planned is not None and self._counted:
            self._tally.broken += 1
        self._planned = None
        with contextlib.suppress(ValueError):
            self._idle.remove(self)

    def _answered(self) -> None:
        planned, status = self._planned, int(self._head[9:12])
        if planned is not None and self._counted:
            self._tally.latencies.setdefault(status, []).append(time.monotonic() - planned)
            if status == 429 and self._header(b"retry-after"):
                self._tally.retry_after += 1
        self._planned = None
        if self._header(b"connection") == b"close":
            self._transport.close()
        else:
            self._idle.append(self)

    def _header(self, name: bytes) -> bytes:
        start = self._head.find(b"\r\n" + name + b":")
        if start < 0:
            return b""
        return self._head[start:].split(b"\r\n", 2)[1].partition(b":")[2].strip()


async def offer(
    url: str,
    path: str,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    warm_up: float,
    patience: float,
    seed: int,
) -> Tally:
    """Send `rate` requests a second for `warm_up` plus `seconds`, then wait up to `patience` seconds for answers."""
    loop, chance = asyncio.get_running_loop(), random.Random(seed)
    address = urlsplit(url)
    host, port = str(address.hostname), int(address.port or 80)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    tally = Tally()
    idle: list[Connection] = []
    opening: set[asyncio.Task[None]] = set()

    async def connect() -> Connection:
        return (await loop.create_connection(lambda: Connection(idle, tally), host, port))[1]

    async def send_on_new(request: bytes, planned: float, counted: bool) -> None:
        try:
            (await connect()).send(request, planned, counted=counted)
        except OSError:
            tally.sent += counted
            tally.broken += counted

    idle.extend([await connect() for _ in range(OPENED_FIRST)])
    begin = time.monotonic()
    planned = begin
    while (planned := planned + chance.expovariate(rate)) < begin + warm_up + seconds:
        if (wait := planned - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        request, counted = chance.choice(requests), planned >= begin + warm_up
        if idle:
            idle.pop().send(request, planned, counted=counted)
        else:
            task = asyncio.create_task(send_on_new(request, planned, counted))
            opening.add(task)
            task.add_done_callback(opening.discard)
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up and (opening or _answers(tally) + tally.broken < tally.sent):
        await asyncio.sleep(0.05)
    return tally


def _answers(tally: Tally) -> int:
    return sum(map(len, tally.latencies.values()))


def summary(values: Sequence[float]) -> dict[str, float]:
    """How many, and the middle, 99th percentile and largest in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}
    last = len(ordered) - 1
    return {
        "count": len(ordered),
        "p50": ordered[last // 2] * 1e3,
        "p99": ordered[min(last, int(len(ordered) * 0.99))] * 1e3,
        "max": ordered[-1] * 1e3,
    }


def main() -> None:
    """Run one load and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--path", default="/v1/embeddings")
    parser.add_argument("--bodies", type=Path, required=True, help="request bodies, one a line")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the counted part")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds of the same load before it")
    parser.add_argument("--patience", type=float, default=60.0, help="an answer later than this has timed out")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    bodies = [line.encode() for line in o.bodies.read_text(encoding="utf-8").splitlines() if line]
    load = offer(
        o.url,
        o.path,
        bodies,
        rate=o.rate,
        seconds=o.seconds,
        warm_up=o.warm_up,
        patience=o.patience,
        seed=o.seed,
    )
    tally = asyncio.run(load)
    report = {
        "sent": tally.sent,
        "offered": tally.sent / o.seconds,
        "late": summary(tally.late),
        "statuses": dict(Counter({status: len(found) for status, found in tally.latencies.items()})),
        "accepted": summary(tally.latencies.get(200, [])),
        "refused": summary(tally.latencies.get(429, [])),
        "retry_after": tally.retry_after,
        "broken": tally.broken,
        "timed_out": tally.sent - _answers(tally) - tally.broken,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
