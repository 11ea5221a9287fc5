"""Checks of the places: data folder, disk, clock, object store and shared cache."""

import asyncio
import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.doctor_check import Check, ok, problem, warning
from registry.home import Home

if TYPE_CHECKING:
    from service.settings import Settings

LITTLE_BYTES: Final = 2 * 1024**3
TOO_LITTLE_BYTES: Final = 200 * 1024**2
_LITTLE_INODES: Final = 10_000
CLOCK_SECONDS: Final = 2.0


def folder(home: Home) -> Iterator[Check]:
    """The data folder: there, a folder, ours alone, writable; and the clock that stamps its files."""
    path = home.data_dir
    if not path.exists():
        above = next(each for each in path.parents if each.exists())
        if os.access(above, os.W_OK):
            yield ok("data folder", f"{path} does not exist yet; the first start makes it")
        else:
            yield problem("data folder", f"{path} does not exist and {above} cannot be written", "choose --data-dir")
        return
    if not path.is_dir():
        yield problem("data folder", f"{path} is no folder", "choose another --data-dir")
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    begun = time.time()
    stamp = _stamp(path)
    if stamp is None:
        yield problem("data folder", f"{path} cannot be written", "check its owner, the mount, and the space left")
        return
    if mode & 0o077:
        yield warning("data folder", f"{path} is open to others (mode {mode:04o})", f"chmod 700 {path}")
    else:
        yield ok("data folder", f"{path}, mode {mode:04o}, writable")
    if not begun - CLOCK_SECONDS < stamp < time.time() + CLOCK_SECONDS:
        seen = f"files are stamped {stamp - begun:+.1f} s from this machine's clock"
        yield warning("clock", seen, "synchronise the clocks: ages of artifacts are read from the files")
    else:
        yield ok("clock", "the file system's agrees with this machine's")


def _stamp(path: Path) -> float | None:
    """When the file system says a file made now was made; None where none can be made."""
    probe = path / f".doctor-{secrets.token_hex(8)}"
    try:
        with open(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(b"probe")
            os.fsync(file.fileno())
        return probe.stat().st_mtime
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def disk(home: Home) -> Iterator[Check]:
    """Free bytes and inodes where the data folder is or will be."""
    place = next(each for each in (home.data_dir, *home.data_dir.parents) if each.exists())
    free = shutil.disk_usage(place).free
    inodes = os.statvfs(place)
    seen = f"{free / 1e9:.1f} GB free"
    advice = "make room: `driftline gc` finds artifacts that nothing names"
    if free < TOO_LITTLE_BYTES:
        yield problem("disk", seen, advice)
    elif free < LITTLE_BYTES:
        yield warning("disk", seen, advice)
    elif inodes.f_files and inodes.f_favail < _LITTLE_INODES:
        yield warning("disk", f"{seen}, but only {inodes.f_favail} inodes", advice)
    else:
        yield ok("disk", seen)


def object_store(home: Home) -> Iterator[Check]:
    """The object store: an object is put, read and deleted."""
    from registry.errors import RegistryError
    from registry.object_store import open_bucket

    if home.artifacts_url is None:
        postgresql = not home.database_url.startswith("sqlite")
        if postgresql:
            seen = "none; artifacts are in the data folder, and PostgreSQL is used"
            yield warning("object store", seen, "set DRIFTLINE_ARTIFACTS_URL where programs do not share that folder")
        else:
            yield ok("object store", "none is configured; artifacts are in the data folder")
        return
    kind = home.artifacts_url.partition("://")[0]
    key, data = f".doctor/{secrets.token_hex(8)}", b"probe"
    advice = "check DRIFTLINE_ARTIFACTS_URL, the bucket, and the provider's credentials (AWS_…)"
    try:
        bucket = open_bucket(home.artifacts_url)
        bucket.put(key, data)
        found = bucket.get(key)
        age = (bucket.modified(key) or time.time()) - time.time()
        bucket.delete(key)
        left = bucket.get(key)
    except RegistryError as error:
        yield problem("object store", f"{kind}: {error}", advice)
        return
    if found != data or left is not None:
        yield problem("object store", f"{kind}: what was put or deleted is not seen at once", advice)
    elif abs(age) > 60:
        yield warning(
            "object store", f"{kind}: its clock is {age:+.0f} s from this machine's", "synchronise the clocks"
        )
    else:
        yield ok("object store", f"{kind}: an object was put, read and deleted")


def cache(found: "Settings | None") -> Iterator[Check]:
    """The shared cache: a value is written and read within a second."""
    if found is None or found.cache_url is None:
        yield ok("shared cache", "none is configured")
        return
    from service.shared_server import CacheUnusable, ServerFailed, SharedServer

    url = found.cache_url.get_secret_value()
    key, value = b"doctor:" + secrets.token_bytes(9), b"probe"

    async def probe() -> bool:
        server = SharedServer(url)
        try:
            await server.write([(key, value)], 1, 2.0)
            return bool((await server.read([key], 2.0))[0] == value)
        finally:
            await server.close()

    advice = "requests go on without it; check DRIFTLINE_CACHE_URL and the server"
    try:
        same = asyncio.run(probe())
    except CacheUnusable as error:
        yield problem("shared cache", str(error), "the service will not start: mend or unset DRIFTLINE_CACHE_URL")
    except ServerFailed as error:
        yield warning("shared cache", f"no use of it: {error}", advice)
    else:
        yield (
            ok("shared cache", "a value was written and read")
            if same
            else warning("shared cache", "a value that was written is not read back", advice)
        )
