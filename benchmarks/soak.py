"""Does the service grow? Its memory over many requests: `python benchmarks/soak.py --texts FILE`.

No two requests are alike: single texts, requests of 8 texts, and texts of 8 to 256 tokens with a long tail, each made
unique by a number in it, so the cache (made small, so that it is full early) evicts all the time. Resident memory is
read after every `--step` requests; a line is fitted to the readings after the warm-up, and its rise over the whole run
is held against `--allowed`. Exits with 1 when memory grows by more, or a request fails.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from load import UNIQUE, BodyFile, drive, embedding_body, scratch
from machine import describe, lengths, read_texts, served
from process import MIB, memory, server_pid
from texts import TICKETS, batches, default_model, mixed_lengths

from cli.server import running_service
from encoder.tokens import Tokenizer
from registry.home import Home

CACHE_BYTES = 16 * MIB
WARM_UP = 0.2
"""Share of the run whose readings are left out of the fit: the cache fills and allocators find their size."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory in bytes after so many requests."""

    requests: int
    resident: int
    proportional: int


@dataclass(frozen=True, slots=True)
class Report:
    """All readings of a run, and requests that failed."""

    readings: list[Reading]
    failed: int

    @property
    def slope(self) -> float:
        """Bytes a request, by least squares over the readings after the warm-up."""
        kept = self._kept()
        return float(np.polyfit([r.requests for r in kept], [r.resident for r in kept], 1)[0])

    @property
    def growth(self) -> float:
        """Rise of the fitted line from the first reading after the warm-up to the last, as a share of that first."""
        kept = self._kept()
        return self.slope * (kept[-1].requests - kept[0].requests) / kept[0].resident

    def _kept(self) -> list[Reading]:
        after = self.readings[-1].requests * WARM_UP
        kept = [reading for reading in self.readings if reading.requests >= after]
        if len(kept) < 3:
            raise ValueError("too few readings for a line: more requests, or a smaller step")
        return kept


def request_bodies(model: str, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The mix: of 16 requests 12 with one text, 2 with eight, 2 with one text of any length; all with UNIQUE inside."""
    singles = (f"{text} {UNIQUE}" for text in itertools.cycle(texts))
    eights = ([f"{text} {UNIQUE}" for text in batch] for batch in itertools.cycle(batches(texts, 8, 128)))
    mixed = (f"{UNIQUE} {text}" for text in mixed_lengths(texts, tokenizer, 1024))
    bodies = []
    for text in mixed:
        chosen = [*itertools.islice(singles, 6), next(eights), text]
        bodies += [embedding_body(model, each) for each in chosen]
    return bodies


def soak(url: str, bodies: BodyFile, requests: int, step: int, connections: int = 32) -> Iterator[tuple[Reading, int]]:
    """Send requests until there were enough, giving a reading and the failures so far after each step or a little more.

    `wrk` takes a time and not a number, so each window is as long as the rate of the one before it calls for.
    """
    pid = server_pid(url)
    done = failed = 0
    rate = drive(url, bodies, connections, 3, warm_up=0).rate
    while done < requests:
        target = min(requests, (done // step + 1) * step)
        while done < target:
            found = drive(url, bodies, connections, min(60.0, (target - done) / rate + 0.5), warm_up=0, first=done)
            done += found.served
            failed += found.failed
            rate = max(1.0, found.rate)
        used = memory(pid)
        yield Reading(done, used.resident, used.proportional), failed


def main() -> None:
    """Run the soak, print each reading and the line through them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=TICKETS, help="CSV or JSONL with a text column")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--step", type=int, default=20_000, help="requests between two readings")
    parser.add_argument("--cache-bytes", type=int, default=CACHE_BYTES)
    parser.add_argument("--allowed", type=float, default=0.02, help="largest growth, as a share [default: %(default)s]")
    o = parser.parse_args()
    texts = read_texts(o.texts)
    model, tokenizer = default_model(o.data_dir)
    print(describe())
    print("short texts, tokens:", lengths(tokenizer.encode(texts, truncate=True).counts))
    mixed = mixed_lengths(texts, tokenizer, 1024)
    print("long tail, tokens:", lengths(tokenizer.encode(mixed, truncate=True).counts))
    readings: list[Reading] = []
    failed = 0
    settings = {"DRIFTLINE_CACHE_BYTES": str(o.cache_bytes), "DRIFTLINE_TRUNCATE": "true"}
    with running_service(Home.at(o.data_dir).data_dir, worker=False, settings=settings) as url, scratch() as folder:
        print(f"{served(url)}; cache {o.cache_bytes / MIB:.0f} MiB")
        print("| requests | resident | proportional | failed |\n| ---: | ---: | ---: | ---: |")
        bodies = BodyFile(Path(folder), "soak", request_bodies(model, texts, tokenizer))
        for reading, failed in soak(url, bodies, o.requests, o.step):
            readings.append(reading)
            shown = (reading.resident / MIB, reading.proportional / MIB)
            print(f"| {reading.requests:,} | {shown[0]:.1f} MiB | {shown[1]:.1f} MiB | {failed} |", flush=True)
    report = Report(readings, failed)
    print(f"slope after the warm-up: {report.slope * 100_000 / MIB:+.2f} MiB in 100,000 requests; ", end="")
    print(f"growth {report.growth:+.2%}, at most {o.allowed:.0%} allowed")
    if failed or report.growth > o.allowed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
