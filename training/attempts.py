"""How often a job's worker died over it, as against having been stopped on purpose."""

from typing import Final

from registry.jobs import Job
from training.files import WorkFolder

_PAUSES: Final = "pauses.json"


def note_pause(folder: WorkFolder) -> None:
    """Note that the job in this folder is left because its worker was stopped, not because it died."""
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.write_json(_PAUSES, _pauses(folder) + 1)


def deaths(job: Job, folder: WorkFolder) -> int:
    """How often a worker died over this job: the times it was taken up before without being left on purpose."""
    return max(0, job.attempts - 1 - _pauses(folder))


def _pauses(folder: WorkFolder) -> int:
    return int(folder.read_json(_PAUSES)) if folder.has(_PAUSES) else 0
