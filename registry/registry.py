"""The registry as programs hold it: a database and an artifact store, opened together."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy.orm import Session

from registry import claims
from registry.artifacts import Artifacts
from registry.database import Database
from registry.jobs import Job


class Registry:
    """What a program needs to read and write the registry; safe for threads."""

    def __init__(self, database: Database, artifacts: Artifacts) -> None:
        """Take over a database (already migrated) and a store."""
        self.database = database
        self.artifacts = artifacts

    def reading(self) -> AbstractContextManager[Session]:
        """A session that sees one committed state and cannot write."""
        return self.database.reading()

    def writing(self) -> AbstractContextManager[Session]:
        """A session committed when the block ends and undone when it raises."""
        return self.database.writing()

    @contextmanager
    def holding(self, job: Job) -> Iterator[Session]:
        """As `writing`, but nothing comes of it unless the job is still held as `job` says.

        Every write for a running job goes through it, so that a worker that was frozen while another took the job up
        leaves no trace when it wakes. Raises ClaimLost.
        """
        with self.writing() as session:
            claims.check(session, job)
            yield session

    def fetch(self, digest: str) -> bytes:
        """The verified bytes of a digest. Raises ArtifactMissing or ArtifactCorrupt."""
        return self.artifacts.get(digest)

    def store(self, data: bytes) -> str:
        """Store bytes durably and return their digest."""
        return self.artifacts.put(data)

    def close(self) -> None:
        """Close every database connection."""
        self.database.close()
