"""How much a text's vector depends on its company: `python benchmarks/same_text.py --texts FILE`.

The same texts are embedded over HTTP one by one, in one request, in requests mixed with long texts, and again from the
cache; the largest differences are printed beside the smallest cosine.
"""

import argparse
import random
from pathlib import Path

import httpx2
import numpy as np
from client import Vectors, embed
from machine import describe, read_texts

from cli.server import running_service
from registry.home import Home


def line(name: str, vectors: Vectors, reference: Vectors) -> str:
    """One row of the table."""
    cosine = (vectors * reference).sum(1).min()
    return f"| {name} | {np.abs(vectors - reference).max():.1e} | {cosine:.7f} |"


def main() -> None:
    """Embed four ways and compare with the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--texts", type=Path, default=Path(__file__).parent.parent / "examples/support-desk/tickets.jsonl"
    )
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--count", type=int, default=256)
    options = parser.parse_args()
    texts = read_texts(options.texts)
    random.Random(0).shuffle(texts)
    texts = texts[: options.count]
    long = " ".join(texts)[:900]
    home = Home.at(options.data_dir)
    print(describe())
    for precision in ("auto", "fp32"):
        uncached = {"DRIFTLINE_CACHE_BYTES": "0", "DRIFTLINE_PRECISION": precision}
        with running_service(home.data_dir, worker=False, settings=uncached) as url:
            runtime = httpx2.get(f"{url}/info").json()["backbones"][0]
            model = httpx2.get(f"{url}/v1/models").json()["data"][0]["id"]
            alone, _ = embed(url, model, texts, batch=1)
            together, _ = embed(url, model, texts, batch=len(texts))
            mixed, _ = embed(url, model, [part for text in texts for part in (text, f"{text[:20]} {long}")], batch=64)
        with running_service(home.data_dir, worker=False, settings={"DRIFTLINE_PRECISION": precision}) as url:
            first, _ = embed(url, model, texts, batch=len(texts))
            cached, _ = embed(url, model, texts, batch=7)
        print(f"\nprecision asked: {precision}; serving: {runtime['provider']} {runtime['precision']}")
        print("| compared | largest difference | smallest cosine |\n| --- | ---: | ---: |")
        print(line("one request of all, with one by one", together, alone))
        print(line("mixed with long texts, with one by one", mixed[::2], alone))
        print(line("from the cache, with its first answer", cached, first))


if __name__ == "__main__":
    main()
