"""What a version was fitted on, as fingerprints of its rows: no later version is judged against it on those rows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from encoder.lora_manifest import LoraManifest
from encoder.manifest import HeadManifest, load_manifest_bytes
from registry.clusters import answers_of
from registry.near import normal_form
from registry.row import Row
from training.data import Parts
from training.errors import DataRefused
from training.problem import Indices

FILE = "fitted.safetensors"
Fingerprints = npt.NDArray[np.uint64]


def fitted_bytes(rows: Sequence[Row], fit: Indices, further: Sequence[str] = ()) -> bytes:
    """Fingerprints of the fitted rows as one file: 8 bytes of BLAKE2b of each text's normal form, sorted, no text.

    `further` are texts that the fit may learn from beside them.
    """
    marks = _fingerprints([*(rows[row] for row in fit), *(Row(text=text) for text in further)], answers=True)
    return safetensors.numpy.save({"fingerprints": np.unique(marks[marks != 0])})


def fitted_by(digest: str, fetch: Callable[[str], bytes]) -> Fingerprints | None:
    """What the version of this digest was fitted on; None where it was published without saying, as imported ones are.

    A retrain then judges on all its held-out rows, some of which the live version may have been fitted on. That makes
    the live version look better than it is and a pass harder: a candidate may be refused that deserved to pass. It
    gains the candidate nothing, since each is fitted from the base and never from the live version. Base and candidate
    are compared on rows that neither has seen in any case.

    Raises:
        DataRefused: The list cannot be read.
    """
    data = load_manifest_bytes(digest, fetch)
    kind = LoraManifest if is_lora(data) else HeadManifest
    listed = kind.from_bytes(data).dataset.get("fitted")
    if listed is None:
        return None
    try:
        return np.asarray(safetensors.numpy.load(fetch(str(listed)))["fingerprints"], np.uint64)
    except (SafetensorError, KeyError) as error:
        raise DataRefused("the live version's list of fitted rows cannot be read; promote another version") from error


def is_lora(manifest: bytes) -> bool:
    """Whether a version's manifest is that of a LoRA adapter."""
    value = json.loads(manifest)
    return isinstance(value, dict) and value.get("kind") == LoraManifest.KIND


def without_fitted(parts: Parts, rows: Sequence[Row], fitted: Fingerprints) -> Parts:
    """The parts with no judged row that the fingerprinted fit has seen, in these words or, by its cluster, in others.

    Raises:
        DataRefused: No row is left to judge on.
    """
    # Answers count where they are held out; in an FAQ every fit knows them.
    marks = _fingerprints(rows, answers=answers_of(rows) is not None)
    seen = np.isin(marks, fitted).any(axis=1)
    spent = np.unique(parts.clusters[seen])
    judged = parts.gate[~np.isin(parts.clusters[parts.gate], spent)]
    if not len(judged):
        raise DataRefused(
            "the live version was fitted on every row that is held out for judging; add new rows, or use the seed "
            "that the live version was fitted with"
        )
    return replace(parts, judged=judged)


def _fingerprints(rows: Sequence[Row], *, answers: bool) -> Fingerprints:
    """(n, 2) uint64: of the row's text or anchor, and of its answer, or 0 where it has none or none is asked for."""
    table = np.zeros((len(rows), 2), np.uint64)
    for at, row in enumerate(rows):
        table[at, 0] = _fingerprint("subject", row.subject)
        if answers and row.positive is not None:
            table[at, 1] = _fingerprint("answer", row.positive)
    return table


def _fingerprint(side: str, text: str) -> int:
    form = normal_form(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(form, digest_size=8, person=side.encode()).digest()) or 1
