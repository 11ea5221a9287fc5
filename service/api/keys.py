"""POST, GET and DELETE /admin/keys, PUT …/limits: API keys; a secret is shown once, at its making."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from registry import keys, quotas
from registry.keys import Key, Scope
from registry.quotas import KeyLimits
from service import serialise
from service.auth import MayAdmin
from service.errors import invalid
from service.schemas import KeyLimitsRequest, KeyRequest, problems
from service.state import Running, Service

router = APIRouter(prefix="/admin/keys", tags=["keys"], responses=problems(401, 403))


@router.post("", status_code=201, summary="Make a key", responses=problems(422))
async def issue(body: KeyRequest, service: Running, caller: MayAdmin) -> Response:
    """Make a key; the answer holds the secret, which is not kept and cannot be had again."""
    if service.keyring.open and Scope.ADMIN not in body.scopes:
        # From the first key on every request needs one: without an admin key nobody could make another over HTTP.
        raise invalid("scopes", 'of the first key must hold "admin"')

    def make() -> tuple[Key, str]:
        with service.registry.writing() as session:
            return keys.issue(
                session, body.name, body.scopes, body.expires_at, retain_days=body.retain_texts_days, by=caller.name
            )

    key, secret = await service.blocking(make)
    await _reload(service)
    return serialise.answer({**_view(key), "secret": secret}, 201, {"cache-control": "no-store"})


@router.get("", summary="List keys")
async def listing(service: Running, caller: MayAdmin) -> Response:
    """Every key without its secret, revoked ones included."""

    def read() -> list[Key]:
        with service.registry.reading() as session:
            return keys.all(session)

    return serialise.answer({"data": [_view(key) for key in await service.blocking(read)]})


@router.delete("/{key_id}", summary="Revoke a key", responses=problems(404))
async def revoke(key_id: str, service: Running, caller: MayAdmin) -> Response:
    """End a key; this service refuses it from now on, other replicas within their poll interval."""

    def end() -> Key:
        with service.registry.writing() as session:
            return keys.revoke(session, key_id, by=caller.name)

    key = await service.blocking(end)
    await _reload(service)
    return serialise.answer(_view(key))


@router.put("/{key_id}/limits", summary="Limit a key", responses=problems(404, 422))
async def limit(key_id: str, body: KeyLimitsRequest, service: Running, caller: MayAdmin) -> Response:
    """Set how many texts a key may send; this service holds it from now on, other replicas within a minute."""
    limits = KeyLimits(body.texts_per_minute, body.texts_per_day)

    def put() -> None:
        with service.registry.writing() as session:
            quotas.limit(session, key_id, limits, by=caller.name)
        service.rates.reconcile(service.registry)

    await service.blocking(put)
    return serialise.answer({"id": key_id, **asdict(limits)})


async def _reload(service: Service) -> None:
    await service.blocking(lambda: service.keyring.load(service.registry))


def _view(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "last4": key.last4,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "retain_texts_days": key.retain_days,
    }
