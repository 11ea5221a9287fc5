"""What Driftline is meant to reach, in one run and one table: `python benchmarks/reach.py --texts FILE`.

FILE holds short texts (BANKING77's test.csv), `--reference` those the drift reference is built from (its train.csv).
Every round measures, one after the other: the bare runtime; the service without a cache, on a home that holds nothing
but the backbone; infinity with the same weights under the same load; the service with every text cached, with head
adapters, with LoRA adapters. Then, in rounds of their own, bulk work and overload, and once a soak. Needs `wrk`;
infinity's environment is made at the first run (benchmarks/peer.py). Exits with 1 when requests failed; a target that
is not met is a row of the table.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from homes import add_heads, copy_backbone
from load import BodyFile, embedding_body
from loras import add_loras
from machine import describe, lengths, read_texts, served
from measures import (
    PEER_MANY_SECONDS,
    UNCACHED,
    Bench,
    agreement,
    measure_bare,
    measure_bulk,
    measure_cache,
    measure_heads,
    measure_loras,
    measure_overload,
    measure_server,
    measure_soak,
)
from peer import default_venv, make_venv, running_peer, versions
from targets import Samples, show, show_others
from texts import TICKETS, batches, default_model, mixed_lengths

from cli.server import running_service

GROUPS = ("bare", "service", "infinity", "cache", "heads", "loras", "bulk", "overload", "soak")
HEADS, LORAS = 64, 16


def main() -> None:
    """Run the rounds, print the table."""
    o = _options()
    texts = read_texts(o.texts)
    random.Random(0).shuffle(texts)
    samples = Samples()
    print(describe())
    if "infinity" in o.only:
        print(f"infinity: {versions(make_venv(o.venv)).strip()}, fp32")
    try:
        with tempfile.TemporaryDirectory(prefix="driftline-reach-") as name:
            _measure(_prepare(Path(name), o, texts), o, samples)
    finally:  # what was measured before something broke took minutes
        print(f"\nmedian of {o.rounds} rounds of {o.seconds} s windows:")
        show(samples)
        show_others(samples)
    if samples.failed:
        raise SystemExit(f"requests failed, so these figures do not count: {samples.failed}")


def _measure(bench: Bench, o: argparse.Namespace, samples: Samples) -> None:
    """All that was asked for."""
    for number in range(1, o.rounds + 1):
        print(f"round {number} of {o.rounds}", file=sys.stderr)
        _round(bench, o, samples, first=number == 1)
    if "bulk" in o.only:
        measure_bulk(bench, o.texts, samples, o.rounds)
    if "overload" in o.only:
        measure_overload(bench, samples, o.rounds, dict(each.split("=", 1) for each in o.set))
    if "soak" in o.only:
        measure_soak(bench, samples, o.soak_requests)


def _round(bench: Bench, o: argparse.Namespace, samples: Samples, *, first: bool) -> None:
    """Everything that is measured in turn; the first round also shows that both servers compute the same."""
    if "bare" in o.only:
        runtime = measure_bare(bench, o.texts, samples)
        print(runtime)
    if "service" in o.only:
        with running_service(bench.plain, worker=False, settings=UNCACHED) as url:
            print(served(url))  # every time: what is fastest is measured anew at each start
            measure_server(url, bench, samples, "", bench.seconds)
    if "infinity" in o.only:
        with running_peer(o.venv, bench.model) as url:
            measure_server(url, bench, samples, "infinity ", max(bench.seconds, PEER_MANY_SECONDS))
            if first:
                with running_service(bench.plain, worker=False) as ours:
                    least = agreement(ours, url, bench)
                print(f"smallest cosine between the two servers' vectors of 64 texts: {least:.5f}")
    if "cache" in o.only:
        measure_cache(bench, samples)
    if "heads" in o.only:
        measure_heads(bench, samples)
    if "loras" in o.only:
        measure_loras(bench, samples)


def _prepare(folder: Path, o: argparse.Namespace, texts: list[str]) -> Bench:
    """Homes and request bodies; prints the lengths of the texts."""
    plain, heads, loras = (folder / name for name in ("plain", "heads", "loras"))
    model = copy_backbone(o.data_dir, plain)
    tokenizer = default_model(plain)[1]
    mixed = mixed_lengths(texts, tokenizer, 1024)
    print(f"{len(texts)} short texts, tokens: {lengths(tokenizer.encode(texts, truncate=True).counts)}")
    print(f"{len(mixed)} of mixed length, tokens: {lengths(tokenizer.encode(mixed, truncate=True).counts)}")
    bench = Bench(
        plain=plain,
        heads=heads,
        loras=loras,
        model=model,
        bodies={
            "single": BodyFile(folder, "single", [embedding_body(model, text) for text in texts]),
            "many": BodyFile(folder, "many", [embedding_body(model, each) for each in batches(texts, 32, 256)]),
            "mixed": BodyFile(folder, "mixed", [embedding_body(model, each) for each in batches(mixed, 32, 256)]),
        },
        texts=texts,
        seconds=o.seconds,
        folder=folder,
    )
    if "heads" in o.only:
        copy_backbone(o.data_dir, heads)
        bench.made_heads = add_heads(heads, model, HEADS, read_texts(o.reference or o.texts))
    if "loras" in o.only:
        copy_backbone(o.data_dir, loras)
        bench.made_loras = add_loras(loras, LORAS)
    return bench


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--texts", type=Path, default=TICKETS, help="CSV or JSONL with a text column")
    add("--reference", type=Path, default=None, help="texts of the drift reference [default: --texts]")
    add("--data-dir", type=Path, default=None, help="the home whose backbone is measured; it is not changed")
    add("--rounds", type=int, default=3)
    add("--seconds", type=int, default=8, help="length of a window; infinity's long requests get more")
    add("--venv", type=Path, default=default_venv(), help="infinity's environment [default: %(default)s]")
    add("--soak-requests", type=int, default=200_000)
    add("--only", nargs="+", choices=GROUPS, default=GROUPS, help="measure some of it")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service under overload")
    return parser.parse_args()


if __name__ == "__main__":
    main()
