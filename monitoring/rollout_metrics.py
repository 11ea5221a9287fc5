"""Writes what one process sees of a rollout into the instruments."""

from monitoring.metrics import Metrics

_DISAGREEMENTS = ("rows", "labels", "votes")


class RolloutRecorder:
    """The instruments of one adapter's rollout, from its beginning until `close`."""

    def __init__(self, metrics: Metrics, adapter: str, version: str) -> None:
        self._metrics = metrics
        self._adapter = adapter
        self._version = version
        self._forget()
        for counter in (metrics.rollout_observations, metrics.rollout_served, metrics.rollout_failed):
            counter.labels(adapter)  # the series are there from the beginning

    def compared(self, observations: int, failures: int) -> None:
        """Requests were computed by both versions, or the candidate failed to."""
        self._metrics.rollout_observations.labels(self._adapter).inc(observations)
        self._metrics.rollout_failed.labels(self._adapter).inc(failures)

    def served(self) -> None:
        """The candidate answered a caller."""
        self._metrics.rollout_served.labels(self._adapter).inc()

    def failed(self) -> None:
        """The candidate failed to compute a request."""
        self._metrics.rollout_failed.labels(self._adapter).inc()

    def skipped(self, reason: str, requests: int = 1) -> None:
        """Requests were not compared."""
        self._metrics.rollout_skipped.labels(self._adapter, reason).inc(requests)

    def stands(self, state: str, share: float) -> None:
        """The rollout is in this state, and the candidate answers this share of the callers."""
        self._metrics.rollout_state.remove_by_labels({"adapter": self._adapter})
        self._metrics.rollout_state.labels(self._adapter, self._version, state).set(1)
        self._metrics.rollout_share.labels(self._adapter).set(share)

    def bound(self, measure: str, mean: float, lower: float, upper: float) -> None:
        """What is known of one measure."""
        gauge = self._metrics.rollout_disagreement if measure in _DISAGREEMENTS else self._metrics.rollout_fault_ratio
        for bound, value in (("mean", mean), ("lower", lower), ("upper", upper)):
            gauge.labels(self._adapter, measure, bound).set(value)

    def close(self) -> None:
        """Remove the gauges: the rollout has ended."""
        self._forget()

    def _forget(self) -> None:
        metrics = self._metrics
        for gauge in (
            metrics.rollout_disagreement,
            metrics.rollout_fault_ratio,
            metrics.rollout_share,
            metrics.rollout_state,
        ):
            gauge.remove_by_labels({"adapter": self._adapter})
