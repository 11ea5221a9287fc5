"""The OpenAPI document: FastAPI's, with our one error shape and the refusals that any route may give.

What stands before the routes (keys, the limit of a body, the database behind /admin) answers for all of them, so it is
written here once and not at each route.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.client_schemas import tei_problems
from service.schemas import ProblemBody, problems
from service.tei_errors import PATHS

_KEYED = (429,)  # an address that showed too many wrong keys waits
_WITH_BODY = (400, 413, 415)
_ADMIN = (503,)  # the registry cannot be used now


def openapi(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        problem = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs"))
        schemas["ProblemBody"] = problem
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _describe(path, operation)
        app.openapi_schema = document
    return app.openapi_schema


def allowed(app: FastAPI, path: str) -> str:
    """What may be asked of a path, as the header Allow lists it; "" for one that the document does not hold.

    Starlette names the methods of the first route of that path only, and a path may have several.
    """
    return ", ".join(sorted(method.upper() for method in openapi(app)["paths"].get(path, {})))


def _describe(path: str, operation: dict[str, Any]) -> None:
    """Give one operation our shape of 422, and the refusals of what stands before it."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422", {})):
        responses["422"] = problems(422)[422]
    before: set[int] = set()
    if "security" in operation:
        before.update(_KEYED)
    if "requestBody" in operation:
        before.update(_WITH_BODY)
    if path.startswith("/admin"):
        before.update(_ADMIN)
    for status in sorted(before):
        responses.setdefault(str(status), _problem(path, status))


def _problem(path: str, status: int) -> dict[str, Any]:
    if path not in PATHS:
        return problems(status)[status]
    described = tei_problems(status)[status]
    schema = {"$ref": f"#/components/schemas/{described.pop('model').__name__}"}
    return {**described, "content": {"application/json": {"schema": schema}}}
