"""The states a version and a job can be in."""

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
