"""Where the worker finds the pretrained model in torch that a backbone was exported from; LoRA fits start from it.

It is recognised by the digest of its weights alone, whatever its folder is called. Nothing is downloaded.
"""

import os
import re
from pathlib import Path

from encoder.manifest import BackboneManifest
from training.errors import TrainingError
from training.sources import PACKAGED_SHA256, ExportRefused, Source, open_source

VARIABLE = "DRIFTLINE_MODELS"
_OF_HUB = re.compile(r"hub (\S+) at (\S+)")


class PretrainedMissing(TrainingError):
    """The backbone's pretrained model is not on this machine; the message says how to name its folder."""


def find_pretrained(backbone: BackboneManifest) -> tuple[str | None, Source]:
    """The backbone's pretrained model, and how `open_source` finds it again.

    Looks in the folders named by DRIFTLINE_MODELS (separated like PATH), in the package that carries the default model,
    and, for a backbone that was imported from the hub, in the hub's cache on this machine.

    Raises:
        PretrainedMissing: It is in none of them.
    """
    named = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    places: list[str | None] = [str(Path(part).expanduser()) for part in named]
    if backbone.weights_sha256 == PACKAGED_SHA256:
        places.append(None)
    places += _cached(backbone.source)
    for place in places:
        if place is not None and not Path(place).is_dir():
            continue
        try:
            found = open_source(place)
        except ExportRefused:
            continue
        if found.weights_sha256 == backbone.weights_sha256:
            return place, found
    raise PretrainedMissing(
        f"the pretrained model of the backbone {backbone.name}, on which a LoRA fit starts, is not on the worker's "
        f"machine: put the folder it was imported from there, name it in {VARIABLE}, and queue the job again; or use "
        'the method "head"'
    )


def _cached(described: str) -> list[str | None]:
    """The hub's cache of what an import described, if it is there."""
    origin = _OF_HUB.fullmatch(described)
    if origin is None:
        return []
    import huggingface_hub

    try:
        return [str(huggingface_hub.snapshot_download(origin[1], revision=origin[2], local_files_only=True))]
    except Exception:  # noqa: BLE001  not there; the client raises errors of several libraries
        return []
