"""The batcher with a runtime that is plain arithmetic: what it joins, cuts, skips, refuses and isolates."""

import asyncio
import threading
import time

import numpy as np
import pytest

from encoder.batch import plan_batches
from service.batching import Batcher, Flight
from service.drain import DrainRate
from service.errors import Overloaded


class Padded(list):
    """Token ids of a batch."""

    @property
    def size(self):
        return len(self) * max(map(len, self))


class Arithmetic:
    """A runtime whose vector of a text is (sum of its ids, length); `gate` holds it up, id 666 poisons a batch."""

    def __init__(self, streams=1):
        self.streams = streams
        self.prepared = []
        self.batches = []
        self.running = self.most_running = 0
        self.gate = threading.Event()
        self.gate.set()
        self.long_gate = threading.Event()  # holds texts of over 100 tokens
        self.long_gate.set()

    def plan(self, lengths, budget):
        return plan_batches(lengths, budget)

    def prepare(self, flights):
        self.prepared.append(len(flights))
        return Padded([flight.ids for flight in flights])

    def forward(self, ids):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.gate.wait(5)
        if any(len(row) > 100 for row in ids):
            self.long_gate.wait(5)
        self.running -= 1
        self.batches.append([len(row) for row in ids])
        if any(666 in row for row in ids):
            raise RuntimeError("poison")
        return np.array([[sum(row), len(row)] for row in ids], dtype=np.float32)


class Notes:
    def __init__(self):
        self.seen = []

        self.skips = 0

    def batch(self, **values):
        self.seen.append(values)

    def skipped(self, texts):
        self.skips += texts


class Bench:
    """A batcher whose deliveries are collected."""

    def __init__(self, streams=1, **options):
        self.runtime, self.notes, self.results = Arithmetic(streams), Notes(), {}
        defaults = {"batch_tokens": 64, "queue_tokens": 10_000, "queue_seconds": 60.0}
        self.batcher = Batcher(self.runtime, self.deliver, self.notes, **{**defaults, **options})
        self.batcher.start()

    def deliver(self, landed):
        for flight, vector in zip(landed.flights, landed.vectors, strict=True):
            self.results[flight.key] = vector

    def submit(self, *ids, prefix=""):
        flights = [Flight(f"{prefix}{n}".encode(), list(row), False) for n, row in enumerate(ids)]
        self.batcher.admit(sum(map(len, ids)))
        self.batcher.submit(flights)
        return flights

    async def until(self, count):
        async with asyncio.timeout(10):
            while len(self.results) < count:
                await asyncio.sleep(0.002)


@pytest.fixture
async def bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.runtime.gate.set()
        one.batcher.stop()


async def hold(bench):
    """Occupy every stream with one text, so that what follows has to wait."""
    bench.runtime.gate.clear()
    for number in range(bench.runtime.streams):
        bench.submit([1], prefix=f"held{number}-")
        async with asyncio.timeout(5):
            while bench.runtime.running <= number:
                await asyncio.sleep(0.001)


async def test_what_waits_is_taken_together_without_a_timer(bench):
    b = bench()
    await hold(b)
    for n in range(5):
        b.submit([n, n], prefix=f"r{n}-")
    b.runtime.gate.set()
    await b.until(6)
    assert b.runtime.batches == [[1], [2, 2, 2, 2, 2]]


async def test_a_lone_text_does_not_wait(bench):
    b = bench()
    started = time.perf_counter()
    b.submit([1, 2, 3])
    await b.until(1)
    assert time.perf_counter() - started < 5
    assert b.results[b"0"].tolist() == [6, 3]


async def test_batches_are_sorted_and_keep_the_padded_budget(bench):
    b = bench(batch_tokens=20)
    await hold(b)
    lengths = [9, 2, 7, 1, 3, 2, 8, 1, 30, 2, 6]
    b.submit(*[[n] * length for n, length in enumerate(lengths)])
    b.runtime.gate.set()
    await b.until(len(lengths) + 1)
    for batch in b.runtime.batches:
        assert batch == sorted(batch)
        assert max(batch) * len(batch) <= 20 or len(batch) == 1
    assert all(b.results[str(n).encode()].tolist() == [n * length, length] for n, length in enumerate(lengths))


async def test_only_the_poisonous_text_fails(bench):
    b = bench()
    await hold(b)
    b.submit([1], [666], [3], [4, 4])
    b.runtime.gate.set()
    await b.until(5)
    assert b.results[b"1"] is None
    assert [b.results[k].tolist() for k in (b"0", b"2", b"3")] == [[1, 1], [3, 1], [8, 2]]
    b.submit([7], prefix="after")
    await b.until(6)
    assert b.results[b"after0"].tolist() == [7, 1]


async def test_texts_nobody_waits_for_are_skipped_and_counted(bench):
    b = bench()
    await hold(b)
    flights = b.submit([1, 1], [2, 2], [3, 3])
    flights[0].dead = flights[2].dead = True
    b.runtime.gate.set()
    await b.until(2)
    assert b.runtime.batches[-1] == [2]
    assert b.notes.skips == 2
    assert b.batcher.waiting_tokens == 0


async def test_a_full_queue_refuses_and_says_when_to_come_back(bench):
    b = bench(queue_tokens=100, batch_tokens=200)
    await hold(b)
    b.submit([1] * 90)
    with pytest.raises(Overloaded) as refused:
        b.submit([1] * 20, prefix="more")
    assert refused.value.retry_after > 0
    b.runtime.gate.set()
    await b.until(2)
    b.submit([1] * 500, prefix="large")  # larger than the queue: an empty one takes it, or it could never be served
    await b.until(3)


