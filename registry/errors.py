"""Everything the registry can refuse, as one tree.

    RegistryError
    ├── NotFound            no such adapter, version, dataset, job, key …
    ├── Conflict            what exists contradicts the request
    │   └── JobWaiting      the adapter already has a waiting job
    ├── ClaimLost           another worker has the job by now
    ├── InvalidName         a name outside the pattern
    ├── DatasetRefused      an upload with bad rows, each named
    ├── ArtifactMissing     no artifact of that digest
    ├── ArtifactCorrupt     what lies there is not what the digest says
    ├── SchemaTooNew        the database was migrated by a newer Driftline
    └── Unavailable         the database cannot be reached, or stays locked

No message repeats a caller's text: row numbers, field names, limits, checked names and digests only.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class RegistryError(Exception):
    """Anything the registry refuses; its message is fit to be shown to the caller."""


class NotFound(RegistryError):
    """Nothing of that kind has that name."""

    def __init__(self, kind: str, name: object) -> None:
        shown = str(name)
        shown = shown if len(shown) <= 80 and shown.isprintable() else "that name"
        super().__init__(f"there is no {kind} {shown}")
        self.kind = kind
        self.name = shown


class Conflict(RegistryError):
    """What exists already contradicts the request."""


class JobWaiting(Conflict):
    """The adapter already has a job waiting to start; `job_id` names it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"a job is already waiting for this adapter: {job_id}")
        self.job_id = job_id


class ClaimLost(RegistryError):
    """The job is no longer this worker's: another took it up, or it was handed back."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} is no longer this worker's")
        self.job_id = job_id


class InvalidName(RegistryError):
    """A name outside the allowed pattern."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with one row of an upload, or with the file as a whole (`row` is None)."""

    row: int | None
    """Number of the data row, from 1, the CSV header not counted."""
    line: int | None
    """Line of the file, from 1, where the row starts."""
    field: str | None
    """Name of the field at fault; always one of Driftline's own field names."""
    what: str
    """The reason, without the row's own text."""

    def __str__(self) -> str:
        where = [] if self.row is None else [f"row {self.row}"]
        if self.line is not None:
            where.append(f"line {self.line}" if self.row is None else f"(line {self.line})")
        place = " ".join(where)
        head = ", ".join(part for part in (place, self.field) if part)
        return f"{head}: {self.what}" if head else self.what


class DatasetRefused(RegistryError):
    """An upload was refused as a whole: `problems` names the first bad rows, `total` counts them all."""

    def __init__(self, problems: Sequence[RowProblem], total: int | None = None) -> None:
        self.problems = list(problems)
        self.total = len(self.problems) if total is None else total
        first = str(self.problems[0]) if self.problems else "no reason recorded"
        more = f" (and {self.total - 1} more)" if self.total > 1 else ""
        super().__init__(f"the dataset was refused: {first}{more}")


class ArtifactMissing(RegistryError):
    """No artifact of that digest is in the store."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"no artifact {digest} in the store")
        self.digest = digest


class ArtifactCorrupt(RegistryError):
    """What lies at a digest's place is not what the digest says, or is a link."""

    def __init__(self, digest: str, why: str) -> None:
        super().__init__(f"artifact {digest} is refused: {why}")
        self.digest = digest


class SchemaTooNew(RegistryError):
    """The database's schema is newer than this program."""

    def __init__(self, found: str, known: str) -> None:
        super().__init__(
            f"the database has schema {found}, and this Driftline knows those up to {known}: a newer Driftline "
            "migrated it. Upgrade this program, or point it at another database."
        )
        self.found = found


class Unavailable(RegistryError):
    """The database cannot be reached, or stayed locked for longer than the time-out."""
