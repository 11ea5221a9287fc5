"""Artifacts in an object store (S3, GCS, Azure) with the folder as a verified cache in front of it.

A put is done when the bucket has the bytes; a get takes the folder's copy, else the bucket's, and believes neither
before its digest is right. So every process of an installation sees every artifact, and one that has loaded what it
serves goes on without the store.

Object stores have no locks. Who deletes an object announces it under `.condemned/` first and looks at its age after
that; who stores one looks for the announcement afterwards, and then whether the object is still there. Whichever came
first, a `put` that has returned is not undone. One collection runs at a time.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from registry.artifacts import Artifacts, Kept
from registry.errors import ArtifactCorrupt, ArtifactMissing, InvalidName, RegistryError, Unavailable
from registry.names import valid_digest

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

T = TypeVar("T")

_LOCAL: Final = ("file://", "memory://")
SCHEMES: Final = ("s3://", "gs://", "az://", *_LOCAL)
_CONNECT: Final = timedelta(seconds=5)
_ANSWER: Final = timedelta(seconds=60)
_RETRIES: Final = 3
_RETRY_FOR: Final = timedelta(seconds=20)
# An object that is stored again is written again once it is so old, since nothing else makes it younger.
_RENEW_AFTER: Final = 1800.0
# An announcement older than this was left by a collection that died; one that lives deletes within a fraction of it.
_CONDEMNED_FOR: Final = 600.0
_PATIENCE: Final = 60.0
_KEY: Final = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})")


class Bucket(Protocol):
    """What is asked of an object store; keys are made of digests alone."""

    def put(self, key: str, data: bytes) -> None:
        """Store bytes durably. Raises Unavailable."""

    def get(self, key: str) -> bytes | None:
        """The bytes of a key, None when there are none. Raises Unavailable."""

    def size(self, key: str) -> int | None:
        """How many bytes a key has, None when it does not exist. Raises Unavailable."""

    def delete(self, key: str) -> None:
        """Remove a key; one that does not exist is no error. Raises Unavailable."""

    def modified(self, key: str) -> float | None:
        """When a key was last put, in seconds since 1970; None when it does not exist. Raises Unavailable."""

    def entries(self) -> Iterator[tuple[str, int, float]]:
        """Every key with its size and when it was last put. Raises Unavailable."""


class BucketArtifacts(Artifacts):
    """The store of an installation whose processes do not share a disk; safe for several processes at once."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        """Use a folder (made 0700 where missing) as the cache of a bucket."""
        super().__init__(folder)
        self.bucket = bucket

    def put(self, data: bytes) -> str:
        """Store bytes in the bucket and in the folder, and return their SHA-256.

        Raises Unavailable when the object store cannot be reached; nothing is promised then. Else as `Artifacts.put`.
        """
        digest = hashlib.sha256(data).hexdigest()
        key = key_of(digest)
        # A single put is atomic in every store named above, so an object of the right size is the object.
        if self.bucket.size(key) != len(data) or (self.bucket.modified(key) or 0) < time.time() - _RENEW_AFTER:
            self.bucket.put(key, data)
        deadline = time.monotonic() + _PATIENCE
        while True:
            if self._condemned(digest):
                if time.monotonic() > deadline:
                    raise Unavailable("the artifact is being deleted from the artifact store; try again")
                time.sleep(0.05)
            elif self.bucket.size(key) is None:
                self.bucket.put(key, data)
            else:
                return super().put(data)

    def get(self, digest: str) -> bytes:
        """The bytes of a digest, verified, from the folder or else from the bucket, which fills the folder.

        Raises ArtifactMissing, ArtifactCorrupt, or Unavailable when only the object store could have it.
        """
        with contextlib.suppress(ArtifactMissing, ArtifactCorrupt):
            return super().get(digest)
        try:
            valid_digest(digest)
        except InvalidName:
            raise ArtifactMissing("(malformed)") from None
        data = self.bucket.get(key_of(digest))
        if data is None:
            raise ArtifactMissing(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactCorrupt(digest, "the object store's bytes have another digest")
        with contextlib.suppress(OSError, ArtifactCorrupt):  # a full disk: what is right is served
            super().put(data)
        return data

    def has(self, digest: str) -> bool:
        """Whether the folder or the bucket has it. Raises Unavailable when only the object store can tell."""
        if super().has(digest):
            return True
        try:
            valid_digest(digest)
        except InvalidName:
            return False
        return self.bucket.size(key_of(digest)) is not None

    def entries(self) -> Iterator[Kept]:
        """The objects of the bucket, then the copies of this folder that the bucket lacks. Raises Unavailable."""
        seen = set()
        for key, size, modified in self.bucket.entries():
            if match := _KEY.fullmatch(key):
                seen.add(match[2])
                yield Kept(match[2], size, modified)
        yield from (copy for copy in super().entries() if copy.digest not in seen)

    def discard(self, digest: str, before: float) -> bool:
        """Delete an object, and this folder's copy, unless it was stored after a moment; whether it was deleted.

        Raises Unavailable, OSError.
        """
        key = key_of(valid_digest(digest))
        self.bucket.put(_notice_of(digest), b"")
        announced = time.monotonic()
        try:
            modified = self.bucket.modified(key)
            if modified is not None:
                # What took so long may overlap with a `put` that believes the announcement dead.
                if modified >= before or time.monotonic() - announced > _CONDEMNED_FOR / 4:
                    return False
                self.bucket.delete(key)
        finally:
            self.bucket.delete(_notice_of(digest))
        return super().discard(digest, before) or modified is not None

    def _condemned(self, digest: str) -> bool:
        announced = self.bucket.modified(_notice_of(digest))
        return announced is not None and announced > time.time() - _CONDEMNED_FOR


def _notice_of(digest: str) -> str:
    return f".condemned/{digest}"


def key_of(digest: str) -> str:
    """The object's name: the same two levels as in the folder."""
    return f"{digest[:2]}/{digest}"


