"""The local engine: reading, tokenising, computing and writing at once, so that the runtime never waits.

One thread reads and tokenises the window after next, as many threads as the runtime wants runs under way compute, and
the caller's thread hands finished windows to whoever writes them. The batches of a window are queued before those of
the window before it are done, so no run waits for the end of a window.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from encoder.bulk.model import Model, Vectors
from encoder.bulk.window import Done, Tokens, Window, tokenize
from encoder.runtime import Provider

BATCH = 48
"""Texts of a batch: measured, 2 to 3 % faster than 32 on two cores, and no slower than any larger number."""
GPU_BATCH, GPU_TOKENS = 512, 32_768
"""Most texts and padded tokens of a batch on a GPU, which takes far more at once before it gains nothing."""
_SWITCH_SECONDS = 0.0005

Tick = Callable[[int], None]
"""Called with the number of texts computed since the last call."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    tokens: Tokens
    base: Vectors
    embedding: Vectors
    runs: list[Future[int]]


def compute(windows: Iterator[Window], model: Model, *, truncate: bool, base: bool, tick: Tick) -> Iterator[Done]:
    """Vectors of windows, in their order.

    Args:
        windows: The rows; at most three windows are held at once.
        model: What computes them.
        truncate: Cut texts that are too long, which are bad rows otherwise.
        base: Give the base vectors too.
        tick: Told after each batch.
    """

    def ahead() -> Tokens | None:
        window = next(windows, None)
        return None if window is None else tokenize(window, model.encoder.tokenizer, truncate)

    with (
        _brisk_switching(),
        ThreadPoolExecutor(1, "bulk-read") as reading,
        ThreadPoolExecutor(model.streams, "bulk-run") as running,
    ):
        under_way: deque[_UnderWay] = deque()
        try:
            coming = reading.submit(ahead)
            while (tokens := coming.result()) is not None:
                coming = reading.submit(ahead)
                under_way.append(_start(tokens, model, running))
                if len(under_way) > 1:
                    yield _finish(under_way.popleft(), base, tick)
            while under_way:
                yield _finish(under_way.popleft(), base, tick)
        finally:
            running.shutdown(wait=False, cancel_futures=True)


def _start(tokens: Tokens, model: Model, running: ThreadPoolExecutor) -> _UnderWay:
    """Queue the runs of a window, from the longest texts to the shortest."""
    base = np.empty((len(tokens.ids), model.dimension), dtype=np.float32)
    embedding = base if model.head is None else np.empty_like(base)
    gpu = model.encoder.session.provider is Provider.CUDA

    def run(batch: list[int]) -> int:
        found = model.run([tokens.ids[index] for index in batch])
        base[batch] = found
        if model.head is not None:
            embedding[batch] = model.finish(found)
        return len(batch)

    lengths = list(map(len, tokens.ids))
    batches = plan(lengths, GPU_BATCH, GPU_TOKENS) if gpu else plan(lengths, BATCH)
    return _UnderWay(tokens, base, embedding, [running.submit(run, batch) for batch in batches])


def plan(lengths: Sequence[int], rows: int, tokens: int | None = None) -> list[list[int]]:
    """Batches of row positions, longest rows first, of at most so many rows and padded tokens (but at least a row)."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches = []
    start = 0
    while start < len(order):
        fitting = rows if tokens is None else max(1, min(rows, tokens // lengths[order[start]]))
        batches.append(order[start : start + fitting])
        start += fitting
    return batches


def _finish(under_way: _UnderWay, base: bool, tick: Tick) -> Done:
    for run in as_completed(under_way.runs):
        tick(run.result())
    window, tokens = under_way.tokens.window, under_way.tokens
    return Done(
        window.first,
        len(window.texts),
        tokens.where,
        under_way.embedding,
        under_way.base if base else None,
        window.kept,
        tokens.bad,
        sum(map(len, tokens.ids)),
    )


@contextmanager
def _brisk_switching() -> Iterator[None]:
    """Let a thread that comes back from the runtime have the interpreter soon, and not after the usual 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
