"""The stored report and model card of a version: found by the digests in its metrics, and checked to be what they say.

`metrics` of a version that a job published hold {"report": digest, "card": digest}. Of an imported one they may hold
anything, since they come from its file; so only a job's are followed.
"""

from dataclasses import dataclass
from enum import StrEnum

from registry import versions
from registry.errors import ArtifactCorrupt, Conflict, NotFound
from registry.registry import Registry
from registry.versions import Version


class Document(StrEnum):
    """What is told of a version, by the name of its digest in the version's metrics."""

    REPORT = "report"
    """An HTML page, with texts of the dataset in it."""
    CARD = "card"
    """A JSON document without any text of the dataset."""


_MARKS = {Document.REPORT: b'content="driftline.report/', Document.CARD: b'"driftline.model_card/'}


@dataclass(frozen=True, slots=True)
class Stored:
    """A document's bytes, its digest, and the version it is of."""

    version: Version
    digest: str
    data: bytes


def fetch_document(registry: Registry, adapter: str, number: int | None, document: Document) -> Stored:
    """The document of one version, of the live one when no number is given.

    Raises:
        NotFound: There is no such adapter or version, or the version has no such document.
        Conflict: No number was given, and no version is live.
        ArtifactMissing, ArtifactCorrupt: The store has lost or damaged it, or holds something else under its digest.
    """
    with registry.reading() as session:
        if number is None:
            versions.get_adapter(session, adapter)
            version = versions.live(session, adapter)
        else:
            version = versions.get(session, adapter, number)
    if version is None:
        raise Conflict(f"nothing of {adapter} is live; name a version, such as {adapter}@1")
    digest = version.metrics.get(document.value) if version.job_id is not None else None
    if not isinstance(digest, str):
        raise NotFound(f"{document.value} of", version.name)
    data = registry.fetch(digest)
    if _MARKS[document] not in data:
        raise ArtifactCorrupt(digest, f"it is no {document.value}")
    return Stored(version, digest, data)
