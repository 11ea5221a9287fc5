"""A job's work folder: every file appears whole or not at all, so that a step can be repeated after any crash."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy


class WorkFolder:
    """The folder of one job, readable by its owner alone, since it holds vectors of the dataset's texts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the folder where it is missing, and clear what a killed writer left."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.path.glob("*.part"):
            left.unlink()

    def remove(self) -> None:
        """Delete the folder and all it holds."""
        shutil.rmtree(self.path, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether a file is there, and therefore whole."""
        return (self.path / name).is_file()

    def write(self, name: str, data: bytes) -> None:
        """Write a file: temporary name, flush to disk, rename."""
        part = self.path / f"{name}.part"
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self.path / name)

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON value."""
        self.write(name, json.dumps(value, sort_keys=True, allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        """A JSON value."""
        return json.loads(self.read(name))

    def write_arrays(self, name: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Write named arrays as safetensors."""
        self.write(name, safetensors.numpy.save({key: np.ascontiguousarray(a) for key, a in arrays.items()}))

    def read_arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Named arrays."""
        return safetensors.numpy.load(self.read(name))
