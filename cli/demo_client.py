"""The demo's conversation with the service: every step of the tour is one HTTP call a reader could make with curl."""

import base64
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import orjson

Vectors = npt.NDArray[np.float32]


class DemoClient:
    """Calls of the embedding and admin API; any error answer raises with the server's own words."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=60)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def backbone(self) -> str:
        """Name of the backbone: the first model listed."""
        return str(self._json("GET", "/v1/models")["data"][0]["id"])

    def embed(self, model: str, texts: Sequence[str], batch: int = 64) -> tuple[Vectors, str]:
        """Vectors (n, d) of the texts, and the version that answered."""
        rows: list[Vectors] = []
        answered = model
        for begin in range(0, len(texts), batch):
            body = {"model": model, "input": list(texts[begin : begin + batch]), "encoding_format": "base64"}
            answer = self._json("POST", "/v1/embeddings", body)
            answered = answer["model"]
            rows += [np.frombuffer(base64.b64decode(item["embedding"]), np.float32) for item in answer["data"]]
        return np.stack(rows), answered

    def upload(self, name: str, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
        """Upload rows as JSONL; the answer holds revision and report."""
        body = b"\n".join(orjson.dumps(row) for row in rows) + b"\n"
        headers = {"content-type": "application/x-ndjson"}
        return self._checked(self._http.post(f"/admin/datasets/{name}", content=body, headers=headers))

    def retrain(self, adapter: str, dataset: str, recipe: dict[str, Any]) -> str:
        """Queue a refit; returns the job's id."""
        body = {"adapter": adapter, "dataset": dataset, "recipe": recipe}
        return str(self._json("POST", "/admin/retrain", body)["job_id"])

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job as it goes, until it is finished."""
        while True:
            job = self._json("GET", f"/admin/jobs/{job_id}")
            yield job
            if job["finished_at"]:
                return
            time.sleep(0.2)

    def promote(self, adapter: str, version: int) -> dict[str, Any]:
        """Make a version live."""
        return self._json("POST", f"/admin/adapters/{adapter}/promote", {"version": version})

    def drift(self, adapter: str) -> dict[str, Any]:
        """The monitor's state."""
        return self._json("GET", f"/admin/drift/{adapter}")

    def alert(self, adapter: str) -> dict[str, Any]:
        """What Alertmanager posts when the drift rule fires."""
        now = datetime.now(UTC).isoformat()
        labels = {"alertname": "EmbeddingDrift", "adapter": adapter, "action": "retrain"}
        alert = {"status": "firing", "labels": labels, "annotations": {}, "startsAt": now, "fingerprint": f"demo-{now}"}
        body = {"version": "4", "groupKey": "demo", "status": "firing", "receiver": "driftline", "alerts": [alert]}
        return self._json("POST", "/admin/alerts", body)

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return self._checked(self._http.request(method, path, json=body))

    @staticmethod
    def _checked(answer: httpx2.Response) -> dict[str, Any]:
        if answer.status_code >= 400:
            raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
        value: dict[str, Any] = answer.json()
        return value
