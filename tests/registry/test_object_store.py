"""Artifacts in an object store: a real S3 server on loopback, which is stopped, filled with rubbish, and emptied."""

import hashlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import ArtifactCorrupt, ArtifactMissing, RegistryError, Unavailable
from registry.home import Home
from registry.object_store import BucketArtifacts, key_of, open_bucket

DATA = b"the bytes of a model" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


class S3:
    """moto's server in a process of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{self.url}/driftline", method="PUT")
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                assert self.process.poll() is None
                time.sleep(0.1)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    server = S3()
    yield server
    server.stop()


@pytest.fixture
def url(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"s3://driftline/{tmp_path.name}"


def test_what_one_process_stores_another_without_its_disk_reads(url: str, tmp_path: Path) -> None:
    mine, theirs = (BucketArtifacts(tmp_path / name, open_bucket(url)) for name in ("a", "b"))
    assert mine.put(DATA) == DIGEST
    assert mine.put(DATA) == DIGEST
    assert theirs.has(DIGEST)
    assert theirs.get(DIGEST) == DATA
    assert theirs.path(DIGEST).read_bytes() == DATA  # a copy, for when the store is away
    nothing = "0" * 64
    assert not theirs.has(nothing)
    with pytest.raises(ArtifactMissing):
        theirs.get(nothing)
    with pytest.raises(ArtifactMissing):
        theirs.get("../../etc/passwd")
    assert not theirs.has("../../etc/passwd")


def test_bytes_of_another_digest_are_refused_and_the_local_copy_is_mended(url: str, tmp_path: Path) -> None:
    bucket = open_bucket(url)
    store = BucketArtifacts(tmp_path / "a", bucket)
    store.put(DATA)
    copy = store.path(DIGEST)
    copy.chmod(0o600)
    copy.write_bytes(b"x" * len(DATA))
    assert store.get(DIGEST) == DATA
    assert copy.read_bytes() == DATA
    bucket.put(key_of(DIGEST), b"x" * len(DATA))
    assert store.get(DIGEST) == DATA  # its own copy is right
    with pytest.raises(ArtifactCorrupt, match="another digest"):
        BucketArtifacts(tmp_path / "b", bucket).get(DIGEST)
    bucket.put(key_of(DIGEST), b"cut")  # of another size: stored again
    store.put(DATA)
    assert bucket.get(key_of(DIGEST)) == DATA
    bucket.delete(key_of(DIGEST))
    bucket.delete(key_of(DIGEST))
    assert bucket.size(key_of(DIGEST)) is None


def test_a_lost_store_is_unavailable_and_what_is_here_is_served(s3: S3, url: str, tmp_path: Path) -> None:
    store = BucketArtifacts(tmp_path / "a", open_bucket(url))
    store.put(DATA)
    s3.stop()
    try:
        assert store.get(DIGEST) == DATA
        with pytest.raises(Unavailable):
            store.get("0" * 64)
        with pytest.raises(Unavailable):
            store.put(b"new")
        assert not store.path(hashlib.sha256(b"new").hexdigest()).exists()  # nothing is promised that others lack
    finally:
        s3.start()


def test_a_home_takes_the_store_from_its_url_and_names_the_one_it_cannot_use(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_ARTIFACTS_URL", url)
    registry = Home.at(tmp_path / "one").registry()
    digest = registry.store(DATA)
    registry.close()
    other = Home.at(tmp_path / "two").registry()
    assert other.fetch(digest) == DATA
    other.close()
    with pytest.raises(RegistryError, match="must start with"):
        Home.at(tmp_path / "three", artifacts_url="ftp://bucket").registry()
