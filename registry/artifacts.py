"""The content-addressed store: a file is named by the SHA-256 of its bytes, written once, verified at every read.

    artifacts/ab/abcdef…    the bytes whose digest is abcdef…
    artifacts/.tmp/…        files still being written; never read, swept when old

No path comes from a caller: a digest is 64 hexadecimal digits or it is refused. Links, hard links and anything that is
not a plain file are refused, because what they lead to could change after it was verified.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.errors import ArtifactCorrupt, ArtifactMissing, InvalidName
from registry.names import is_digest, valid_digest

# A writer that is alive finishes within minutes; what is older was left by a crash.
_ABANDONED_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """One artifact that lies in a store: its size in bytes, and when it was last stored, in seconds since 1970."""

    digest: str
    size: int
    modified: float


class Artifacts:
    """A folder of immutable byte strings, safe for several processes at once."""

    def __init__(self, folder: Path) -> None:
        """Create the folder (0700) where it is missing, and sweep what crashed writers left."""
        self.folder = folder
        self._incoming = folder / ".tmp"
        for each in (folder, self._incoming):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()

    def path(self, digest: str) -> Path:
        """Where the bytes of a digest lie, whether or not they exist. Raises InvalidName for a malformed digest."""
        valid_digest(digest)
        return self.folder / digest[:2] / digest

    def put(self, data: bytes) -> str:
        """Store bytes and return their SHA-256; then they survive a power cut. Storing them again makes them young.

        Raises ArtifactCorrupt when a link lies where they belong, OSError when the disk is full or read-only.
        """
        digest = hashlib.sha256(data).hexdigest()
        target = self.path(digest)
        with contextlib.ExitStack() as held:
            # Where the file system knows no locks, nothing can be discarded either.
            with contextlib.suppress(OSError):
                held.enter_context(self._turn(fcntl.LOCK_SH))
            if not (self._verified(digest) and _renewed(target)):
                if target.parent.is_symlink():
                    raise ArtifactCorrupt(digest, "its folder is a link")
                if not target.parent.is_dir():
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    _sync_folder(self.folder)
                self._write(target, data)
            # Also when another process put it there: its rename may not have reached the disk yet.
            _sync_folder(target.parent)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of a digest, verified.

        Raises ArtifactMissing when there are none, ArtifactCorrupt when what lies there is a link, not a plain file, or
        has another digest.
        """
        try:
            self.path(digest)
        except InvalidName:
            raise ArtifactMissing("(malformed)") from None
        with self._opened(digest) as file:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactCorrupt(digest, "not a plain file")
            if status.st_nlink != 1:
                raise ArtifactCorrupt(digest, "it has more than one hard link")
            with open(file, "rb", closefd=False) as stream:
                data = stream.read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactCorrupt(digest, "its bytes have another digest")
        return data

    def has(self, digest: str) -> bool:
        """Whether a plain file lies at the digest's place; only `get` verifies its bytes."""
        try:
            status = self.path(digest).lstat()
        except (InvalidName, FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(status.st_mode)

    def entries(self) -> Iterator[Kept]:
        """What lies in the store, in no order; what vanishes meanwhile is left out."""
        for folder in self.folder.iterdir():
            if len(folder.name) != 2 or not folder.is_dir() or folder.is_symlink():
                continue
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    if is_digest(path.name) and stat.S_ISREG(status.st_mode):
                        yield Kept(path.name, status.st_size, status.st_mtime)

    def discard(self, digest: str, before: float) -> bool:
        """Delete an artifact unless it was stored after a moment (seconds since 1970); whether it was deleted.

        Storing it waits meanwhile, so a `put` that has returned is never undone. Raises OSError.
        """
        path = self.path(digest)
        with self._turn(fcntl.LOCK_EX):
            try:
                if path.lstat().st_mtime >= before:
                    return False
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    @contextlib.contextmanager
    def _turn(self, how: int) -> Iterator[None]:
        """Hold the folder's lock, shared by those who store and exclusive for who deletes."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _opened(self, digest: str) -> Iterator[int]:
        """A descriptor of the digest's file; neither the file nor its folder may be a symbolic link."""
        try:
            folder = os.open(self.folder / digest[:2], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise ArtifactMissing(digest) from None
        except OSError as error:
            raise ArtifactCorrupt(digest, "its folder is a link or not a folder") from error
        try:
            # Without O_NONBLOCK, opening a pipe planted here would wait for ever.
            file = os.open(digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except FileNotFoundError:
            raise ArtifactMissing(digest) from None
        except OSError as error:
            raise ArtifactCorrupt(digest, "it is a link or cannot be opened") from error
        finally:
            os.close(folder)
        try:
            yield file
        finally:
            os.close(file)

    def _verified(self, digest: str) -> bool:
        """Whether the right bytes are already there; a damaged file counts as absent and is written anew."""
        try:
            Artifacts.get(self, digest)  # of this folder, wherever else a subclass looks
        except (ArtifactMissing, ArtifactCorrupt):
            return False
        return True

    def _write(self, target: Path, data: bytes) -> None:
        temporary = self._incoming / f"{target.name[:16]}-{os.getpid()}-{secrets.token_hex(8)}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        try:
            with open(file, "wb") as stream:  # noqa: PTH123 - a descriptor, not a path
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _sweep(self) -> None:
        oldest = time.time() - _ABANDONED_AFTER
        for left in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if left.lstat().st_mtime < oldest:
                    left.unlink()


def _renewed(path: Path) -> bool:
    """Make a file as young as one just written; False where it has to be written anew for that."""
    try:
        os.utime(path, follow_symlinks=False)
    except OSError as error:
        return error.errno == errno.EROFS  # nothing is deleted there
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
