"""Artifacts in an object store (S3, GCS, Azure) with the folder as a verified cache in front of it.

A put is done when the bucket has the bytes; a get takes the folder's copy, else the bucket's, and believes neither
before its digest is right. So every process of an installation sees every artifact, and one that has loaded what it
serves goes on without the store.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from registry.artifacts import Artifacts
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
        if self.bucket.size(key) != len(data):
            self.bucket.put(key, data)
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

    def _reach(self, act: Callable[[], T]) -> T | None:
        """What `act` gives, None for a key that does not exist; anything else the store says becomes Unavailable."""
        from obstore.exceptions import BaseError, NotFoundError

        try:
            return act()
        except (FileNotFoundError, NotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise Unavailable(f"the artifact store cannot be reached ({type(error).__name__})") from None
