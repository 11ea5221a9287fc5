"""Who may do what: API keys with scopes, checked in memory, declared in each route's signature.

Until the first key is issued a loopback service is open to this machine (see limits.LocalOnly). From then on every
route that names a scope wants `Authorization: Bearer dl_…`. The key table is refreshed with the catalog, so a key that
was revoked elsewhere stops working within the poll interval, and a database outage locks nobody out.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import Request

from registry import keys
from registry.keys import KeyTable, Scope
from registry.registry import Registry
from service.errors import Problem

LOCAL = "local"
CALLER = "driftline.caller"
"""Key of the scope under which the id of the caller's API key is noted; absent while the service is open."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the key's name and id, or `local` and None while the service is open."""

    name: str
    key: str | None = None


class Keyring:
    """The keys in memory."""

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        self._table: KeyTable | None = None
        self._usable = False
        self._used: dict[str, datetime] = {}

    def load(self, registry: Registry) -> None:
        """Read the keys from the registry (blocking)."""
        with registry.reading() as session:
            table, usable = keys.verifier(session), keys.any_issued(session)
        self._table, self._usable = table, usable

    @property
    def usable(self) -> bool:
        """Whether a key exists that was not revoked."""
        return self._usable

    @property
    def open(self) -> bool:
        """Whether the service asks for no key: on loopback, while no key was ever issued (revoked ones count).

        Until the keys are loaded nobody is let in.
        """
        return self._loopback and self._table is not None and not self._table.entries

    def caller(self, authorization: str | None, *scopes: Scope) -> Caller:
        """Who asks, if they may; any one of the scopes will do.

        Raises:
            Problem: 401 without a valid key, 403 when the key has none of the scopes.
        """
        if self.open:
            return Caller(LOCAL)
        kind, _, secret = (authorization or "").partition(" ")
        if not secret or kind.lower() != "bearer":
            raise _unauthorized("An API key is required: send Authorization: Bearer <key>.", "missing_api_key", "")
        key = self._table.check(secret.strip()) if self._table is not None else None
        if key is None:
            raise _unauthorized("The API key is not valid.", "invalid_api_key", ', error="invalid_token"')
        if not any(key.allows(scope) for scope in scopes):
            wanted = " or ".join(repr(scope.value) for scope in scopes)
            message = f"The API key lacks the scope {wanted}."
            challenge = f'Bearer realm="driftline", error="insufficient_scope", scope="{scopes[0].value}"'
            raise Problem(403, message, code="missing_scope", headers={"WWW-Authenticate": challenge})
        self._used[key.id] = datetime.now(UTC)
        return Caller(key.name, key.id)

    def retain_days(self, key: str | None) -> int | None:
        """For how many days texts sent with a key (by id) are kept; None for no time, and without a key."""
        if key is None or self._table is None:
            return None
        _, found = self._table.entries.get(key, ("", None))
        return None if found is None else found.retain_days

    def note_uses(self, registry: Registry) -> None:
        """Write when keys were last used, all in one transaction (blocking); what cannot be written is dropped."""
        used, self._used = self._used, {}
        if used:
            with registry.writing() as session:
                keys.touch(session, used)


def _unauthorized(message: str, code: str, error: str) -> Problem:
    return Problem(401, message, code=code, headers={"WWW-Authenticate": f'Bearer realm="driftline"{error}'})


class _Needs(SecurityBase):
    """The dependency behind a route's access policy; FastAPI writes it into the OpenAPI document."""

    def __init__(self, *scopes: Scope) -> None:
        self.scopes = scopes
        self.model = HTTPBearer(description="An API key made by `driftline key create` or POST /admin/keys.")
        self.scheme_name = "key"

    async def __call__(self, request: Request) -> Caller:
        return self.caller(request)

    def caller(self, request: Request) -> Caller:
        """Who asks, for code that is not reached through FastAPI's dependencies."""
        service = request.app.state.service
        keyring: Keyring = service.keyring
        try:
            caller = keyring.caller(request.headers.get("authorization"), *self.scopes)
        except Problem as refused:
            if refused.status != 401:
                raise
            raise service.doors.failed(request.client.host if request.client else None, refused) from None
        request.scope[CALLER] = caller.key
        return caller


embed_access = _Needs(Scope.EMBED)
MayEmbed = Annotated[Caller, Security(embed_access, scopes=["embed"])]
MayLook = Annotated[Caller, Security(_Needs(Scope.EMBED, Scope.READ), scopes=["embed", "read"])]
MayRead = Annotated[Caller, Security(_Needs(Scope.READ), scopes=["read"])]
MayTrain = Annotated[Caller, Security(_Needs(Scope.TRAIN), scopes=["train"])]
MayAdmin = Annotated[Caller, Security(_Needs(Scope.ADMIN), scopes=["admin"])]
