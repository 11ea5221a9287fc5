"""GET /v1/models and /info: what is served, by which versions, and within which limits."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from encoder.runtime import Measurement
from service import serialise
from service.api import tei
from service.auth import MayLook
from service.errors import unknown_model
from service.schemas import problems
from service.snapshot import AdapterView, LoadedBackbone, Snapshot
from service.state import Running
from service.version import VERSION

router = APIRouter(responses=problems(401, 403))


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
        "layout": manifest.layout,
        "provider": str(session.provider),
        "precision": str(session.precision),
        "threads": session.threads,
        "streams": session.streams,
        "spinning": session.spinning,
        "batch_tolerance": encoder.batch_tolerance,
        "parity": {
            "texts": manifest.parity.texts,
            "max_abs_difference": manifest.parity.max_abs_difference,
            "min_cosine": manifest.parity.min_cosine,
        },
        # What each precision was worth on the machine that imported the backbone, and what this one showed at start.
        "precisions": {name: asdict(facts) for name, facts in manifest.precisions.items()},
        "measurements": [_measurement(measured) for measured in encoder.measurements],
    }


def _measurement(measured: Measurement) -> dict[str, Any]:
    best = measured.arrangement
    return {
        "provider": str(measured.provider),
        "precision": str(measured.precision),
        "texts_per_second": round(measured.texts_per_second, 1),
        "threads": best.threads if best is not None else None,
        "streams": best.streams if best is not None else None,
        "spinning": best.spinning if best is not None else None,
        "milliseconds": round(best.milliseconds, 3) if best is not None else None,
        "min_cosine": measured.min_cosine,
        "retrieval": measured.retrieval,
        "chosen": measured.chosen,
        "error": measured.error,
        "tried": [
            {
                "threads": tried.threads,
                "streams": tried.streams,
                "spinning": tried.spinning,
                "texts_per_second": round(tried.texts_per_second, 1),
                "milliseconds": round(tried.milliseconds, 3),
            }
            for tried in measured.tried
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
