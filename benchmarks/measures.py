"""The measurements of benchmarks/reach.py, each adding figures of one round to the samples.

Names of figures are those that benchmarks/targets.py compares.
"""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
from client import embed
from homes import Made
from load import BodyFile, alternate, drive, embedding_body, mean_rate
from overload import overload
from overload import show as show_overload
from process import MIB, memory, server_pid
from soak import Report, request_bodies, soak
from targets import Samples
from texts import default_model

from cli.server import running_service

UNCACHED = {"DRIFTLINE_CACHE_BYTES": "0"}
# A request of 32 texts takes infinity a second or more: a short window would count few of them.
PEER_MANY_SECONDS = 30


@dataclass(slots=True)
class Bench:
    """What every measurement needs.

    Attributes:
        plain: Home with the backbone only.
        heads, loras: Homes with adapters of one kind beside it.
        model: Name of the backbone.
        bodies: Request bodies by load: single, many, mixed.
        texts: The short texts.
        seconds: Length of a window.
        folder: Where body files are written.
        made_heads, made_loras: What those homes serve; None and empty until they are filled.
    """

    plain: Path
    heads: Path
    loras: Path
    model: str
    bodies: dict[str, BodyFile]
    texts: list[str]
    seconds: int
    folder: Path
    made_heads: Made | None = None
    made_loras: tuple[str, ...] = ()

    def singles(self, name: str, models: Sequence[str]) -> BodyFile:
        """Single-text requests, each to one of these models at random."""
        chance = random.Random(0)
        drawn = [embedding_body(chance.choice(models), text) for text in self.texts]
        return BodyFile(self.folder, name, drawn)


def measure_bare(bench: Bench, source: Path, samples: Samples) -> str:
    """The bare runtime, in a process of its own so that its threads and memory are gone afterwards."""
    script = Path(__file__).with_name("bare.py")
    command = [sys.executable, str(script), "--texts", str(source), "--data-dir", str(bench.plain), "--rounds", "1"]
    report = json.loads(subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True).stdout)
    for kind in ("short", "mixed"):
        samples.add(f"bare {kind}", report[kind]["together"])
        samples.add(f"bare {kind}, one run at a time", report[kind]["alone"])
    return str(report["runtime"])


def measure_server(url: str, bench: Bench, samples: Samples, prefix: str, many_seconds: int) -> None:
    """One connection, single texts, 32-text requests and mixed lengths, in this order, and the memory they left.

    The lightest load comes first: it would suffer most from work that a heavier one left in a queue.
    """
    one = drive(url, bench.bodies["single"], 1, bench.seconds)
    samples.add(f"{prefix}one p50", one.p50, failed=one.failed)
    samples.add(f"{prefix}one p99", one.p99)
    loads = (("single", 32, 1, bench.seconds), ("many", 8, 32, many_seconds), ("mixed", 8, 32, many_seconds))
    for load, connections, size, seconds in loads:
        found = drive(url, bench.bodies[load], connections, seconds)
        samples.add(f"{prefix}{load}", found.rate * size, failed=found.failed)
        samples.add(f"{prefix}{load} p99", found.p99)
    used = memory(server_pid(url))
    samples.add(f"{prefix}memory", used.resident / MIB)
    samples.add(f"{prefix}memory, proportional", used.proportional / MIB)


def measure_cache(bench: Bench, samples: Samples) -> None:
    """Single texts that are all in the cache; what `single` measured in the same round were all misses."""
    with running_service(bench.plain, worker=False) as url:
        embed(url, bench.model, bench.texts)
        before = _counter(url, "driftline_cache_misses_total")
        found = drive(url, bench.bodies["single"], 32, bench.seconds)
        samples.add("hits", found.rate, failed=found.failed)
        if missed := _counter(url, "driftline_cache_misses_total") - before:
            raise SystemExit(f"{missed:.0f} texts of the run that should only hit the cache were not in it")


def measure_heads(bench: Bench, samples: Samples) -> None:
    """Head adapters drawn at random beside one, and one head with and without a drift reference; no cache."""
    made = bench.made_heads
    assert made is not None
    with running_service(bench.heads, worker=False, settings=UNCACHED) as url:
        _compare(url, bench, samples, {"one head": made.heads[:1], f"{len(made.heads)} heads": made.heads})
        _compare(url, bench, samples, {"monitor off": [made.unwatched], "monitor on": [made.watched]})
        samples.add("vectors the monitor left out", _counter(url, "driftline_drift_skipped_observations_total"))


