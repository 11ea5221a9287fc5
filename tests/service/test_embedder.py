"""From texts to base vectors with the real backbone: sharing, order, leaving, limits."""

import asyncio
import threading
import time

import numpy as np
import pytest

from encoder.errors import EmptyText, TextTooLong
from monitoring.metrics import Metrics
from service.cache import VectorCache
from service.embedder import Embedder
from service.errors import ClientGone, EncodeFailed, Overloaded, Problem
from service.recorder import ServingRecorder
from service.threads import Pool

LONG = "word " * 400


@pytest.fixture
async def make(exact_encoder):
    made = []
    pool = Pool("test", 2)

    def build(**options):
        defaults = {
            "batch_tokens": 4096,
            "queue_tokens": 100_000,
            "queue_seconds": 60.0,
            "max_request_tokens": 100_000,
            "deadline_seconds": 30,
        }
        cache = VectorCache(options.pop("cache_bytes", 2**26))
        recorder = ServingRecorder(Metrics())
        embedder = Embedder(exact_encoder, cache, recorder, pool, **{**defaults, **options})
        embedder.start()
        made.append(embedder)
        return embedder

    yield build
    for embedder in made:
        embedder.stop()
    pool.close()


class Slow:
    """Holds the real session until `go` is called."""

    def __init__(self, embedder):
        self.event = threading.Event()
        self.runs = []
        runtime = embedder.batcher._runtime
        forward = runtime.forward

        def held(prepared):
            self.event.wait(10)
            self.runs.append(len(prepared.adapters))
            return forward(prepared)

        runtime.forward = held

    def go(self):
        self.event.set()


async def test_vectors_come_in_order_whatever_the_batch(make, exact_encoder):
    texts = [f"{'word ' * (n * 7 % 60)}number {n}" for n in range(200)]
    embedded = await make(batch_tokens=512).embed(texts, truncate=False)
    expected = exact_encoder.encode(texts)
    assert np.abs(embedded.vectors - expected.vectors).max() < 1e-5
    assert embedded.tokens == sum(expected.counts)


async def test_one_by_one_in_a_batch_and_from_the_cache_are_one_vector(make):
    embedder = make()
    alone = (await embedder.embed(["the card was declined"], truncate=False)).vectors[0]
    fresh = make()
    mixed = (await fresh.embed(["long " * 200, "the card was declined", "x"], truncate=False)).vectors[1]
    cached = await fresh.embed(["the card was declined"], truncate=False)
    assert np.abs(alone - mixed).max() < 1e-5
    assert np.array_equal(cached.vectors[0], mixed)
    assert cached.cached == 1


async def test_identical_texts_in_flight_are_computed_once(make):
    embedder = make()
    slow = Slow(embedder)
    requests = [asyncio.create_task(embedder.embed(["same", "same", f"own {n}"], truncate=False)) for n in range(6)]
    await asyncio.sleep(0.05)
    slow.go()
    results = await asyncio.gather(*requests)
    assert sum(slow.runs) == 7
    assert all(np.array_equal(r.vectors[0], results[0].vectors[0]) for r in results)
    assert all(np.array_equal(r.vectors[0], r.vectors[1]) for r in results)
    assert {r.tokens for r in results} == {3 + 3 + 4}


async def test_a_caller_who_left_is_skipped_and_others_still_get_the_text(make):
    embedder = make()
    slow = Slow(embedder)
    first = asyncio.create_task(embedder.embed(["first"], truncate=False))
    await asyncio.sleep(0.05)  # the runtime is busy with it

    async def gone():
        return True

    leaving = asyncio.create_task(embedder.embed(["shared", "mine alone"], truncate=False, gone=gone))
    staying = asyncio.create_task(embedder.embed(["shared"], truncate=False))
    with pytest.raises(ClientGone):
        await leaving
    slow.go()
    assert (await staying).vectors.shape == (1, 384)
    await first
    assert sum(slow.runs) == 2
    assert embedder._recorder.metrics.registry.get_sample_value("driftline_skipped_texts_total") == 1
    assert not embedder._flights
    again = await embedder.embed(["mine alone"], truncate=False)
    assert again.cached == 0


async def test_a_cancelled_request_leaves_nothing_behind(make):
    embedder = make()
    slow = Slow(embedder)
    task = asyncio.create_task(embedder.embed(["one", "two"], truncate=False))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not embedder._flights
    slow.go()


async def test_refused_texts_name_their_place_in_the_request(make):
    embedder = make()
    await embedder.embed(["known"], truncate=False)
    with pytest.raises(TextTooLong) as refused:
        await embedder.embed(["known", "new", LONG], truncate=False)
    assert refused.value.index == 2
    assert refused.value.limit == 256
    with pytest.raises(EmptyText) as empty:
        await embedder.embed(["known", " \n"], truncate=False)
    assert empty.value.index == 1
    assert not embedder._flights
    assert embedder.batcher.waiting_tokens == 0


