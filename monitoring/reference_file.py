"""How a reference is stored: one safetensors file; equal references give equal bytes.

Format 1 has no calibration vectors and no random features; its files are read, and give back the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from monitoring.cells import Cell
from monitoring.errors import ReferenceRefused
from monitoring.features import RandomFeatures

FORMATS: Final = (1, 2)

_Kinds: TypeAlias = Mapping[str, tuple[type[np.generic], int]]
_TENSORS: Final[_Kinds] = {
    "fit": (np.float32, 2),
    "replay": (np.float32, 2),
    "centroids": (np.float32, 2),
    "calibration_scores": (np.float64, 1),
    "calibration_cells": (np.int64, 1),
}
_FEATURES: Final[_Kinds] = {"directions": (np.float32, 2), "feature_mean": (np.float64, 1), "spectrum": (np.float64, 1)}
_WORDS: Final = ("fit_ids", "fit_labels", "alpha0", "k", "seed", "version_info")


def to_bytes(parts: Mapping[str, Any]) -> bytes:
    """The fields of a reference, by name, as one file."""
    calibration: NDArray[np.float32] | None = parts["calibration"]
    features: RandomFeatures | None = parts["features"]
    words = {name: parts[name] for name in _WORDS} | {
        "format": 1 if calibration is None else 2,
        "version_info": dict(parts["version_info"]),
        "cells": [asdict(cell) for cell in parts["cells"]],
    }
    tensors = {name: parts[name] for name in _TENSORS}
    if calibration is not None:
        tensors["calibration"] = calibration
    if features is not None:
        tensors |= {
            "directions": features.directions,
            "feature_mean": features.mean,
            "spectrum": features.spectrum,
        }
    text = json.dumps(words, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    # As a tensor: safetensors does not keep the order of several metadata keys.
    return save(tensors | {"words": np.frombuffer(text, dtype=np.uint8)})


def from_bytes(data: bytes) -> dict[str, Any]:
    """The fields of a stored reference by name.

    Raises:
        ReferenceRefused: not a reference, damaged, of another format, or of parts that do not fit together.
    """
    try:
        tensors = {name: np.array(array) for name, array in load(data).items()}
        words = json.loads(tensors["words"].tobytes())
        if words["format"] not in FORMATS:
            raise ReferenceRefused("a reference of another format")
        labels = words["fit_labels"]
        parts: dict[str, Any] = {name: _tensor(tensors, name, *kind) for name, kind in _TENSORS.items()}
        parts |= {
            "fit_ids": tuple(words["fit_ids"]),
            "fit_labels": None if labels is None else tuple(labels),
            "cells": tuple(_cell(c) for c in words["cells"]),
            "alpha0": float(words["alpha0"]),
            "k": int(words["k"]),
            "seed": int(words["seed"]),
            "version_info": words["version_info"],
            "calibration": None,
            "features": None,
        }
        if words["format"] == 2:
            parts["calibration"] = _tensor(tensors, "calibration", np.float32, 2)
            parts["features"] = _features(tensors, len(parts["calibration"]))
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ReferenceRefused(f"not a readable reference ({type(error).__name__})") from error
    if not (_sound(parts) and _features_sound(parts["features"], parts["centroids"].shape[1])):
        raise ReferenceRefused("the parts of this reference do not fit together")
    return parts


def _sound(parts: Mapping[str, Any]) -> bool:
    cells, dimension = parts["centroids"].shape
    items = len(parts["calibration_scores"])
    calibration = parts["calibration"]
    arrays = [parts[name] for name in _TENSORS] + ([] if calibration is None else [calibration])
    return (
        cells >= 1
        and parts["replay"].shape[1:] == (dimension,)
        and parts["fit"].shape == (len(parts["fit_ids"]), dimension)
        and parts["calibration_cells"].shape == (cells,) == (len(parts["cells"]),)
        and int(parts["calibration_cells"].sum()) == items
        and (parts["fit_labels"] is None or len(parts["fit_labels"]) == len(parts["fit_ids"]))
        and (calibration is None or calibration.shape == (items, dimension))
        and all(np.isfinite(a).all() for a in arrays)
        and bool(np.all(np.diff(parts["calibration_scores"]) >= 0))
    )


def _features_sound(features: RandomFeatures | None, dimension: int) -> bool:
    if features is None:
        return True
    return (
        features.directions.shape[1:] == (dimension,)
        and features.mean.shape == (features.size,)
        and 1 <= len(features.spectrum) <= features.size
        and features.n_cal >= 2
        and all(np.isfinite(a).all() for a in (features.directions, features.mean, features.spectrum))
        and bool(np.all(np.diff(features.spectrum) <= 0) and features.spectrum[-1] >= 0)
    )


def _features(tensors: Mapping[str, NDArray[Any]], n_cal: int) -> RandomFeatures | None:
    if "directions" not in tensors:
        return None
    directions, mean, spectrum = (_tensor(tensors, name, *kind) for name, kind in _FEATURES.items())
    return RandomFeatures(directions, mean, spectrum, n_cal)


def _tensor(tensors: Mapping[str, NDArray[Any]], name: str, kind: type[np.generic], dimensions: int) -> NDArray[Any]:
    tensor = tensors[name]
    if tensor.dtype != kind or tensor.ndim != dimensions:
        raise ReferenceRefused(f"{name} has another type or shape")
    return tensor


def _cell(data: Mapping[str, Any]) -> Cell:
    labels = tuple((str(label), float(share)) for label, share in data["labels"])
    return Cell(int(data["index"]), data["label"], labels, tuple(data["medoids"]), float(data["share"]))