def measure_loras(bench: Bench, samples: Samples) -> None:
    """LoRA adapters drawn at random beside one, and beside the backbone alone on the same graph; no cache."""
    names = bench.made_loras
    with running_service(bench.loras, worker=False, settings=UNCACHED) as url:
        _compare(url, bench, samples, {"one lora": names[:1], f"{len(names)} loras": names})
        found = drive(url, bench.singles("no-lora", [bench.model]), 32, bench.seconds)
        samples.add("the backbone, its graph ready for LoRA", found.rate, failed=found.failed)


def _compare(url: str, bench: Bench, samples: Samples, loads: dict[str, Sequence[str]]) -> None:
    """Single texts to models drawn at random, two kinds of load in turn."""
    files = [bench.singles(name.replace(" ", "-"), models) for name, models in loads.items()]
    for name, outcomes in zip(loads, alternate(url, *files, 32, bench.seconds), strict=True):
        samples.add(name, mean_rate(outcomes), failed=sum(each.failed for each in outcomes))


def measure_bulk(bench: Bench, source: Path, samples: Samples, rounds: int) -> None:
    """`driftline embed` and `reproject`, file to file, beside a bare runtime on the same texts (benchmarks/bulk.py)."""
    script = Path(__file__).with_name("bulk.py")
    command = [sys.executable, str(script), "--texts", str(source), "--data-dir", str(bench.plain)]
    ended = subprocess.run([*command, "--rounds", str(rounds)], stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in ended.stdout.splitlines() if line.startswith("each round: "))
    for found in json.loads(line.removeprefix("each round: ")):
        samples.add("bulk bare", found["bare runtime"])
        samples.add("bulk", found["embed, backbone"])
        samples.add("re-encoding", found["embed, head and base vectors"])
        for name, rate in found.items():
            if name.startswith("reproject"):
                samples.add("reproject" if name.endswith("kept") else "reproject, base vectors left out", rate)


def measure_overload(bench: Bench, samples: Samples, rounds: int, settings: dict[str, str]) -> None:
    """Open-loop load at 0.8 and 4 times the capacity."""
    report = overload(
        bench.plain, bench.model, bench.texts, rounds=rounds, seconds=max(5, bench.seconds), settings=settings
    )
    show_overload(report, 4)
    for calm, over in zip(report.calm, report.overload, strict=True):
        samples.add("calm p99", calm["accepted"]["p99"])
        samples.add("overload p99", over["accepted"]["p99"])
        samples.add("refused p99", over["refused"]["p99"])
        samples.add("refused, slowest ms", over["refused"]["max"])
    samples.add("timed out", report.timed_out, failed=report.unfit)


def measure_soak(bench: Bench, samples: Samples, requests: int) -> None:
    """Memory over many requests that are all different, with a cache that is soon full."""
    settings = {"DRIFTLINE_CACHE_BYTES": str(16 * MIB), "DRIFTLINE_TRUNCATE": "true"}
    with running_service(bench.plain, worker=False, settings=settings) as url:
        tokenizer = default_model(bench.plain)[1]
        bodies = BodyFile(bench.folder, "soak", request_bodies(bench.model, bench.texts, tokenizer))
        found = list(soak(url, bodies, requests, requests // 10))
    report = Report([reading for reading, _ in found], found[-1][1])
    samples.add("soak growth", report.growth, failed=report.failed)
    samples.add("soak MiB in 100,000 requests", report.slope * 100_000 / MIB)


def _counter(url: str, name: str) -> float:
    """Sum of a counter over its labels, from `/metrics`."""
    lines = httpx2.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def agreement(url: str, peer: str, bench: Bench) -> float:
    """Smallest cosine between the two servers' vectors of 64 texts: that both compute the same thing."""
    ours, theirs = (embed(each, bench.model, bench.texts[:64], batch=64)[0] for each in (url, peer))
    return float((ours * theirs).sum(axis=1).min())