def open_bucket(url: str) -> Bucket:
    """The object store behind a URL such as s3://bucket/prefix; credentials come from the provider's own variables.

    Raises RegistryError for a URL of another kind, or without the extra `s3`.
    """
    if not url.startswith(SCHEMES):
        raise RegistryError(f"the artifact store's URL must start with one of {', '.join(SCHEMES)}")
    try:
        return _Obstore(url)
    except ImportError:
        raise RegistryError("an object store needs the extra `s3`: pip install 'driftline[s3]'") from None


class _Obstore:
    """A bucket through obstore."""

    def __init__(self, url: str) -> None:
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        # Options given here hide the variable of the same meaning, so it is passed on.
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true"}
        client: ClientConfig = {"connect_timeout": _CONNECT, "timeout": _ANSWER, "allow_http": plain}
        retry: RetryConfig = {"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR}
        remote = not url.startswith(_LOCAL)
        try:
            self._store = from_url(url, client_options=client, retry_config=retry) if remote else from_url(url)
        except (BaseError, ValueError) as error:
            raise RegistryError(f"the artifact store's URL cannot be used ({type(error).__name__})") from None

    def put(self, key: str, data: bytes) -> None:
        self._reach(lambda: self._store.put(key, data))

    def get(self, key: str) -> bytes | None:
        return self._reach(lambda: bytes(self._store.get(key).bytes()))

    def size(self, key: str) -> int | None:
        return self._reach(lambda: int(self._store.head(key)["size"]))

    def delete(self, key: str) -> None:
        self._reach(lambda: self._store.delete(key))

    def modified(self, key: str) -> float | None:
        return self._reach(lambda: float(self._store.head(key)["last_modified"].timestamp()))

    def entries(self) -> Iterator[tuple[str, int, float]]:
        pages = iter(self._store.list())
        while page := self._reach(lambda: next(pages, None)):
            for meta in page:
                yield str(meta["path"]), int(meta["size"]), float(meta["last_modified"].timestamp())

    def _reach(self, act: Callable[[], T]) -> T | None:
        """What `act` gives, None for a key that does not exist; anything else the store says becomes Unavailable."""
        from obstore.exceptions import BaseError, NotFoundError

        try:
            return act()
        except (FileNotFoundError, NotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise Unavailable(f"the artifact store cannot be reached ({type(error).__name__})") from None
