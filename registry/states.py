"""The states a version, a job and a rollout can be in."""

from enum import StrEnum


class VersionState(StrEnum):
    """Where a version stands: `candidate -> live -> retired`, or `rejected` by the gate."""

    CANDIDATE = "candidate"
    """Published, never live."""
    LIVE = "live"
    """What the adapter's name points to."""
    RETIRED = "retired"
    """Was live once."""
    REJECTED = "rejected"
    """Refused by the gate; only force makes it live."""


class JobState(StrEnum):
    """Where a job stands: `queued -> running ->` one of the three ends."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether this is an end: a job in it never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class RolloutState(StrEnum):
    """Where a rollout stands: `running`, perhaps `passed`, and one of the three ends."""

    RUNNING = "running"
    PASSED = "passed"
    """Its rules are kept, and a person decides; the candidate is served and measured as before."""
    PROMOTED = "promoted"
    STOPPED = "stopped"
    SUPERSEDED = "superseded"
    """Another version went live meanwhile."""

    @property
    def finished(self) -> bool:
        """Whether this is an end: a rollout in it never changes again."""
        return self not in (RolloutState.RUNNING, RolloutState.PASSED)
