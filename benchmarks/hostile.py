"""Hostile clients: what a crowd of them costs the others, and long runs of the tests that fuzz.

`python benchmarks/hostile.py crowd` serves usual clients alone, then beside a crowd of connections that are silent,
drip headers or bodies, do not read, send rubbish, or push bodies that are refused; it prints latency, failures, memory.
`python benchmarks/hostile.py long --examples 20000` runs schemathesis and the fuzzers of artifacts and datasets.
"""

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
from process import MIB, memory, server_pid

from cli.server import running_service
from registry.home import Home

ROOT = Path(__file__).resolve().parent.parent
LONG = (
    "tests/service/test_schemathesis.py",
    "tests/encoder/test_fuzz_artifacts.py",
    "tests/registry/test_fuzz_datasets.py",
    "tests/training/test_hostile_peft.py",
)
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def silent(link: Link) -> None:
    """Connects and says nothing."""
    await link[0].read()


async def slow_headers(link: Link) -> None:
    """Sends a header line a second and never ends them."""
    link[1].write(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n")
    while True:
        link[1].write(b"x-a: b\r\n")
        await link[1].drain()
        await asyncio.sleep(1)


async def slow_body(link: Link) -> None:
    """Promises 8 MB and sends a byte a second."""
    link[1].write(HEAD + b"content-length: 8000000\r\n\r\n")
    while True:
        link[1].write(b"x")
        await link[1].drain()
        await asyncio.sleep(1)


async def unread(link: Link) -> None:
    """Asks for large answers, one after the other, and reads none."""
    while True:
        link[1].write(b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 50)
        await link[1].drain()
        await asyncio.sleep(0.5)


async def rubbish(link: Link) -> None:
    """Sends what is no HTTP, and is cut at once."""
    link[1].write(random.randbytes(2000))
    await link[0].read()
    await asyncio.sleep(0.5)


async def refused_bodies(link: Link) -> None:
    """Pushes a chunked body on after it was refused."""
    link[1].write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        link[1].write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await link[1].drain()
        await asyncio.sleep(0.05)


KINDS: tuple[Callable[[Link], Coroutine[Any, Any, None]], ...] = (
    silent, slow_headers, slow_body, unread, rubbish, refused_bodies,
)  # fmt: skip


@dataclass
class Seen:
    """What usual clients saw: seconds of each answer, and how many requests failed."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def line(self, name: str, took: float, resident: int) -> str:
        """One row of the table."""
        middle, high, most = (1000 * np.quantile(self.seconds, q) for q in (0.5, 0.99, 1.0))
        rate = len(self.seconds) / took
        return (
            f"| {name} | {len(self.seconds)} | {self.failed} | {rate:.0f} | {middle:.1f} | {high:.1f} | {most:.0f} | "
            f"{resident / MIB:.0f} |"
        )


async def usual(url: str, model: str, until: float, seen: Seen, number: int) -> None:
    """One client that embeds a new text again and again."""
    async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
        count = 0
        while time.monotonic() < until:
            count += 1
            text = f"client {number} asks for the {count}th time what its card costs"
            began = time.perf_counter()
            try:
                answer = await client.post("/v1/embeddings", json={"model": model, "input": text})
                seen.failed += answer.status_code != 200
            except httpx2.HTTPError:
                seen.failed += 1
            seen.seconds.append(time.perf_counter() - began)


async def hostile(host: str, port: int, act: Callable[[Link], Coroutine[Any, Any, None]], until: float) -> int:
    """One hostile client, which connects again whenever it is cut; how often it was."""
    cut = 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                link = await asyncio.open_connection(host, port)
                try:
                    await act(link)
                finally:
                    link[1].transport.abort()
        cut += 1
        await asyncio.sleep(0.1)
    return cut


async def crowd(url: str, model: str, clients: int, connections: int, seconds: float) -> None:
    """Print the table: usual clients alone, beside the crowd, and alone again."""
    place, pid = urlsplit(url), server_pid(url)
    assert place.hostname is not None
    assert place.port is not None
    print("| | requests | failed | a second | p50 ms | p99 ms | longest ms | RSS MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, many in (("alone", 0), (f"beside {connections} hostile connections", connections), ("alone again", 0)):
        seen, began = Seen(), time.monotonic()
        until = began + seconds
        crowding = [hostile(place.hostname, place.port, KINDS[i % len(KINDS)], until) for i in range(many)]
        work = [usual(url, model, until, seen, i) for i in range(clients)]
        cuts = (await asyncio.gather(*crowding, *work))[:many]
        print(seen.line(name, time.monotonic() - began, memory(pid).resident), flush=True)
        if many:
            by_kind = {kind.__name__: sum(cuts[i] for i in range(n, many, len(KINDS))) for n, kind in enumerate(KINDS)}
    print(f"\ntimes that hostile clients were cut, or the end came: {by_kind}")


def main() -> None:
    """Run the part that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("crowd")
    one.add_argument("--data-dir", type=Path, default=None)
    one.add_argument("--clients", type=int, default=4)
    one.add_argument("--connections", type=int, default=200)
    one.add_argument("--seconds", type=float, default=30)
    two = parts.add_parser("long")
    two.add_argument("--examples", type=int, default=5000)
    asked = parser.parse_args()
    if asked.part == "long":
        environment = {**os.environ, "DRIFTLINE_EXAMPLES": str(asked.examples)}
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pytest", "-q", f"--basetemp={folder}/tests", *LONG]
            sys.exit(subprocess.run(command, cwd=ROOT, env=environment).returncode)
    patience = {"HEADER_SECONDS": "5", "BODY_SECONDS": "5", "ANSWER_SECONDS": "5", "MAX_BODY_BYTES": str(MIB)}
    settings = {f"DRIFTLINE_{name}": value for name, value in patience.items()}
    with running_service(Home.at(asked.data_dir).data_dir, worker=False, settings=settings) as url:
        model = httpx2.get(f"{url}/v1/models").json()["data"][0]["id"]
        asyncio.run(crowd(url, model, asked.clients, asked.connections, asked.seconds))
        said = httpx2.get(f"{url}/metrics").text.splitlines()
        print("\n".join(line for line in said if line.startswith("driftline_connections_cut_total")))


if __name__ == "__main__":
    main()
