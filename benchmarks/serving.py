"""Throughput over HTTP beside the bare runtime, in one run: `python benchmarks/serving.py --texts FILE`.

Needs `wrk` on the PATH. The cache is switched off for the comparison (every text is computed) and on for the last line.
Each figure is the median of `--rounds` alternating rounds.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from machine import describe, lengths, read_texts

from cli.server import running_service
from encoder.encoder import Encoder
from encoder.tokens import plan_batches
from registry import backbones
from registry.home import Home

LUA = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local i = 0
function setup(thread) thread:set("offset", math.random(#bodies)) end
request = function()
  i = i + 1
  local body = bodies[(offset + i) %% #bodies + 1]
  return wrk.format("POST", "/v1/embeddings", {["Content-Type"] = "application/json"}, body)
end
"""


def bare_runtime(encoder: Encoder, ids: list[list[int]]) -> float:
    """Texts per second of sorted batches of 32 tokenised texts straight through the runtime."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    start = time.perf_counter()
    for begin in range(0, len(order), 32):
        encoder.run([ids[i] for i in order[begin : begin + 32]])
    return len(ids) / (time.perf_counter() - start)


def wrk(url: str, bodies: list[str], connections: int, seconds: int, folder: Path) -> tuple[float, float, int]:
    """Requests per second, p99 in milliseconds, and failed requests of one wrk run."""
    body_file = folder / "bodies"
    body_file.write_text("\n".join(bodies))
    script = folder / "post.lua"
    script.write_text(LUA % body_file)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", out).groups()  # type: ignore[union-attr]
    p99 = float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    return rate, p99, int(failed[1]) if failed else 0 + (sum(map(int, socket_errors.groups())) if socket_errors else 0)


def main() -> None:
    """Run the rounds and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--texts", type=Path, default=Path(__file__).parent.parent / "examples/support-desk/tickets.jsonl"
    )
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    texts = read_texts(options.texts)
    random.Random(0).shuffle(texts)
    home = Home.at(options.data_dir)
    registry = home.registry()
    with registry.reading() as session:
        backbone = backbones.default(session)
    if backbone is None:
        raise SystemExit("no backbone is imported; run: driftline backbone import")
    encoder = Encoder.open(backbone.digest, registry.fetch)
    tokenized = encoder.tokenizer.encode(texts, truncate=True)
    print(describe())
    print(f"{len(texts)} texts of {options.texts.name}, tokens: {lengths(tokenized.counts)}")
    print(f"runtime: {encoder.session.provider} {encoder.session.precision}")
    planned = plan_batches(tokenized.counts, 4096)
    print(f"(a budget of 4,096 padded tokens would cut them into {len(planned)} batches)")

    model = backbone.name
    single = [json.dumps({"model": model, "input": text, "encoding_format": "base64"}) for text in texts]
    many = [
        json.dumps({"model": model, "input": random.Random(i).sample(texts, 32), "encoding_format": "base64"})
        for i in range(256)
    ]
    bare: list[float] = []
    rows: dict[str, list[tuple[float, float, int]]] = {"single": [], "many": [], "cached": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(options.rounds):
            bare.append(bare_runtime(encoder, tokenized.ids))
            with running_service(home.data_dir, worker=False, settings={"DRIFTLINE_CACHE_BYTES": "0"}) as url:
                wrk(url, single, 32, 2, folder)
                rows["single"].append(wrk(url, single, 32, options.seconds, folder))
                rows["many"].append(wrk(url, many, 8, options.seconds, folder))
            with running_service(home.data_dir, worker=False) as url:
                wrk(url, single, 32, 3, folder)
                rows["cached"].append(wrk(url, single, 32, options.seconds, folder))
    base = statistics.median(bare)
    print(f"\n| what (median of {options.rounds} rounds) | requests/s | texts/s | of the bare runtime | p99 | failed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(f"| bare runtime, sorted batches of 32 | | {base:,.0f} | 1.00 | | |")
    names = {
        "single": ("1 text, 32 connections, no cache", 1),
        "many": ("32 texts, 8 connections, no cache", 32),
        "cached": ("1 text, 32 connections, cached", 1),
    }
    for kind, (label, size) in names.items():
        rate = statistics.median(r[0] for r in rows[kind])
        p99 = statistics.median(r[1] for r in rows[kind])
        failed = sum(r[2] for r in rows[kind])
        print(f"| {label} | {rate:,.0f} | {rate * size:,.0f} | {rate * size / base:.2f} | {p99:.0f} ms | {failed} |")
    registry.close()


if __name__ == "__main__":
    main()
