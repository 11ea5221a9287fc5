"""GET /v1/models and /info: what is served, by which versions, and within which limits."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service import serialise
from service.api import tei
from service.auth import MayLook
from service.errors import unknown_model
from service.schemas import problems
from service.snapshot import AdapterView, LoadedBackbone, Snapshot
from service.state import Running
from service.version import VERSION

router = APIRouter(responses=problems(401, 403))

# How much a text's vector may differ (largest component) with the batch it is computed in, by precision: padding to
# another length changes the order of sums. Measured on the default backbone and rounded up; the tests hold it.
BATCH_TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-3}


@router.get("/v1/models", tags=["models"], summary="List what is served")
async def models(service: Running, caller: MayLook) -> Response:
    """OpenAI's list: backbones first (the default one leading), then adapters and each of their versions."""
    return serialise.answer({"object": "list", "data": _entries(service.catalog.snapshot)})


@router.get("/v1/models/{model}", tags=["models"], summary="One model", responses=problems(404))
async def one_model(model: str, service: Running, caller: MayLook) -> Response:
    """One entry of the list."""
    for entry in _entries(service.catalog.snapshot):
        if entry["id"] == model:
            return serialise.answer(entry)
    raise unknown_model(model)


@router.get("/info", tags=["operations"], summary="Limits, digests and measurements")
async def info(service: Running, caller: MayLook) -> Response:
    """What a client needs to size its requests, and an operator to know what runs."""
    settings, snapshot = service.settings, service.catalog.snapshot
    return serialise.answer(
        {
            "name": "driftline",
            **tei.info(service),
            "version": VERSION,
            "backbones": [_backbone(b) for b in snapshot.backbones.values()],
            "adapters": {
                name: {
                    "live": view.serving.name if view.serving else None,
                    "loaded": view.live is not None,
                    "fault": view.fault,
                }
                for name, view in snapshot.adapters.items()
            },
            "limits": {
                "max_inputs": settings.max_inputs,
                "max_neighbors": settings.max_neighbors,
                "max_request_tokens": settings.max_request_tokens,
                "max_body_bytes": settings.max_body_bytes,
                "max_upload_bytes": settings.max_upload_bytes,
                "max_batch_tokens": settings.max_batch_tokens,
                "queue_tokens": settings.queue_tokens,
                "request_seconds": settings.request_seconds,
            },
            "truncate_by_default": settings.truncate,
            "cache": {"bytes": service.cache.bytes, "entries": len(service.cache), "limit": settings.cache_bytes},
            "authentication": not service.keyring.open,
        }
    )


def _backbone(backbone: LoadedBackbone) -> dict[str, Any]:
    manifest, encoder = backbone.encoder.manifest, backbone.encoder
    session = encoder.session
    return {
        "name": backbone.record.name,
        "digest": backbone.record.digest,
        "source": manifest.source,
        "dimension": manifest.dimension,
        "max_tokens": manifest.max_tokens,
        "pooling": manifest.pooling,
        "provider": str(session.provider),
        "precision": str(session.precision),
        "threads": session.threads,
        "batch_tolerance": BATCH_TOLERANCE.get(str(session.precision)),
        "parity": {
            "texts": manifest.parity.texts,
            "max_abs_difference": manifest.parity.max_abs_difference,
            "min_cosine": manifest.parity.min_cosine,
        },
        "measurements": [
            {
                "provider": str(m.provider),
                "precision": str(m.precision),
                "texts_per_second": round(m.texts_per_second, 1),
                "min_cosine": m.min_cosine,
                "chosen": m.chosen,
                "error": m.error,
            }
            for m in encoder.measurements
        ],
    }


def _entries(snapshot: Snapshot) -> list[dict[str, Any]]:
    entries = [
        _entry(b.record.name, b.record.created_at, None, kind="backbone", digest=b.record.digest)
        for b in snapshot.backbones.values()
    ]
    for view in snapshot.adapters.values():
        entries += _adapter(view, snapshot)
    return entries


def _adapter(view: AdapterView, snapshot: Snapshot) -> list[dict[str, Any]]:
    backbone = snapshot.backbone_of(view.record.backbone)
    parent = backbone.record.name if backbone is not None else None
    entries = []
    live = view.serving
    if live is not None:
        entries.append(
            _entry(view.record.name, view.record.created_at, parent, kind="adapter", digest=live.digest, live=live.name)
        )
    entries += [
        _entry(v.name, v.created_at, parent, kind=v.kind, digest=v.digest, state=v.state.value) for v in view.versions
    ]
    return entries


def _entry(name: str, created: datetime, parent: str | None, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": "driftline",
        "parent": parent,
        **more,
    }
