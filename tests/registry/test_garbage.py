"""Garbage collection: what is named, young or being published stays; the rest goes, and no `put` is ever undone."""

import hashlib
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from registry import datasets, events, garbage, jobs, references, versions
from registry.artifacts import Artifacts
from registry.errors import ArtifactCorrupt, ArtifactMissing
from registry.object_store import BucketArtifacts, key_of, open_bucket
from registry.registry import Registry
from registry.tables import VersionRecord

WEEK = timedelta(days=7)
BACKBONE = "b" * 64
LONG_AGO = time.time() - 30 * 86_400


class DictBucket:
    """An object store in memory whose ages can be set."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.on_modified: Callable[[str], None] = lambda key: None

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = (data, time.time())

    def get(self, key: str) -> bytes | None:
        return self.objects[key][0] if key in self.objects else None

    def size(self, key: str) -> int | None:
        return len(self.objects[key][0]) if key in self.objects else None

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def modified(self, key: str) -> float | None:
        found = self.objects[key][1] if key in self.objects else None
        self.on_modified(key)
        return found

    def entries(self) -> Iterator[tuple[str, int, float]]:
        for key, (data, at) in list(self.objects.items()):
            yield key, len(data), at


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "folder":
        return Artifacts(tmp_path / "artifacts")
    return BucketArtifacts(tmp_path / "artifacts", DictBucket())


def age(store: Artifacts, digest: str, at: float = LONG_AGO) -> None:
    """Make an artifact old, wherever it lies."""
    if store.path(digest).exists():
        os.utime(store.path(digest), (at, at))
    if isinstance(store, BucketArtifacts):
        bucket = store.bucket
        assert isinstance(bucket, DictBucket)
        bucket.objects[key_of(digest)] = (bucket.objects[key_of(digest)][0], at)


@pytest.fixture
def kept(stocked: Registry, store: Artifacts) -> Registry:
    """A registry with one live version, all of its artifacts old."""
    with stocked.reading() as session:
        old = stocked.artifacts
        for dataset in datasets.all(session):
            store.put(old.get(dataset.digest))
    stocked.artifacts = store
    model, reference, report, fitted = (store.put(word) for word in (b"model", b"reference", b"report", b"fitted"))
    manifest = {"files": {"head.onnx": {"sha256": model, "size": 5}}, "dataset": {"fitted": fitted}}
    digest = store.put(json.dumps(manifest).encode())
    with stocked.writing() as session:
        versions.publish(
            session, adapter="banking", digest=digest, kind="head", backbone=BACKBONE, reference=reference,
            parent=None, job_id=None, dataset="support@1", metrics={"report": report}, verdict=None, rejected=False,
        )  # fmt: skip
    for each in list(store.entries()):
        age(store, each.digest)
    return stocked


def present(registry: Registry) -> set[str]:
    return {each.digest for each in registry.artifacts.entries()}


def test_what_nothing_names_goes_once_it_is_old_and_the_rest_stays(kept: Registry, store: Artifacts) -> None:
    before = present(kept)
    assert len(before) == 6  # dataset, manifest, model, reference, report, fitted
    old, young = store.put(b"left by a crash"), store.put(b"being published")
    age(store, old)
    seen = garbage.collect(kept)
    assert [each.digest for each in seen.garbage] == [old]
    assert (seen.named, seen.young, seen.deleted) == (6, 1, ())
    assert present(kept) == before | {old, young}  # a look deletes nothing
    done = garbage.collect(kept, apply=True, by="ann")
    assert [each.digest for each in done.deleted] == [old]
    assert done.to_json()["deleted_bytes"] == len(b"left by a crash")
    assert present(kept) == before | {young}
    assert not store.has(old)
    if isinstance(store, BucketArtifacts):
        assert isinstance(store.bucket, DictBucket)
        assert not [key for key in store.bucket.objects if key.startswith(".")]
    with kept.reading() as session:
        told = events.page(session, kind=garbage.COLLECTED)
    assert [(e.actor, e.detail["artifacts"]) for e in told] == [("ann", 1)]
    assert garbage.collect(kept, apply=True).deleted == ()


def test_a_replaced_reference_stays_for_the_grace_time(kept: Registry, store: Artifacts) -> None:
    old, new = (hashlib.sha256(word).hexdigest() for word in (b"reference", b"new reference"))
    store.put(b"new reference")
    with kept.writing() as session:
        references.replace(session, "banking", 1, new, expected=old, by="ann")
    age(store, new)
    assert garbage.collect(kept, apply=True).deleted == ()
    now = time.time
    try:
        garbage.time.time = lambda: now() + 8 * 86_400  # type: ignore[assignment]
        assert [each.digest for each in garbage.collect(kept, apply=True).deleted] == [old]
    finally:
        garbage.time.time = now  # type: ignore[assignment]
    assert store.get(new) == b"new reference"


def test_what_an_unfinished_job_stored_stays_however_long_its_worker_is_away(
    kept: Registry, store: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept.writing() as session:
        job = jobs.enqueue(session, adapter="banking", dataset="support", requested_by="ann")
        jobs.start(session, job.id)
    stored, older = store.put(b"of the job"), store.put(b"from before it")
    age(store, older)
    now = time.time
    monkeypatch.setattr(garbage.time, "time", lambda: now() + 30 * 86_400)
    assert [each.digest for each in garbage.collect(kept, apply=True).deleted] == [older]
    monkeypatch.setattr(garbage.time, "time", now)
    with kept.writing() as session:
        jobs.finish(session, job.id, jobs.JobState.FAILED, error="none")
    monkeypatch.setattr(garbage.time, "time", lambda: now() + 30 * 86_400)
    assert [each.digest for each in garbage.collect(kept, apply=True).deleted] == [stored]


def test_storing_again_makes_young_and_a_put_between_look_and_deletion_wins(kept: Registry, store: Artifacts) -> None:
    digest = store.put(b"once more")
    age(store, digest)
    (found,) = garbage.collect(kept).garbage
    store.put(b"once more")
    assert garbage.collect(kept).garbage == ()
    assert not store.discard(found.digest, time.time() - 3600)
    assert store.get(digest) == b"once more"


def test_an_unreadable_manifest_stops_the_collection(kept: Registry, store: Artifacts) -> None:
    digest = store.put(b"old")
    age(store, digest)
    with kept.writing() as session:
        versions.publish(
            session, adapter="banking", digest="d" * 64, kind="head", backbone=BACKBONE, reference=None,
            parent=None, job_id=None, dataset="support@1", metrics={}, verdict=None, rejected=False,
        )  # fmt: skip
    with pytest.raises(ArtifactMissing):
        garbage.collect(kept, apply=True)
    with kept.writing() as session:
        session.execute(update(VersionRecord).where(VersionRecord.number == 2).values(digest=store.put(b"no manifest")))
    with pytest.raises(ArtifactCorrupt, match="no manifest"):
        garbage.collect(kept, apply=True)
    assert store.has(digest)


def test_less_than_an_hour_of_grace_is_refused(kept: Registry) -> None:
    with pytest.raises(ValueError, match="at least"):
        garbage.collect(kept, older_than=timedelta(minutes=59))


def test_a_put_waits_for_a_deletion_that_has_looked_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Artifacts(tmp_path / "artifacts")
    digest = store.put(b"data")
    age(store, digest)
    unlink = Path.unlink
    done = threading.Event()
    storing = threading.Thread(target=lambda: (store.put(b"data"), done.set()))

    def meanwhile(path: Path, missing_ok: bool = False) -> None:
        if path.name == digest:
            storing.start()
            assert not done.wait(0.5)  # else what it has stored, and made young, would go now
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", meanwhile)
    assert store.discard(digest, time.time() - 3600)
    storing.join(timeout=10)
    assert done.is_set()
    assert store.get(digest) == b"data"


def test_an_object_condemned_while_it_is_stored_again_is_stored_once_more(tmp_path: Path) -> None:
    bucket = DictBucket()
    store = BucketArtifacts(tmp_path / "a", bucket)
    other = BucketArtifacts(tmp_path / "b", bucket)
    digest = store.put(b"data")
    age(store, digest)
    # The deleter has looked at the old age; before it deletes, another process stores the object again.
    storing = threading.Thread(target=lambda: other.put(b"data"))

    def meanwhile(key: str) -> None:
        if key == key_of(digest):
            bucket.on_modified = lambda key: None
            storing.start()
            deadline = time.monotonic() + 5
            while bucket.objects[key][1] < time.time() - 60:
                assert time.monotonic() < deadline
                time.sleep(0.001)

    bucket.on_modified = meanwhile
    assert store.discard(digest, time.time() - 3600)
    storing.join(timeout=10)
    assert bucket.get(key_of(digest)) == b"data"
    assert other.get(digest) == b"data"


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_real_object_store_tells_what_it_holds_and_deletes_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    if kind == "file":
        (tmp_path / "bucket").mkdir()
        url = f"file://{tmp_path}/bucket"
    else:
        url = request.getfixturevalue("s3_url")
    begun = time.time()
    bucket = open_bucket(url)
    store = BucketArtifacts(tmp_path / "a", bucket)
    digests = {store.put(b"artifact %d" % number) for number in range(3)}
    found = list(store.entries())
    assert {each.digest for each in found} == digests
    assert all(each.size == 10 and begun - 2 <= each.modified <= time.time() + 2 for each in found)
    first = next(iter(digests))
    assert not store.discard(first, begun - 3600)
    assert store.discard(first, time.time() + 60)
    assert not store.has(first)
    assert {key for key, _, _ in bucket.entries()} == {key_of(digest) for digest in digests - {first}}
    assert bucket.modified(key_of(first)) is None
    assert not store.discard(first, time.time() + 60)


@pytest.fixture
def s3_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket, with a prefix, of moto's server."""
    threaded = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer
    server = threaded("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/driftline", method="PUT")).close()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name, value in (("ALLOW_HTTP", "true"), ("ACCESS_KEY_ID", "t"), ("SECRET_ACCESS_KEY", "t")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield f"s3://driftline/{tmp_path.name}"
    finally:
        server.stop()
