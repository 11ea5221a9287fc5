"""Numbered lines of a perhaps compressed file; one that is too long is passed over without being held in memory."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from encoder.bulk.block import MAX_RECORD
from encoder.bulk.errors import FileRefused

_BUFFER = 1 << 20
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class LineFile:
    """A text file that is read line by line, as often as needed.

    Attributes:
        path: The file.
        compression: "gzip", "zstd" or None.
    """

    def __init__(self, path: Path, compression: str | None) -> None:
        self.path = path
        self.compression = compression
        self._raw: IO[bytes] | None = None
        self._end = 0

    def lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Line number from 1 and the line with its end; None for a line of more than `MAX_RECORD` bytes.

        Only a line feed ends a line. A byte order mark of UTF-8 is taken off.

        Raises:
            FileRefused: The file is UTF-16, empty, or its compression is broken or cut off.
        """
        number = 0
        with self._opened() as stream:
            while line := stream.readline(MAX_RECORD + 1):
                number += 1
                if number == 1:
                    if line.startswith(_UTF16):
                        raise FileRefused("the file is UTF-16; save it as UTF-8")
                    line = line.removeprefix(_BOM)
                if len(line) <= MAX_RECORD:
                    yield number, line
                    continue
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_BUFFER)
                yield number, None
        if not number:
            raise FileRefused("the file is empty")

    def position(self) -> int:
        """Bytes of the file as it lies on disk that were read so far."""
        return self._end if self._raw is None else self._raw.tell()

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with self.path.open("rb", buffering=0) as raw:
                self._raw = raw
                try:
                    yield _unpacked(raw, self.compression)
                finally:
                    self._end = raw.tell()
                    self._raw = None
        except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid) as error:
            raise FileRefused(f"the file is not whole {self.compression}: {type(error).__name__}") from error
        except OSError as error:
            # pyarrow reports broken compression as an OSError without an error number.
            what = error.strerror or f"not whole {self.compression}"
            raise FileRefused(f"the file cannot be read: {what}") from error


def _unpacked(raw: IO[bytes], compression: str | None) -> IO[bytes]:
    inner: Any = raw
    if compression == "gzip":
        inner = gzip.GzipFile(fileobj=io.BufferedReader(inner, _BUFFER))
    elif compression == "zstd":
        inner = pa.CompressedInputStream(raw, "zstd")
    return io.BufferedReader(inner, _BUFFER)
