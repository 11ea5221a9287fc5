"""The bare runtime, tokenised texts through the model in this process: `python benchmarks/bare.py --texts FILE`.

The encoder is opened as the service opens it. Texts are sorted by length, cut into batches of 32 and run with as many
runs under way as the session says is best; the same with one run at a time is printed beside it. Padding is part of
it, tokenising is not. Each of `--rounds` passes goes over all texts both ways, and one pass before them warms up.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import describe, lengths, read_texts
from texts import TICKETS, mixed_lengths

from encoder.encoder import Encoder
from registry import backbones
from registry.home import Home

BATCH = 32


def opened(data_dir: Path | None) -> Encoder:
    """The home's default backbone, opened with the service's defaults.

    Raises:
        SystemExit: The home has none.
    """
    registry = Home.at(data_dir).registry()
    try:
        with registry.reading() as session:
            record = backbones.default(session)
        if record is None:
            raise SystemExit("no backbone is imported; run: driftline backbone import")
        return Encoder.open(record.digest, registry.fetch)
    finally:
        registry.close()


def streams_of(encoder: Encoder) -> int:
    """How many runs should be under way at once."""
    streams: int = getattr(encoder.session, "streams", 1)
    return streams


def sorted_batches(ids: Sequence[list[int]]) -> list[list[list[int]]]:
    """Token ids in batches of 32 texts of similar length."""
    order = sorted(ids, key=len)
    return [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]


def texts_per_second(encoder: Encoder, batches: Sequence[list[list[int]]], streams: int) -> float:
    """One pass over all batches with `streams` runs under way."""
    start = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        for _ in pool.map(encoder.run, batches):
            pass
    return sum(map(len, batches)) / (time.perf_counter() - start)


def runtime_line(encoder: Encoder) -> str:
    """Provider, precision, threads and streams in one line."""
    session = encoder.session
    return (
        f"bare runtime: {session.provider} {session.precision}, {session.threads} threads, "
        f"{streams_of(encoder)} streams"
    )


def main() -> None:
    """Print texts a second, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=TICKETS, help="CSV or JSONL with a text column")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=4096, help="most texts of each kind")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    options = parser.parse_args()
    encoder = opened(options.data_dir)
    streams = streams_of(encoder)
    texts = read_texts(options.texts)
    kinds = {
        "short": texts[: options.count],
        "mixed": mixed_lengths(texts, encoder.tokenizer, min(options.count, 1024)),
    }
    if not options.json:
        print(describe())
        print(runtime_line(encoder))
        print("| texts | tokens | one run at a time | streams at once | of one at a time |")
        print("| --- | --- | ---: | ---: | ---: |")
    report: dict[str, object] = {"runtime": runtime_line(encoder)}
    for name, chosen in kinds.items():
        tokenized = encoder.tokenizer.encode(chosen, truncate=True)
        cut = sorted_batches(tokenized.ids)
        rates: dict[int, list[float]] = {1: [], streams: []}
        for count in rates:
            texts_per_second(encoder, cut, count)
        for _ in range(options.rounds):
            for count, found in rates.items():
                found.append(texts_per_second(encoder, cut, count))
        alone, together = (statistics.median(rates[count]) for count in (1, streams))
        report[name] = {"alone": alone, "together": together, "lengths": lengths(tokenized.counts)}
        if not options.json:
            print(
                f"| {name} | {lengths(tokenized.counts)} | {alone:,.0f} texts/s | {together:,.0f} texts/s | "
                f"{together / alone:.2f} |"
            )
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
