"""Artifacts that nothing names any more: which they are, and their deletion.

What counts as naming: backbones, versions with the files of their manifests, references, datasets, jobs and monitors;
and events for as long as the grace time, so that what was replaced a moment ago (a rebuilt reference) stays for those
who are about to load it. Any SHA-256 in such a row or manifest names the artifact of that digest, whatever it means
there: too much is kept rather than too little.

Artifacts are stored before the row that names them is committed. So nothing is deleted that was stored within the grace
time, or since the oldest unfinished job began, which may have stored its files already and publish them only when its
worker is back. Storing an artifact again makes it young, and no deletion undoes a `put` that has returned.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events, jobs
from registry.artifacts import Kept
from registry.errors import ArtifactCorrupt, RegistryError
from registry.names import is_digest
from registry.registry import Registry
from registry.tables import BackboneRecord, DatasetRecord, EventRecord, JobRecord, MonitorRecord, VersionRecord

GRACE: Final = timedelta(days=7)
"""How old an artifact must be before it may be deleted, unless said otherwise."""
LEAST_GRACE: Final = timedelta(hours=1)
"""The shortest grace time: whoever stores an artifact names it well within this."""
COLLECTED: Final = "artifacts.collected"
_DIGESTS: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(slots=True)
class Named:
    """Digests that something names.

    Attributes:
        needed: Those that must be there, each with what needs it, such as "version banking@3".
        mentioned: Those found in free form, which may mean anything.
    """

    needed: dict[str, str] = field(default_factory=dict)
    mentioned: set[str] = field(default_factory=set)

    def __contains__(self, digest: str) -> bool:
        return digest in self.needed or digest in self.mentioned


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection found: artifacts that are named, too young, and garbage; and which of it was deleted."""

    named: int
    young: int
    garbage: tuple[Kept, ...]
    deleted: tuple[Kept, ...]
    before: datetime
    """Artifacts stored after this moment were left alone."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "named": self.named,
            "young": self.young,
            "garbage": [{"digest": each.digest, "bytes": each.size, "stored_at": _at(each)} for each in self.garbage],
            "garbage_bytes": sum(each.size for each in self.garbage),
            "deleted": len(self.deleted),
            "deleted_bytes": sum(each.size for each in self.deleted),
            "before": self.before,
        }


def named(session: Session, fetch: Callable[[str], bytes], *, events_since: datetime | None = None) -> Named:
    """Every digest that a row, or a manifest that a row names, names.

    Args:
        fetch: Gives the verified bytes of a digest; called for the manifests of versions.
        events_since: Count events from then on; None counts none.

    Raises:
        ArtifactMissing, ArtifactCorrupt: A version's manifest cannot be read, so what it names is not known.
    """
    found = Named()
    for backbone in session.scalars(select(BackboneRecord).order_by(BackboneRecord.id)):
        what = f"backbone {backbone.name}"
        found.needed[backbone.digest] = what
        _read(found, backbone.manifest, what)
    for version in session.scalars(select(VersionRecord).order_by(VersionRecord.adapter, VersionRecord.number)):
        what = f"version {version.adapter}@{version.number}"
        found.needed[version.digest] = what
        if version.reference is not None:
            found.needed[version.reference] = what
        found.mentioned.update(_digests([version.metrics, version.verdict]))
        _read(found, _document(version.digest, fetch), what)
    for name, revision, digest in session.execute(
        select(DatasetRecord.name, DatasetRecord.revision, DatasetRecord.digest)
    ):
        found.needed[digest] = f"dataset {name}@{revision}"
    for values in session.execute(select(JobRecord.recipe, JobRecord.metrics, JobRecord.verdict)):
        found.mentioned.update(_digests(list(values)))
    for state in session.scalars(select(MonitorRecord.state)):
        found.mentioned.update(_digests(state))
    if events_since is not None:
        for detail in session.scalars(select(EventRecord.detail).where(EventRecord.at >= events_since)):
            found.mentioned.update(_digests(detail))
    return found


def collect(
    registry: Registry, *, older_than: timedelta = GRACE, apply: bool = False, by: str = "system"
) -> Collection:
    """Find garbage and, with `apply`, delete it; a deletion is an event. One collection at a time, please.

    Raises:
        ValueError: `older_than` is shorter than LEAST_GRACE.
        ArtifactMissing, ArtifactCorrupt: A version's manifest cannot be read; nothing is deleted then.
        Unavailable: The database or the object store cannot be reached.
    """
    if older_than < LEAST_GRACE:
        raise ValueError(f"artifacts are left alone for at least {LEAST_GRACE}")
    begun = datetime.fromtimestamp(time.time(), UTC)
    present = list(registry.artifacts.entries())  # before the rows: what is published meanwhile is named by them
    with registry.reading() as session:
        unfinished = [job.created_at for job in jobs.unfinished(session)]
        before = min([begun - older_than, *unfinished])
        known = named(session, registry.fetch, events_since=begun - older_than)
    unnamed = [each for each in present if each.digest not in known]
    garbage = tuple(each for each in unnamed if each.modified < before.timestamp())
    deleted: list[Kept] = []
    try:
        if apply:
            for each in garbage:
                if registry.artifacts.discard(each.digest, before.timestamp()):
                    deleted.append(each)  # noqa: PERF401 - an error must leave those before it in the list
    except OSError as error:
        raise RegistryError(f"an artifact cannot be deleted ({error.strerror or type(error).__name__})") from error
    finally:
        if deleted:
            _note(registry, deleted, by)
    return Collection(len(present) - len(unnamed), len(unnamed) - len(garbage), garbage, tuple(deleted), before)


def _note(registry: Registry, deleted: list[Kept], by: str) -> None:
    told = {"artifacts": len(deleted), "bytes": sum(each.size for each in deleted)}
    with registry.writing() as session:
        events.record(session, COLLECTED, "artifacts", by, told)


def _document(digest: str, fetch: Callable[[str], bytes]) -> Any:
    try:
        return orjson.loads(fetch(digest))
    except orjson.JSONDecodeError:
        raise ArtifactCorrupt(digest, "it is no manifest") from None


def _read(found: Named, manifest: Any, what: str) -> None:
    """Note what a manifest names: its files are needed, other digests in it are mentioned."""
    for digest in _files(manifest):
        found.needed[digest] = what
    found.mentioned.update(_digests(manifest))


def _files(value: Any) -> Iterator[str]:
    """Digests of the entries of a manifest: objects with `sha256` and `size`."""
    if isinstance(value, dict):
        digest = value.get("sha256")
        if isinstance(digest, str) and "size" in value and is_digest(digest):
            yield digest
        for inner in value.values():
            yield from _files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _files(inner)


def _digests(value: Any) -> list[str]:
    return _DIGESTS.findall(orjson.dumps(value).decode())


def _at(kept: Kept) -> datetime:
    return datetime.fromtimestamp(kept.modified, UTC)
