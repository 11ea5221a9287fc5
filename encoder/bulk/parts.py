"""What a run leaves on disk while it goes on, so that a killed one is taken up: finished windows and a state file.

    out.parquet.parts/state.json                      what is run on what, written before the first part
    out.parquet.parts/part-000000000001-000000008192.arrow    rows 1 to 8192, whole: written aside, synced, renamed
    out.parquet.parts/whole.parquet                   the output as it grows, made anew from the parts by each run

A part covers every row from its first to its last, bad ones too, so the parts in a row tell where to go on. The output
appears under its own name in one rename, when it is whole and synced.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoder.bulk.errors import FileRefused, ResumeRefused
from encoder.bulk.layout import Origin, batch_of, open_writer
from encoder.bulk.options import EMBEDDING
from encoder.bulk.window import Done

_PART = re.compile(r"part-(\d{12})-(\d{12})\.arrow")
_STATE = "state.json"
_WHOLE = "whole.parquet"
_OURS = re.compile(r"state\.(json|new)|part-\d{12}-\d{12}\.(arrow|new)|whole\.parquet")
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Part:
    """A finished window on disk: the input rows it covers, from 1, and its file."""

    first: int
    last: int
    path: Path


class Folder:
    """The parts of one output file; hold `locked` while using it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.with_name(f"{out.name}.parts")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it; an empty one is removed afterwards.

        Raises:
            ResumeRefused: Another run is at work on the same output.
            FileRefused: The folder cannot be made, or holds what no run wrote.
        """
        handle = self._lock()
        try:
            with writing():
                foreign = any(not _OURS.fullmatch(path.name) or path.is_dir() for path in self.path.iterdir())
            if foreign:
                raise FileRefused(
                    f"the folder {self.path.name} beside the output holds files that no run wrote; "
                    "move them away, or name another output"
                )
            yield
        finally:
            if self._is(handle) and not any(self.path.iterdir()):
                self.path.rmdir()
            os.close(handle)

    def _lock(self) -> int:
        """A locked handle of the folder, which is made where it is missing."""
        for _ in range(_TRIES):
            with writing():
                self.path.mkdir(exist_ok=True)
                try:
                    handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except FileNotFoundError:  # the run before this one removed it just now
                    continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                break
            if self._is(handle):
                return handle
            os.close(handle)  # a lock on a folder that was removed meanwhile keeps nobody out
        raise ResumeRefused("another run is writing this output now")

    def _is(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except FileNotFoundError:
            return False

    def state(self) -> dict[str, Any] | None:
        """What was written by `begin`; None where nothing was begun.

        Raises:
            ResumeRefused: It cannot be read.
        """
        try:
            found = json.loads((self.path / _STATE).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise ResumeRefused("what an earlier run left cannot be read; --restart begins anew")
        return found

    def begin(self, state: dict[str, Any]) -> None:
        """Write down what is run, durably; it replaces what was there."""
        with writing():
            _write_whole(self.path / _STATE, json.dumps(state, sort_keys=True).encode())

    def clear(self) -> None:
        """Remove everything that runs wrote; `locked` then removes the empty folder."""
        with writing():
            for left in self.path.iterdir():
                if _OURS.fullmatch(left.name):
                    left.unlink()

    def parts(self) -> list[Part]:
        """The parts that follow one another from row 1; files that do not belong to them are removed."""
        found: list[Part] = []
        with writing():
            for path in sorted(self.path.iterdir()):
                if path.name == _STATE:
                    continue
                match = _PART.fullmatch(path.name)
                after = found[-1].last if found else 0
                if match and int(match[1]) == after + 1 and _whole(path):
                    found.append(Part(int(match[1]), int(match[2]), path))
                elif _OURS.fullmatch(path.name):
                    path.unlink()
        return found

    def write(self, done: Done, schema: pa.Schema) -> Part:
        """Write a computed window durably."""
        first, last = done.first, done.first + done.rows - 1
        target = self.path / f"part-{first:012d}-{last:012d}.arrow"
        aside = target.with_suffix(".new")
        with writing():
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(batch_of(done, schema))
            sync(aside)
            aside.replace(target)
            sync(self.path)
        return Part(first, last, target)

    def publish(self, whole: Path) -> None:
        """Give the finished output its name, durably, and remove all that led to it."""
        with writing():
            sync(whole)
            whole.replace(self.out)
            sync(self.out.parent)
            self.clear()


class Assembler:
    """Puts parts into one Parquet file while the run goes on; part after part in a thread of its own."""

    def __init__(self, folder: Folder, schema: pa.Schema, origin: Origin) -> None:
        self._folder = folder
        self._schema = schema
        self._path = folder.path / _WHOLE
        with writing():
            self._writer = open_writer(self._path, schema, origin)
        self._thread = ThreadPoolExecutor(1, "bulk-assemble")
        self._pending: list[Future[None]] = []
        self._vectors = 0

    def add(self, part: Part) -> None:
        """Queue a part; the parts come in order.

        Raises:
            FileRefused: An earlier part could not be written.
        """
        waiting = [step for step in self._pending if not step.done()]
        for step in self._pending:
            if step.done():
                step.result()
        self._pending = [*waiting, self._thread.submit(self._append, part)]

    def finish(self) -> int:
        """Wait for every part and publish the file; gives the number of its vectors."""
        for step in self._pending:
            step.result()
        with writing():
            self._writer.close()
        self._folder.publish(self._path)
        return self._vectors

    def stop(self) -> None:
        """End the thread; without `finish` before it, nothing is published."""
        self._thread.shutdown(cancel_futures=True)
        with contextlib.suppress(OSError):
            self._writer.close()

    def _append(self, part: Part) -> None:
        with writing(), pa.memory_map(str(part.path)) as source, pa.ipc.open_file(source) as reader:
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                # A gentler run may go on with parts whose schema allowed no hole.
                batch = pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
                self._vectors += len(batch) - batch.column(EMBEDDING).null_count
                if len(batch):
                    self._writer.write_batch(batch, row_group_size=len(batch))


def _whole(path: Path) -> bool:
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            return bool(reader.num_record_batches == 1)
    except (pa.ArrowException, OSError):
        return False


def _write_whole(path: Path, data: bytes) -> None:
    aside = path.with_suffix(".new")
    aside.write_bytes(data)
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Force a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing() -> Iterator[None]:
    """Turn the error of a full disk, or of a folder that is not ours to write, into FileRefused."""
    try:
        yield
    except OSError as error:
        raise FileRefused(f"the output cannot be written: {error.strerror or type(error).__name__}") from error
