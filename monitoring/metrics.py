"""Every Prometheus instrument of Driftline, in a registry of its own: one `Metrics` a process.

`catalogue` lists name, kind, labels and help of each, so that the documentation can be tested against it. Counts are
exported rather than averages, because counts of replicas add up and averages do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitoring.drift_metrics import STATES, DriftRecorder
from monitoring.reference import Reference
from monitoring.window import P_VALUE_EDGES

LATENCY_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARED_SECONDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
BATCH_TEXTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCH_TOKENS: Final = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
REQUEST_TEXTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One line of the catalogue; `name` is what a scrape shows (`_total` included)."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """All instruments as attributes; make one a process and pass it on."""

    def __init__(self) -> None:
        # A `_created` series beside every counter would double what is scraped and say nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.catalogue: list[Instrument] = []
        self._serving()
        self._shared_cache()
        self._versions_and_jobs()
        self._drift()
        self._rollouts()

    def exposition(self) -> tuple[bytes, str]:
        """What `/metrics` answers: body and content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def drift(self, adapter: str, version: str, reference: Reference) -> DriftRecorder:
        """The recorder of a newly watched version of an adapter; the former version's gauges and cells are removed."""
        return DriftRecorder(self, adapter, version, reference)

    def _serving(self) -> None:
        self.requests = self._counter(
            "driftline_requests", ("route", "method", "status"), "HTTP requests answered, by route template and status."
        )
        self.request_seconds = self._histogram(
            "driftline_request_seconds", ("route",), LATENCY_SECONDS, "Seconds from a request's arrival to its answer."
        )
        self.requests_in_flight = self._gauge(
            "driftline_requests_in_flight", (), "Requests that wait for their answer now."
        )
        self.request_texts = self._histogram(
            "driftline_request_texts", (), REQUEST_TEXTS, "Texts in one embedding request."
        )
        self.texts = self._counter("driftline_texts", ("model",), "Texts embedded for callers, cached ones included.")
        self.tokens = self._counter("driftline_tokens", ("model",), "Tokens of the texts embedded, as billed in usage.")
        self.truncated_texts = self._counter("driftline_truncated_texts", (), "Texts cut to the backbone's limit.")
        self.batches = self._counter("driftline_batches", (), "Batches the runtime computed.")
        self.batch_texts = self._histogram("driftline_batch_texts", (), BATCH_TEXTS, "Texts in one batch.")
        self.batch_tokens = self._histogram(
            "driftline_batch_tokens", (), BATCH_TOKENS, "Padded tokens in one batch: longest text times texts."
        )
        self.padding_tokens = self._counter("driftline_padding_tokens", (), "Tokens of batches that were only padding.")
        self.batch_seconds = self._histogram(
            "driftline_batch_seconds", (), LATENCY_SECONDS, "Seconds the runtime took for one batch."
        )
        self.queue_tokens = self._gauge("driftline_queue_tokens", (), "Tokens that wait for the runtime.")
        self.queue_seconds = self._histogram(
            "driftline_queue_seconds", (), LATENCY_SECONDS, "Seconds the oldest text of a batch waited for the runtime."
        )
        self.queue_refused = self._counter(
            "driftline_queue_refused_requests",
            ("reason",),
            "Requests refused because the queue was full or a deadline passed.",
        )
        self.dropped_callers = self._counter(
            "driftline_dropped_callers", (), "Callers who left before their texts were computed."
        )
        self.connections_cut = self._counter(
            "driftline_connections_cut",
            ("reason",),
            "Connections cut: headers_slow, headers_large, body_slow, body_unwanted, answer_unread, crowded, "
            "malformed.",
        )
        self.skipped_texts = self._counter(
            "driftline_skipped_texts", (), "Texts that were not computed because every caller who asked had left."
        )
        self.cache_hits = self._counter(
            "driftline_cache_hits", (), "Texts whose base vector was in this process's cache."
        )
        self.cache_misses = self._counter(
            "driftline_cache_misses", (), "Texts whose base vector was not in this process's cache."
        )
        self.cache_single_flight = self._counter(
            "driftline_cache_single_flight", (), "Texts that waited for the same text of another request."
        )
        self.cache_evictions = self._counter("driftline_cache_evictions", (), "Base vectors dropped from a full cache.")
        self.cache_bytes = self._gauge("driftline_cache_bytes", (), "Bytes the cache of base vectors holds.")
        self.cache_entries = self._gauge("driftline_cache_entries", (), "Base vectors the cache holds.")
        self.cache_limit_bytes = self._gauge("driftline_cache_limit_bytes", (), "Bytes the cache may hold.")

    def _shared_cache(self) -> None:
        self.shared_cache_hits = self._counter(
            "driftline_shared_cache_hits", (), "Texts whose base vector came from the shared server."
        )
        self.shared_cache_misses = self._counter(
            "driftline_shared_cache_misses", (), "Texts whose base vector the shared server did not have."
        )
        self.shared_cache_skipped = self._counter(
            "driftline_shared_cache_skipped",
            (),
            "Texts for which the shared server gave no answer in time or, being away, was not asked.",
        )
        self.shared_cache_corrupt = self._counter(
            "driftline_shared_cache_corrupt", (), "Values of the shared server that were refused; counted as misses."
        )
        self.shared_cache_errors = self._counter(
            "driftline_shared_cache_errors",
            ("operation", "reason"),
            "Failed reads, writes and probes of the shared server: timeout, connection, refused (it answered with an "
            "error, such as a wrong password or no memory), protocol.",
        )
        self.shared_cache_seconds = self._histogram(
            "driftline_shared_cache_seconds",
            ("operation",),
            SHARED_SECONDS,
            "Seconds the shared server took for a read or write; several requests share one.",
        )
        self.shared_cache_state = self._gauge(
            "driftline_shared_cache_state",
            ("state",),
            "1 for what the circuit breaker of the shared server is: closed (asked), open (left alone), half_open.",
        )
        self.shared_cache_written = self._counter(
            "driftline_shared_cache_written", (), "Base vectors written to the shared server."
        )
        self.shared_cache_dropped = self._counter(
            "driftline_shared_cache_dropped",
            ("reason",),
            "Base vectors that were not written: queue_full, unavailable (the server is away), failed.",
        )
        self.shared_cache_queued_bytes = self._gauge(
            "driftline_shared_cache_queued_bytes", (), "Bytes of vectors that wait to be written to the shared server."
        )

    def _versions_and_jobs(self) -> None:
        self.build_info = self._gauge(
            "driftline_build_info", ("version", "backbone", "provider", "precision"), "1: what this process runs."
        )
        self.live_version_info = self._gauge(
            "driftline_live_version_info",
            ("adapter", "version", "digest"),
            "1: the version an adapter's name points to.",
        )
        self.swaps = self._counter(
            "driftline_version_swaps",
            ("adapter", "outcome"),
            "Changes of the live version, done or refused at loading.",
        )
        self.jobs = self._gauge("driftline_jobs", ("state",), "Retrain jobs in the registry, by state.")
        self.last_job_timestamp = self._gauge(
            "driftline_last_job_timestamp_seconds",
            ("adapter", "state"),
            "Unix time at which an adapter's last retrain job that ended in this state (succeeded, failed, cancelled) "
            "did so; read from the registry, the same in every process.",
        )
        self.job_recoveries = self._gauge(
            "driftline_job_recoveries",
            (),
            "Times that a retrain job was taken up again, by the same worker or another, because its worker had died "
            "or fallen silent; read from the registry, the same in every process.",
        )
        self.retrain_requests = self._counter(
            "driftline_retrain_requests",
            ("source", "outcome"),
            "Retrain requests (api, alert, policy) and what became of them.",
        )

    def _drift(self) -> None:
        one, of_segment = ("adapter",), ("adapter", "segment")
        self.observations = self._counter(
            "driftline_drift_observations",
            of_segment,
            "Vectors that are evidence, as this process saw them; the segment is empty for traffic that names none.",
        )
        self.evidence = self._counter(
            "driftline_drift_evidence", one, "Vectors of this process that the registry's monitor state has taken in."
        )
        self.unstored = self._gauge(
            "driftline_drift_unstored_observations", one, "Vectors that are evidence and wait for the registry."
        )
        self.novel_observations = self._counter(
            "driftline_drift_novel_observations",
            of_segment,
            "Vectors as unlike the reference as its rarest calibration items.",
        )
        self.cell_observations = self._counter(
            "driftline_drift_cell_observations", ("adapter", "cell"), "Vectors that fell into each neighbourhood."
        )
        self.skipped_observations = self._counter(
            "driftline_drift_skipped_observations",
            ("adapter", "reason"),
            "Vectors that are no evidence: request and session (more than their share), duplicate (the text was "
            "evidence a short while ago), sampled (traffic is busier than the monitor's rate), behind (too many wait).",
        )
        self.novelty_pvalue = self._histogram(
            "driftline_drift_novelty_pvalue", of_segment, P_VALUE_EDGES,
            "Conformal novelty p-values; uniform while traffic is like the reference.",
        )  # fmt: skip
        self.reference_cell_ratio = self._gauge(
            "driftline_drift_reference_cell_ratio", ("adapter", "cell"), "Expected share of each neighbourhood."
        )
        two = ("adapter", "statistic")
        self.statistic = self._gauge("driftline_drift_statistic", two, "Value of a statistic in the last window.")
        self.statistic_threshold = self._gauge(
            "driftline_drift_statistic_threshold", two, "Value above which a statistic is significant."
        )
        self.statistic_pvalue = self._gauge(
            "driftline_drift_statistic_pvalue", two, "p-value of a statistic in the last window."
        )
        of_detector = ("adapter", "detector")
        self.evidence_log = self._gauge(
            "driftline_drift_evidence_log", of_detector, "Natural logarithm of a detector's evidence; all replicas'."
        )
        self.evidence_log_threshold = self._gauge(
            "driftline_drift_evidence_log_threshold",
            of_detector,
            "Where a detector's evidence alone raises the alarm; together they do a little sooner.",
        )
        self.effect_size = self._gauge(
            "driftline_drift_effect_size",
            ("adapter", "measure"),
            "How large the shift is: since the change while an alarm stands, else in the last window.",
        )
        self.effect_size_threshold = self._gauge(
            "driftline_drift_effect_size_threshold",
            ("adapter", "measure"),
            "Effect size from which an alarm calls for action.",
        )
        self.alarms = self._counter(
            "driftline_drift_alarms", two, "Alarms that this process raised, by what raised them."
        )
        self.alarm_active = self._gauge(
            "driftline_drift_alarm_active", one, "1 from an alarm until it is acknowledged, else 0."
        )
        self.alarm_actionable = self._gauge(
            "driftline_drift_alarm_actionable", one, "1 while an alarm stands whose shift is large enough to act on."
        )
        self.drift_state = self._gauge(
            "driftline_drift_state", ("adapter", "state"), f"1 for what the monitor is: {', '.join(STATES)}."
        )
        self.run_length = self._gauge(
            "driftline_drift_run_length",
            ("adapter", "kind"),
            "Mean vectors between two false alarms: stated; replay, as measured on the reference's replay items at a "
            "shorter one, which is checked.",
        )
        self.windows = self._counter("driftline_drift_windows", one, "Windows judged.")
        self.reading_timestamp = self._gauge(
            "driftline_drift_reading_timestamp_seconds", one, "Unix time at which the monitor's state last changed."
        )
        self.reference_info = self._gauge(
            "driftline_drift_reference_info", ("adapter", "version", "reference", "n_cal", "alpha0"),
            "1: the reference an adapter is watched against.",
        )  # fmt: skip
        self.reference_created = self._gauge(
            "driftline_drift_reference_created_timestamp_seconds", one, "Unix time at which the reference was made."
        )
        self.calibrated = self._gauge(
            "driftline_drift_calibrated", one, "1 when alarms can be raised and run as long as stated, else 0."
        )
        self.probe_overlap = self._gauge(
            "driftline_probe_overlap_ratio",
            ("adapter", "k", "other"),
            "Share of the k nearest neighbours of probe texts that the live version has in common with another one.",
        )
        self.probe_difference = self._gauge(
            "driftline_probe_difference",
            one,
            "Largest difference of a component between a recorded probe vector and the same text encoded now.",
        )

    def _rollouts(self) -> None:
        one = ("adapter",)
        self.rollout_observations = self._counter(
            "driftline_rollout_observations", one, "Requests computed by both versions of a rollout and compared."
        )
        self.rollout_served = self._counter(
            "driftline_rollout_served_requests", one, "Requests that a canary's candidate answered."
        )
        self.rollout_failed = self._counter(
            "driftline_rollout_failed_requests", one, "Requests that a rollout's candidate failed to compute."
        )
        self.rollout_skipped = self._counter(
            "driftline_rollout_skipped_requests",
            ("adapter", "reason"),
            "Requests a rollout did not compare: sampled, by its rules or where traffic is busier than the rate; "
            "behind, as too many wait; busy, as the runtime has callers' work; asleep, as the live one is unloaded.",
        )
        three = ("adapter", "measure", "bound")
        self.rollout_disagreement = self._gauge(
            "driftline_rollout_disagreement",
            three,
            "Mean disagreement of a rollout's two versions in [0, 1] and its lower and upper bound: rows and labels of "
            "the nearest items, votes of them; counts of all processes.",
        )
        self.rollout_fault_ratio = self._gauge(
            "driftline_rollout_fault_ratio",
            three,
            "Share of requests that failed or were slow with a rollout's candidate, and its bounds; all processes.",
        )
        self.rollout_share = self._gauge(
            "driftline_rollout_share", one, "Share of callers that a rollout's candidate answers; 0 in shadow."
        )
        self.rollout_state = self._gauge(
            "driftline_rollout_state", ("adapter", "version", "state"), "1: where an adapter's rollout stands."
        )

    def _counter(self, name: str, labels: Sequence[str], text: str) -> Counter:
        self.catalogue.append(Instrument(f"{name}_total", "counter", tuple(labels), text))
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, labels: Sequence[str], text: str) -> Gauge:
        self.catalogue.append(Instrument(name, "gauge", tuple(labels), text))
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, labels: Sequence[str], buckets: Sequence[float], text: str) -> Histogram:
        self.catalogue.append(Instrument(name, "histogram", tuple(labels), text))
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
