"""The registry as programs hold it: a database and an artifact store, opened together."""

from contextlib import AbstractContextManager

from sqlalchemy.orm import Session

from registry.artifacts import Artifacts
from registry.database import Database


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

    def fetch(self, digest: str) -> bytes:
        """The verified bytes of a digest. Raises ArtifactMissing or ArtifactCorrupt."""
        return self.artifacts.get(digest)

    def store(self, data: bytes) -> str:
        """Store bytes durably and return their digest."""
        return self.artifacts.put(data)

    def close(self) -> None:
        """Close every database connection."""
        self.database.close()
