"""The structure of the model card `driftline.model_card/1` as a JSON Schema (draft 2020-12)."""

from typing import Any, Final

_NUMBER: Final = {"type": "number"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TEXT: Final = {"type": "string"}
_DIGEST: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_ANYTHING: Final = {"type": "object"}


def _object(required: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(more or {})}}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _table(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": of}


def _maybe(of: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [of, {"type": "null"}]}


_INTERVAL = _object({"low": _NUMBER, "high": _NUMBER, "confidence": _NUMBER, "items": _COUNT, "clusters": _COUNT})
_ESTIMATE = _object({"mean": _NUMBER, **_INTERVAL["properties"]})
_METRIC = _object({"type": _TEXT, "name": _TEXT, "value": _NUMBER, "interval": _INTERVAL})
_REASON = _object({"code": _TEXT, "text": _TEXT, "ok": {"type": "boolean"}, "numbers": _ANYTHING})
_RESULT = _object({
    "task": _object({"type": _TEXT, "name": _TEXT}),
    "dataset": _object({"name": _TEXT, "type": _TEXT, "revision": _TEXT, "split": _TEXT}),
    "metrics": _list(_METRIC),
})  # fmt: skip
_GROUPS = _object({
    "groups": _COUNT,
    "judged": _COUNT,
    "worst": _maybe(_object({"name": _maybe(_TEXT), "score": _ESTIMATE})),
    "gap": _maybe(_ESTIMATE),
})  # fmt: skip
_VERSIONS = _object({
    "probes": _COUNT, "rows": _COUNT, "measures": _table(_ESTIMATE), "alike": {"type": "boolean"},
    "index_serves": {"type": "boolean"}, "words": _TEXT,
})  # fmt: skip
_CONFUSION = _object({"label": _TEXT, "taken_for": _TEXT, "items": _COUNT, "share": _NUMBER})
_DATASET = _object({
    "name": _TEXT, "revision": _COUNT, "digest": _DIGEST, "kind": {"enum": ["labelled", "pairs"]}, "rows": _COUNT,
    "labels": _COUNT, "repeated_rows": _COUNT, "conflicting_texts": _COUNT, "near_duplicate_rows": _COUNT,
    "warnings": _list(_TEXT), "parts": _table(_COUNT),
})  # fmt: skip
_LINEAGE = _object({
    "adapter": _TEXT,
    "kind": _TEXT,
    "job": _TEXT,
    "asked_at": {"type": "string", "format": "date-time"},
    "backbone": _object({"name": _maybe(_TEXT), "digest": _DIGEST}),
    "parent": _maybe(_object({"number": _COUNT, "digest": _DIGEST})),
    "files": _table(_DIGEST),
    "libraries": _table(_maybe(_TEXT)),
})  # fmt: skip
_NEIGHBORHOODS = _object({
    "items": _COUNT, "k": _COUNT, "overlap": _ESTIMATE, "kept": _list(_COUNT), "right": _table(_NUMBER),
    "mended": _COUNT, "broken": _COUNT,
})  # fmt: skip

CARD_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "driftline.model_card/1",
    **_object({
        "schema": {"const": "driftline.model_card/1"},
        "library_name": {"const": "driftline"},
        "pipeline_tag": _TEXT,
        "tags": _list(_TEXT),
        "base_model": _object({"name": _maybe(_TEXT), "digest": _DIGEST}),
        "datasets": _list(_DATASET),
        "model-index": _list(_object({"name": _TEXT, "results": _list(_RESULT)})),
        "compared": _table(_list(_METRIC)),
        "differences": _table(_list(_METRIC)),
        "classification": _maybe(_table(_table(_ANYTHING))),
        "few_shot": _maybe(_ANYTHING),
        "calibration": _maybe(_ANYTHING),
        "subgroups": _table(_table(_GROUPS)),
        "robustness": _table(_ANYTHING),
        "shift": _ANYTHING,
        "general": _table(_ANYTHING),
        "neighborhoods": _NEIGHBORHOODS,
        "errors": _table(_object({"looked_at": _COUNT, "below_zero": _COUNT, "confusions": _list(_CONFUSION)})),
        "fit": _object({"best_step": _COUNT, "curves": _table(_list(_maybe(_NUMBER)))}),
        "recipe": _ANYTHING,
        "verdict": _object({
            "outcome": {"enum": ["pass", "fail", "inconclusive"]}, "reasons": _list(_REASON), "metrics": _ANYTHING,
        }),
        "lineage": _LINEAGE,
        "notes": _list(_TEXT),
    }, {"versions": _maybe(_VERSIONS)}),
}  # fmt: skip
