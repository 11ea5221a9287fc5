"""Four times more than the service can do: `python benchmarks/overload.py --texts FILE`.

Finds the capacity with a closed loop (32-text requests, 8 connections, no cache, default settings), then offers, by
benchmarks/openloop.py in a process of its own, 0.8 of it as the reference and `--times` of it as the overload, in
alternating rounds. Accepted requests should keep the reference's p99, all others should get 429 at once, and none
should time out. Exits with 1 when any request is answered otherwise, breaks or times out.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import BodyFile, drive, embedding_body, scratch
from machine import describe, lengths, read_texts, served
from texts import TICKETS, batches, default_model

from cli.server import running_service
from registry.home import Home

CALM = 0.8
"""Share of the capacity that is offered for the reference."""


@dataclass(frozen=True, slots=True)
class Report:
    """Capacity in requests a second, and what each round's open loops printed."""

    capacity: float
    calm: list[dict[str, Any]]
    overload: list[dict[str, Any]]

    def median(self, load: str, kind: str, figure: str) -> float:
        """Median over the rounds, as `median("overload", "accepted", "p99")`; milliseconds."""
        return statistics.median(each[kind][figure] for each in getattr(self, load))

    @property
    def unfit(self) -> int:
        """Requests that were neither served nor refused with 429."""
        rounds = self.calm + self.overload
        return int(sum(each["sent"] - each["accepted"]["count"] - each["refused"]["count"] for each in rounds))

    @property
    def timed_out(self) -> int:
        """Requests of the overload without an answer after a minute."""
        return int(sum(each["timed_out"] for each in self.overload))


def offered(url: str, bodies: Path, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """One open-loop run in a process of its own."""
    script = Path(__file__).with_name("openloop.py")
    command = [sys.executable, str(script), "--url", url, "--bodies", str(bodies), "--rate", str(rate)]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
    report: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return report


def overload(
    home: Path,
    model: str,
    texts: list[str],
    *,
    size: int = 32,
    times: float = 4.0,
    rounds: int = 3,
    seconds: float = 10.0,
    settings: Mapping[str, str] | None = None,
) -> Report:
    """Capacity, then `rounds` of reference and overload on a service with `settings`, all without a cache.

    Capacity is taken with default settings: a short queue would refuse some of a closed loop's connections.
    """
    uncached = {"DRIFTLINE_CACHE_BYTES": "0"}
    with scratch() as name:
        chosen = [embedding_body(model, batch if size > 1 else batch[0]) for batch in batches(texts, size, 256)]
        bodies = BodyFile(Path(name), "overload", chosen)
        with running_service(home, worker=False, settings=uncached) as url:
            capacity = drive(url, bodies, 8 if size > 1 else 32, seconds).rate
        report = Report(capacity, [], [])
        with running_service(home, worker=False, settings={**uncached, **(settings or {})}) as url:
            for seed in range(rounds):
                report.calm.append(offered(url, bodies.path, CALM * capacity, seconds, seed))
                report.overload.append(offered(url, bodies.path, times * capacity, seconds, seed))
    return report


def show(report: Report, times: float) -> None:
    """Print the table and the sentence below it."""
    print(f"capacity, closed loop: {report.capacity:.1f} requests/s")
    print("| offered | requests/s | served/s | p50 | p99 | 429 | p50 | p99 | slowest | other | sent late, p99 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, rounds in ((f"{CALM} ×", report.calm), (f"{times:g} ×", report.overload)):
        for each in rounds:
            yes, no = each["accepted"], each["refused"]
            served_rate = yes["count"] / each["sent"] * each["offered"] if each["sent"] else 0.0
            other = each["sent"] - yes["count"] - no["count"]
            print(
                f"| {name} | {each['offered']:.1f} | {served_rate:.1f} | {yes['p50']:.0f} ms | {yes['p99']:.0f} ms | "
                f"{no['count']} | {no['p50']:.1f} ms | {no['p99']:.1f} ms | {no['max']:.1f} ms | {other} | "
                f"{each['late']['p99']:.1f} ms |"
            )
    refused = sum(each["refused"]["count"] for each in report.overload)
    hinted = sum(each["retry_after"] for each in report.overload)
    ratio = report.median("overload", "accepted", "p99") / report.median("calm", "accepted", "p99")
    print(f"p99 of accepted requests: {ratio:.2f} of the reference; {report.timed_out} timed out; ", end="")
    print(f"{hinted} of {refused} answers with 429 say when to come again")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=TICKETS, help="CSV or JSONL with a text column")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", type=int, default=32, help="texts in each request")
    parser.add_argument("--times", type=float, default=4.0, help="overload as a multiple of the capacity")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service, DRIFTLINE_…=…"
    )
    o = parser.parse_args()
    texts = read_texts(o.texts)
    model, tokenizer = default_model(o.data_dir)
    home = Home.at(o.data_dir).data_dir
    settings = dict(each.split("=", 1) for each in o.set)
    print(describe())
    print(f"{len(texts)} texts, tokens: {lengths(tokenizer.encode(texts, truncate=True).counts)}")
    print(f"settings: {', '.join(o.set) or 'defaults'}, no cache; {o.size} texts a request")
    with running_service(home, worker=False, settings=settings) as url:
        print(served(url))
    report = overload(
        home, model, texts, size=o.size, times=o.times, rounds=o.rounds, seconds=o.seconds, settings=settings
    )
    show(report, o.times)
    if report.unfit:
        raise SystemExit(f"{report.unfit} requests were neither served nor refused with 429")


if __name__ == "__main__":
    main()
