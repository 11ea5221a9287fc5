"""The artifact store: digests in, verified bytes out; links, damage and crashes never show."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts import Artifacts
from registry.errors import ArtifactCorrupt, ArtifactMissing, InvalidName

DATA = b"the bytes of a model"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def _files(store: Artifacts) -> list[Path]:
    return [path for path in store.folder.rglob("*") if not path.is_dir()]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2_000))
def test_what_goes_in_comes_out(store: Artifacts, data: bytes) -> None:
    digest = store.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert store.put(data) == digest
    assert store.has(digest)
    assert store.get(digest) == data
    assert store.path(digest) == store.folder / digest[:2] / digest
    assert list((store.folder / ".tmp").iterdir()) == []


def test_files_are_private_and_read_only(store: Artifacts) -> None:
    path = store.path(store.put(DATA))
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "digest", ["", "../../etc/passwd", DIGEST.upper(), DIGEST[:-1], DIGEST + "\n", "/" * 64, "\0" * 64]
)
def test_only_digests_are_looked_up(store: Artifacts, digest: str) -> None:
    assert not store.has(digest)
    with pytest.raises(ArtifactMissing):
        store.get(digest)
    with pytest.raises(InvalidName):
        store.path(digest)


def _place(store: Artifacts, outside: Path, how: str) -> None:
    """Put something at DIGEST's place that is not its plain file, though its bytes may be right."""
    path = store.path(DIGEST)
    path.parent.mkdir()
    outside.mkdir()
    (outside / DIGEST).write_bytes(DATA)
    if how == "symbolic link":
        path.symlink_to(outside / DIGEST)
    elif how == "dangling link":
        path.symlink_to(outside / "nothing")
    elif how == "hard link":
        os.link(outside / DIGEST, path)
    elif how == "linked folder":
        path.parent.rmdir()
        path.parent.symlink_to(outside, target_is_directory=True)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "other bytes":
        path.write_bytes(DATA + b"!")
    else:
        path.write_bytes(DATA[:-1])


@pytest.mark.parametrize(
    "how",
    ["symbolic link", "dangling link", "hard link", "linked folder", "pipe", "folder", "other bytes", "cut short"],
)
def test_what_is_not_the_plain_file_of_its_digest_is_refused(store: Artifacts, tmp_path: Path, how: str) -> None:
    _place(store, tmp_path / "outside", how)
    with pytest.raises(ArtifactCorrupt, match=DIGEST):
        store.get(DIGEST)
    if how in ("linked folder", "folder"):
        with pytest.raises((ArtifactCorrupt, OSError)):
            store.put(DATA)
    else:
        # Storing the bytes anew heals the place, and what a link led to is left as it was.
        store.put(DATA)
        assert store.get(DIGEST) == DATA
    assert (tmp_path / "outside" / DIGEST).read_bytes() == DATA
    assert list((store.folder / ".tmp").iterdir()) == []


@pytest.mark.parametrize("moment", ["fsync", "rename"])
def test_a_crash_before_the_rename_leaves_nothing_visible(store: Artifacts, moment: str) -> None:
    script = f"""
import os, pathlib, signal, sys
from registry.artifacts import Artifacts
store = Artifacts(pathlib.Path(sys.argv[1]))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if {moment!r} == "fsync":
    os.fsync = die
else:
    pathlib.Path.rename = die
store.folder.joinpath("{DIGEST[:2]}").mkdir()
store.put({DATA!r})
"""
    died = subprocess.run([sys.executable, "-c", script, str(store.folder)], timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert not store.has(DIGEST)
    with pytest.raises(ArtifactMissing):
        store.get(DIGEST)
    # What it left is kept while it could belong to a living writer, and swept once it is old.
    (left,) = _files(store)
    Artifacts(store.folder)
    assert left.exists()
    os.utime(left, (1, 1))
    assert _files(Artifacts(store.folder)) == []
    assert store.get(store.put(DATA)) == DATA


def test_a_full_disk_is_an_error_and_leaves_nothing(store: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (store.folder / DIGEST[:2]).mkdir()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put(DATA)
    assert _files(store) == []
