"""What a backup consists of on disk: named entries in a folder or a tar file, and a manifest with the digest of each.

    manifest.json               format, schema, tables, artifacts, and a digest of itself
    tables/03-versions-0.jsonl  rows, a JSON list each, at most so many an entry
    artifacts/ab/abcdef…        bytes by their digest

A backup appears under its name only when it is whole; what a crash leaves is called *.partial. Only names that the
manifest is known to hold are ever looked up, so nothing in a tar file chooses a path.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from registry.errors import RegistryError

FORMAT: Final = "driftline.backup/1"
MANIFEST: Final = "manifest.json"
_MOST_MANIFEST: Final = 256 * 1024 * 1024
_TABLE: Final = re.compile(r"tables/[0-9]{2}-[a-z_]{1,40}-[0-9]{1,6}\.jsonl")
_ARTIFACT: Final = re.compile(r"artifacts/([0-9a-f]{2})/\1[0-9a-f]{62}")


class BackupRefused(RegistryError):
    """A backup that cannot be written or restored; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its name, SHA-256 and size in bytes."""

    name: str
    sha256: str
    size: int

    @classmethod
    def of(cls, name: str, data: bytes) -> "Entry":
        """The entry of these bytes."""
        return cls(name, hashlib.sha256(data).hexdigest(), len(data))


class Sink(Protocol):
    """Where a backup is written to."""

    def add(self, name: str, data: bytes) -> None:
        """Write one entry. Raises OSError."""


class Source(Protocol):
    """Where a backup is read from."""

    def read(self, name: str, most: int) -> bytes:
        """The bytes of an entry. Raises BackupRefused when it is missing, no plain file or larger than `most`."""


class _FolderSink:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


class _TarSink:
    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file

    def add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
        self._file.addfile(info, io.BytesIO(data))


@contextlib.contextmanager
def writing(target: Path) -> Iterator[Sink]:
    """A sink whose entries appear at `target` when the block ends, and never when it raises.

    A name that ends in .tar becomes a tar file, any other a folder. Raises BackupRefused when something is there
    already or it cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise BackupRefused(f"{target} exists already; a backup is never overwritten")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        if target.suffix == ".tar":
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    yield _TarSink(tar)
                file.flush()
                os.fsync(file.fileno())
        else:
            partial.mkdir(mode=0o700)
            yield _FolderSink(partial)
        partial.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise BackupRefused(f"{target} cannot be written ({error.strerror or type(error).__name__})") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


class _FolderSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, most: int) -> bytes:
        path = self._folder / name
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size > most:
                raise BackupRefused(f"the backup's entry {name} is missing, no plain file, or larger than it was")
            return path.read_bytes()
        except OSError as error:
            raise BackupRefused(f"the backup's entry {name} cannot be read ({error.strerror})") from error


class _TarSource:
    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file
        self._members = {member.name: member for member in file if member.isreg()}

    def read(self, name: str, most: int) -> bytes:
        member = self._members.get(name)
        stream = None if member is None or member.size > most else self._file.extractfile(member)
        if stream is None:
            raise BackupRefused(f"the backup's entry {name} is missing, no plain file, or larger than it was")
        return stream.read()


@contextlib.contextmanager
def reading(source: Path) -> Iterator[Source]:
    """The entries of a backup. Raises BackupRefused when there is none, or it is damaged."""
    if source.is_dir():
        yield _FolderSource(source)
        return
    try:
        with tarfile.open(source, mode="r:") as tar:
            yield _TarSource(tar)
    except OSError as error:
        raise BackupRefused(f"{source} cannot be read ({error.strerror or type(error).__name__})") from error
    except tarfile.TarError:
        raise BackupRefused(f"{source} is no backup: neither a folder nor a whole tar file") from None


def pack(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as bytes that carry their own digest."""
    body = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
    return orjson.dumps({"sha256": hashlib.sha256(body).hexdigest(), "backup": orjson.Fragment(body)}) + b"\n"


def unpack(source: Source) -> dict[str, Any]:
    """The manifest, checked against its own digest. Raises BackupRefused."""
    damaged = BackupRefused(f"this is no backup of Driftline, or its {MANIFEST} is damaged")
    try:
        outer = orjson.loads(source.read(MANIFEST, _MOST_MANIFEST))
        manifest = outer["backup"]
        body = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
        if not isinstance(manifest, dict) or hashlib.sha256(body).hexdigest() != outer["sha256"]:
            raise damaged
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise damaged from None
    if manifest.get("format") != FORMAT:
        raise BackupRefused(f"the backup has a format that this Driftline does not know; it reads {FORMAT}")
    return manifest


def entry_of(value: Mapping[str, Any]) -> Entry:
    """An entry as the manifest tells it. Raises BackupRefused for a name that no backup has."""
    entry = Entry(str(value["name"]), str(value["sha256"]), int(value["size"]))
    if not (_TABLE.fullmatch(entry.name) or _ARTIFACT.fullmatch(entry.name)):
        raise BackupRefused("the backup's manifest names an entry that no backup has")
    return entry


def verified(source: Source, entry: Entry) -> bytes:
    """The bytes of an entry. Raises BackupRefused when they are not what the manifest says."""
    data = source.read(entry.name, entry.size)
    if Entry.of(entry.name, data) != entry:
        raise BackupRefused(f"the backup's entry {entry.name} is damaged: its bytes have another digest")
    return data


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