async def test_a_wait_that_would_be_too_long_is_refused_at_once(bench):
    b = bench(batch_tokens=8, queue_seconds=1.0)
    await hold(b)
    b.batcher.rate.tokens_per_second = 100.0
    b.submit(*[[1]] * 90, prefix="first")  # 0.9 s of work
    b.submit([1] * 20, prefix="second")  # still within a second when it comes
    assert b.batcher.waiting_tokens == 110
    b.submit([1], prefix="small")  # only as much of the large one is before it as it takes a turn for
    for n in range(15):
        b.submit([2] * 4, prefix=f"more{n}")

    def crowd():
        for n in range(15):
            b.submit([3] * 4, prefix=f"and more{n}")

    with pytest.raises(Overloaded) as refused:
        crowd()
    assert 1.0 < refused.value.retry_after < 1.1
    b.runtime.gate.set()


async def test_as_many_batches_run_at_once_as_there_are_streams(bench):
    b = bench(streams=3, batch_tokens=8)
    b.runtime.gate.clear()
    b.submit(*[[n, n, n, n] for n in range(20)])
    async with asyncio.timeout(5):
        while b.runtime.running < 3:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    b.runtime.gate.set()
    await b.until(20)
    assert b.runtime.most_running == 3


async def test_what_waits_is_shared_between_idle_streams(bench):
    b = bench(streams=2, batch_tokens=1024)
    b.runtime.gate.clear()
    b.submit(*[[n] * 16 for n in range(16)])
    async with asyncio.timeout(5):
        while b.runtime.running < 2:
            await asyncio.sleep(0.001)
    b.runtime.gate.set()
    await b.until(16)
    assert sorted(map(len, b.runtime.batches)) == [8, 8]


async def test_a_long_text_holds_up_one_stream_only(bench):
    b = bench(streams=2, batch_tokens=32)
    await hold(b)
    b.runtime.long_gate.clear()
    b.submit([9] * 500, prefix="long")
    for n in range(6):
        b.submit([1, 1], prefix=f"short{n}")
    b.runtime.gate.set()
    await b.until(8)  # all but the long one, which still runs
    assert b"long0" not in b.results
    b.runtime.long_gate.set()
    await b.until(9)
    assert [500] in b.runtime.batches


async def test_the_drain_rate_follows_time_not_batches():
    rate = DrainRate()
    rate.wake()
    for _ in range(40):
        await asyncio.sleep(0.01)
        rate.drained(50)
    first = rate.tokens_per_second
    for _ in range(40):
        await asyncio.sleep(0.01)
        rate.drained(500)
    assert rate.tokens_per_second > first
    assert rate.seconds(1000) == pytest.approx(1000 / rate.tokens_per_second)


async def test_a_small_request_does_not_wait_for_the_whole_of_a_large_one(bench):
    b = bench(batch_tokens=32)
    await hold(b)
    b.submit(*[[1, 1]] * 400, prefix="large")
    b.submit([5, 5], prefix="small")
    b.runtime.gate.set()
    await b.until(402)
    assert list(b.results).index(b"small0") < 50


async def test_the_next_batch_is_prepared_while_one_runs(bench):
    b = bench(batch_tokens=8)
    await hold(b)
    b.submit(*[[n, n] for n in range(8)])
    async with asyncio.timeout(5):
        while len(b.runtime.prepared) < 2:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert b.runtime.prepared == [1, 4]  # one ahead, no more
    assert not b.runtime.batches
    b.runtime.gate.set()
    await b.until(9)


async def test_alive_follows_the_runtime_thread(bench):
    b = bench()
    assert b.batcher.alive(5)
    await asyncio.sleep(0.06)
    assert b.batcher.alive(0.05)  # an idle one is not stuck
    await hold(b)
    await asyncio.sleep(0.06)
    assert not b.batcher.alive(0.05)
    b.runtime.gate.set()
    await b.until(1)
    b.batcher.stop()
    assert not b.batcher.alive(60)


async def test_batches_are_told_with_their_padding(bench):
    b = bench()
    await hold(b)
    b.submit([1], [2, 2, 2])
    b.runtime.gate.set()
    await b.until(3)
    last = b.notes.seen[-1]
    assert (last["texts"], last["tokens"], last["padded"]) == (2, 4, 6)
    assert last["waited"] >= 0


async def test_light_traffic_says_nothing_of_what_the_machine_can_do(bench):
    b = bench(streams=2)
    b.batcher.rate.tokens_per_second = 30_000.0
    for n in range(10):
        b.submit([1, 2, 3], prefix=f"lone{n}")
        await b.until(n + 1)
        await asyncio.sleep(0.02)
    assert b.batcher.rate.tokens_per_second == 30_000.0


async def test_a_runtime_that_only_fails_is_not_alive(bench):
    b = bench()
    b.submit([666], prefix="bad")
    await b.until(1)
    await asyncio.sleep(0.06)
    assert not b.batcher.alive(0.05)
    b.submit([1], prefix="good")
    await b.until(2)
    assert b.batcher.alive(0.05)


async def test_a_batch_that_was_cut_before_its_callers_left_is_not_computed(bench):
    b = bench(batch_tokens=4)
    await hold(b)
    flights = b.submit(*[[n, n, n, n] for n in range(4)])
    async with asyncio.timeout(5):
        while len(b.runtime.prepared) < 2:
            await asyncio.sleep(0.001)
    for flight in flights[1:]:
        flight.dead = True
    b.runtime.gate.set()
    await b.until(2)
    await asyncio.sleep(0.05)
    assert len(b.runtime.batches) == 2
    assert b.notes.skips == 3
    assert b.batcher.waiting_tokens == 0
