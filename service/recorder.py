"""Writes what serving does into the instruments of monitoring.metrics, cheaply: what every request counts is summed up
here and handed over at a scrape."""

from typing import TYPE_CHECKING, Any

from monitoring.metrics import Metrics
from service.cache import VectorCache

if TYPE_CHECKING:  # snapshot needs the embedder, which needs this file
    from service.snapshot import Snapshot


class ServingRecorder:
    """Counts requests, batches and texts. Batches come from the batcher's threads, the rest from the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.in_flight = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, Any] = {}
        self._models: dict[str, list[int]] = {}
        self._cache_seen = [0, 0, 0]

    def batch(self, *, texts: int, tokens: int, padded: int, seconds: float, waited: float) -> None:
        """One batch was computed; its oldest text had `waited` seconds for it."""
        self.metrics.batches.inc()
        self.metrics.batch_texts.observe(texts)
        self.metrics.batch_tokens.observe(padded)
        self.metrics.padding_tokens.inc(padded - tokens)
        self.metrics.batch_seconds.observe(seconds)
        self.metrics.queue_seconds.observe(waited)

    def skipped(self, texts: int) -> None:
        """Texts were not computed because every caller had left."""
        self.metrics.skipped_texts.inc(texts)

    def caller_left(self) -> None:
        """A caller left before the answer was ready."""
        self.metrics.dropped_callers.inc()

    def joined(self, texts: int) -> None:
        """Texts joined the same text of another request."""
        self.metrics.cache_single_flight.inc(texts)

    def cut(self, reason: str) -> None:
        """A connection was cut because its client took too long, sent too much, or was one too many."""
        self.metrics.connections_cut.labels(reason).inc()

    def refused(self, reason: str) -> None:
        """A request was refused because of load."""
        self.metrics.queue_refused.labels(reason).inc()

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (route, method, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        histogram = self._seconds.get(route)
        if histogram is None:
            histogram = self._seconds[route] = self.metrics.request_seconds.labels(route)
        histogram.observe(seconds)

    def texts(self, model: str, texts: int, tokens: int, truncated: int) -> None:
        """Texts were embedded for a caller; `model` is a served name, so their number is bounded by the registry."""
        counts = self._models.get(model)
        if counts is None:
            counts = self._models[model] = [0, 0]
        counts[0] += texts
        counts[1] += tokens
        self.metrics.request_texts.observe(texts)
        if truncated:
            self.metrics.truncated_texts.inc(truncated)

    def flush(self) -> None:
        """Hand what was counted on the hot path to the instruments; called at a scrape."""
        for (route, method, status), count in self._requests.items():
            self.metrics.requests.labels(route, method, str(status)).inc(count)
        for model, (texts, tokens) in self._models.items():
            self.metrics.texts.labels(model).inc(texts)
            self.metrics.tokens.labels(model).inc(tokens)
        self._requests.clear()
        self._models.clear()
        self.metrics.requests_in_flight.set(self.in_flight)

    def catalog(self, before: "Snapshot", now: "Snapshot", version: str) -> None:
        """What is served changed."""
        for backbone in now.backbones.values():
            session = backbone.encoder.session
            self.metrics.build_info.labels(
                version, backbone.record.name, str(session.provider), str(session.precision)
            ).set(1)
        for state in ("queued", "running"):
            self.metrics.jobs.labels(state).set(now.jobs.get(state, 0))
        for (adapter, end), at in now.job_ends.items():
            self.metrics.last_job_timestamp.labels(adapter, end.value).set(at.timestamp())
        self.metrics.job_recoveries.set(now.job_recoveries)
        for name, view in now.adapters.items():
            old = before.adapters.get(name)
            was = old.serving.digest if old is not None and old.serving is not None else None
            live = view.serving
            if live is not None and live.digest != was:
                self.metrics.live_version_info.remove_by_labels({"adapter": name})
                self.metrics.live_version_info.labels(name, str(live.number), live.digest).set(1)
                self.metrics.swaps.labels(name, "done").inc()
            if view.fault is not None and (old is None or old.fault != view.fault):
                self.metrics.swaps.labels(name, "refused").inc()

    def cache(self, cache: VectorCache) -> None:
        """Bring the cache's instruments up to date; called at a scrape."""
        now = [cache.hits, cache.misses, cache.evictions]
        counters = (self.metrics.cache_hits, self.metrics.cache_misses, self.metrics.cache_evictions)
        for counter, value, before in zip(counters, now, self._cache_seen, strict=True):
            counter.inc(value - before)
        self._cache_seen = now
        self.metrics.cache_bytes.set(cache.bytes)
        self.metrics.cache_entries.set(len(cache))
        self.metrics.cache_limit_bytes.set(cache.limit_bytes)
