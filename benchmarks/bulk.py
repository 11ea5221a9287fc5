"""`driftline embed` beside the bare runtime, and `driftline reproject` beside it: `python benchmarks/bulk.py`.

All in this process with one opened encoder, in alternating rounds. Bare is what benchmarks/bare.py measures: token ids
sorted by length, batches of 32, as many runs under way as the session wants. Embed is file to file, the first look at
the input included: JSONL to Parquet, with the bare backbone, and with a head whose base vectors are stored too. Every
text is different: each round over the input adds a number to it. Reproject is file to file too, on `--times` copies of
the embedded rows, base vectors kept in the output and left out.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import safetensors.numpy
from bare import opened, runtime_line, sorted_batches, streams_of, texts_per_second
from machine import describe, lengths, read_texts
from texts import TICKETS

from encoder.adapters import Head
from encoder.bulk.layout import Origin, open_writer
from encoder.bulk.model import Model
from encoder.bulk.options import Options
from encoder.bulk.reproject import reproject_file
from encoder.bulk.run import embed_file
from encoder.encoder import Encoder
from encoder.manifest import FileEntry, HeadManifest, Parity, sha256
from monitoring.recipe import Recipe
from training.head_export import export_head
from training.weights import HeadWeights


def make_head(encoder: Encoder, texts: list[str], seed: int) -> Head:
    """A head of the shape a default retrain gives, with small random weights."""
    dimension, hidden, chance = encoder.manifest.dimension, Recipe().hidden, np.random.default_rng(seed)
    inner = chance.normal(0, dimension**-0.5, (hidden, dimension)).astype(np.float32)
    outer = chance.normal(0, 0.01 * hidden**-0.5, (dimension, hidden)).astype(np.float32)
    weights = HeadWeights(outer, np.zeros(dimension, np.float32), inner, np.zeros(hidden, np.float32))
    base = encoder.encode(texts[:64], truncate=True).vectors
    files = {
        "head.onnx": export_head(weights),
        "probes.safetensors": safetensors.numpy.save({"inputs": base, "outputs": weights.apply(base)}),
    }
    manifest = HeadManifest(
        backbone=encoder.digest,
        dimension=encoder.manifest.dimension,
        files={name: FileEntry.of(data) for name, data in files.items()},
        parity=Parity(len(base), 0.0, 1.0),
        recipe={},
        dataset={},
        metrics={},
        parent=None,
        job="benchmark",
        versions={},
    )
    held = {sha256(data): data for data in (*files.values(), manifest.to_bytes())}
    return Head.open(manifest.digest, held.__getitem__)


def varied(texts: list[str], count: int) -> list[str]:
    """So many different texts: the given ones, then again with a number behind."""
    return [texts[i % len(texts)] + (f" {i}" if i >= len(texts) else "") for i in range(count)]


def repeated(source: Path, target: Path, times: int) -> int:
    """The rows of a file several times over, with its metadata; gives the number of rows."""
    with pq.ParquetFile(source) as file:
        origin = Origin.of(file.schema_arrow.metadata)
        assert origin is not None
        with open_writer(target, file.schema_arrow, origin) as writer:
            for _ in range(times):
                for batch in file.iter_batches(8192):
                    writer.write_batch(batch, row_group_size=len(batch))
        return file.metadata.num_rows * times


def timed(measure: Callable[[], tuple[float, int]]) -> tuple[float, float, int]:
    """Rows a second, CPU seconds of this process, and rows, of something that gives its seconds and rows."""
    cpu = time.process_time()
    seconds, rows = measure()
    return rows / seconds, time.process_time() - cpu, rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, default=TICKETS, help="CSV or JSONL with a text column")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=30_000, help="texts to embed")
    parser.add_argument("--times", type=int, default=10, help="copies of the embedded rows to reproject")
    options = parser.parse_args()
    print(describe())
    encoder = opened(options.data_dir)
    texts = varied(read_texts(options.texts), options.count)
    tokens = encoder.tokenizer.encode(texts, truncate=True)
    print(f"{runtime_line(encoder)}\n{len(texts)} texts, {lengths(tokens.counts)}")
    batches = sorted_batches(tokens.ids)
    backbone = Model(encoder.manifest.name, encoder)
    headed = Model("head@1", encoder, head=make_head(encoder, texts, 0))
    following = make_head(encoder, texts, 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = folder / "texts.jsonl"
        source.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))

        def bare() -> tuple[float, int]:
            return len(texts) / texts_per_second(encoder, batches, streams_of(encoder)), len(texts)

        def embed(model: Model, out: str) -> tuple[float, int]:
            start = time.perf_counter()
            embed_file(
                source, folder / out, lambda pinned: model, Options(id_column="id"), overwrite=True, restart=True
            )
            return time.perf_counter() - start, len(texts)

        def reproject(base: bool) -> tuple[float, int]:
            done = reproject_file(big, folder / "next.parquet", following, "head@2", base=base, overwrite=True)
            return done.seconds, done.rows

        bare()
        embed(headed, "headed.parquet")
        big = folder / "big.parquet"
        rows = repeated(folder / "headed.parquet", big, options.times)
        measures: dict[str, Callable[[], tuple[float, int]]] = {
            "bare runtime": bare,
            "embed, backbone": lambda: embed(backbone, "backbone.parquet"),
            "embed, head and base vectors": lambda: embed(headed, "headed.parquet"),
            f"reproject {rows} rows, base kept": lambda: reproject(True),
            f"reproject {rows} rows, base left out": lambda: reproject(False),
        }
        rounds = [{name: timed(measure) for name, measure in measures.items()} for _ in range(options.rounds)]
    print("| | rows a second | of bare | times embed | CPU µs a row |\n| --- | ---: | ---: | ---: | ---: |")
    for name in measures:
        rate = statistics.median(each[name][0] for each in rounds)
        of_bare = statistics.median(each[name][0] / each["bare runtime"][0] for each in rounds)
        of_embed = statistics.median(each[name][0] / each["embed, head and base vectors"][0] for each in rounds)
        cpu = statistics.median(each[name][1] / each[name][2] for each in rounds)
        print(f"| {name} | {rate:,.0f} | {of_bare:.3f} | {of_embed:.1f} | {cpu * 1e6:,.1f} |")
    print("each round:", json.dumps([{name: round(each[name][0]) for name in measures} for each in rounds]))


if __name__ == "__main__":
    main()
