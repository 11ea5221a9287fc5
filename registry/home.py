"""Where one installation keeps its things: data folder, database, and the object store where there is one."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL

from registry.artifacts import Artifacts
from registry.database import Database
from registry.object_store import BucketArtifacts, open_bucket
from registry.registry import Registry


@dataclass(frozen=True, slots=True)
class Home:
    """The places of one installation; making the value touches nothing on disk."""

    data_dir: Path
    database_url: str = field(repr=False)  # it may hold a password
    artifacts_url: str | None = None
    """The object store that artifacts are kept in; without one they are kept in the data folder."""

    @classmethod
    def at(
        cls, data_dir: Path | str | None = None, database_url: str | None = None, artifacts_url: str | None = None
    ) -> "Home":
        """The home at a folder, else at DRIFTLINE_DATA_DIR, else under the user's data folder.

        The database is the one given, else DRIFTLINE_DATABASE_URL, else `registry.sqlite` in the folder; the object
        store the one given, else DRIFTLINE_ARTIFACTS_URL, else none.
        """
        folder = data_dir or os.environ.get("DRIFTLINE_DATA_DIR") or _user_folder() / "driftline"
        folder = Path(folder).expanduser().absolute()
        url = database_url or os.environ.get("DRIFTLINE_DATABASE_URL") or _sqlite_url(folder / "registry.sqlite")
        return cls(folder, url, artifacts_url or os.environ.get("DRIFTLINE_ARTIFACTS_URL") or None)

    @property
    def artifacts_dir(self) -> Path:
        """The content-addressed store, or the local copies of the object store's."""
        return self.data_dir / "artifacts"

    @property
    def work_dir(self) -> Path:
        """Where jobs keep their files while they run."""
        return self.data_dir / "work"

    @property
    def jobs_url(self) -> str:
        """The database of the job engine: a SQLite file beside the work folders, whose steps it tells of."""
        return _sqlite_url(self.data_dir / "jobs.sqlite")

    @property
    def worker_lock(self) -> Path:
        """The file a worker locks, so that one worker owns the folder."""
        return self.data_dir / "worker.lock"

    def registry(self) -> Registry:
        """Open the registry: folders are made (0700) and the schema is migrated.

        Raises SchemaTooNew, Unavailable, or RegistryError when a URL cannot be used.
        """
        for folder in (self.data_dir, self.artifacts_dir, self.work_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        database = Database(self.database_url)
        try:
            database.migrate()
            return Registry(database, self.artifacts())
        except BaseException:
            database.close()
            raise

    def artifacts(self) -> Artifacts:
        """Open the artifact store alone. Raises RegistryError when its URL cannot be used."""
        if self.artifacts_url is None:
            return Artifacts(self.artifacts_dir)
        return BucketArtifacts(self.artifacts_dir, open_bucket(self.artifacts_url))


def _user_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _sqlite_url(path: Path) -> str:
    return URL.create("sqlite", database=str(path)).render_as_string()