async def test_a_cut_text_in_cache_or_flight_is_still_refused_to_who_did_not_ask(make):
    embedder = make()
    slow = Slow(embedder)
    cutting = asyncio.create_task(embedder.embed([LONG], truncate=True))
    await asyncio.sleep(0.05)
    with pytest.raises(TextTooLong):
        await embedder.embed([LONG], truncate=False)
    slow.go()
    cut = await cutting
    assert (cut.truncated, cut.tokens) == (1, 256)
    with pytest.raises(TextTooLong):
        await embedder.embed([LONG], truncate=False)
    assert (await embedder.embed([LONG], truncate=True)).cached == 1


async def test_limits_of_tokens_queue_and_time(make):
    with pytest.raises(Problem) as too_many:
        await make(max_request_tokens=20).embed(["a few words here"] * 5, truncate=False)
    assert too_many.value.status == 413
    embedder = make(queue_tokens=10, deadline_seconds=0.3)
    slow = Slow(embedder)
    running = [asyncio.create_task(embedder.embed([f"this runs {n}"], truncate=False)) for n in range(2)]
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(embedder.embed(["this one waits"], truncate=False))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await embedder.embed(["this one is far too many tokens"], truncate=False)
    with pytest.raises(Problem) as late:
        await waiting
    assert late.value.status == 504
    slow.go()
    for task in running:
        with pytest.raises(Problem):
            await task
    assert not embedder._flights


async def test_a_deadline_of_the_caller_is_kept_to_the_point(make, monkeypatch):
    monkeypatch.setattr("service.embedder.SWEEP_SECONDS", 20)
    embedder = make()
    slow = Slow(embedder)
    started = time.monotonic()
    with pytest.raises(Problem) as late:
        await embedder.embed(["never in time"], truncate=False, deadline=0.03)
    assert late.value.status == 504
    assert time.monotonic() - started < 5  # sooner than the sweep of all requests
    assert not embedder._flights
    slow.go()


async def test_an_answer_says_where_its_time_went(make):
    embedder = make()
    slow = Slow(embedder)
    task = asyncio.create_task(embedder.embed(["how long does it take"], truncate=False))
    await asyncio.sleep(0.1)
    slow.go()
    embedded = await task
    assert embedded.tokenize_seconds > 0
    assert embedded.inference_seconds > 0.05
    assert 0 <= embedded.queue_seconds < 5
    again = await embedder.embed(["how long does it take"], truncate=False)
    assert (again.tokenize_seconds, again.queue_seconds, again.inference_seconds) == (0, 0, 0)


async def test_the_deadline_counts_from_the_beginning_tokenising_included(make):
    embedder = make(deadline_seconds=0.2)
    go = threading.Event()
    blocked = [asyncio.create_task(embedder._pool(go.wait, 10)) for _ in range(2)]
    await asyncio.sleep(0.02)
    started = time.monotonic()
    with pytest.raises(Problem) as late:
        await embedder.embed([f"{n} words that are to be tokenised in a thread" * 4 for n in range(9)], truncate=False)
    assert late.value.status == 504
    assert time.monotonic() - started < 2
    go.set()
    await asyncio.gather(*blocked)
    assert not embedder._flights


async def test_large_requests_are_tokenised_beside_the_loop(make):
    embedder = make()
    texts = [f"text number {n} with a few more words to make it long enough" for n in range(300)]
    ticks = 0

    async def count():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.002)

    counter = asyncio.create_task(count())
    both = await asyncio.gather(embedder.embed(texts, truncate=False), embedder.embed(texts, truncate=False))
    counter.cancel()
    assert np.array_equal(both[0].vectors, both[1].vectors)
    assert ticks > 10
    assert embedder.cache.misses + embedder.cache.hits == 600


async def test_a_text_that_cannot_be_computed_fails_alone(make):
    embedder = make()
    runtime = embedder.batcher._runtime
    forward = runtime.forward
    poison = embedder.encoder.tokenizer.encode(["zebra"]).ids[0][1]

    def fails(prepared):
        if (prepared.batch.ids == poison).any():
            raise RuntimeError("out of memory")
        return forward(prepared)

    runtime.forward = fails
    good = asyncio.create_task(embedder.embed(["fine", "also fine"], truncate=False))
    bad = asyncio.create_task(embedder.embed(["fine too", "a zebra"], truncate=False))
    assert (await good).vectors.shape == (2, 384)
    with pytest.raises(EncodeFailed) as failed:
        await bad
    assert failed.value.index == 1
