"""The snippets of docs/clients.md, run as they stand against a server that wants a key."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest

from cli.server import running_service
from registry import keys
from registry.keys import Scope

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "clients.md"
SNIPPETS = re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
# Its client has an environment of its own: test_clients_langchain_tei.py.
ELSEWHERE = "from langchain_huggingface import"
RUN_HERE = [pytest.param(*one, id=one[1].split("\n")[0][:60]) for one in SNIPPETS if not one[1].startswith(ELSEWHERE)]

TEXTS = ["my card was declined", "payment refused"]
TAIL = """
import json
names = ("vectors", "scores", "order")
found = {name: globals()[name] for name in names if name in globals()}
print(json.dumps(found, default=lambda value: value.tolist()))
"""


@pytest.fixture(scope="module")
def served(prompted_home):
    """Address and key of a server with the adapter `support`, exact on the CPU."""
    registry = prompted_home.registry()
    with registry.writing() as session:
        _, secret = keys.issue(session, "page", [Scope.EMBED])
    registry.close()
    settings = {"DRIFTLINE_PROVIDER": "cpu", "DRIFTLINE_PRECISION": "fp32", "DRIFTLINE_LOG_FORMAT": "json"}
    with running_service(prompted_home.data_dir, worker=False, settings=settings) as url:
        yield url, secret


@pytest.fixture(scope="module")
def embed(served):
    """Vectors of `support` (n, d), by Driftline's own shape."""
    url, secret = served

    def embed(texts):
        body, headers = {"model": "support", "input": texts}, {"authorization": f"Bearer {secret}"}
        answer = httpx2.post(f"{url}/v1/embeddings", json=body, headers=headers).raise_for_status().json()
        assert answer["model"] == "support@1"
        return np.array([item["embedding"] for item in answer["data"]])

    return embed


def run(kind, code, url, secret):
    """What a snippet ends with: vectors, scores or an order of documents, by these names."""
    assert "http://127.0.0.1:8080" in code
    assert "your-key" in code
    code = code.replace("http://127.0.0.1:8080", url).replace("your-key", secret)
    command = [sys.executable, "-c", code + TAIL] if kind == "python" else ["bash", "-euc", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    if kind == "python":
        return answer
    if isinstance(answer, list):
        return {"vectors": answer}
    if "data" in answer:
        return {"vectors": [item["embedding"] for item in answer["data"]]}
    return {"order": [result["index"] for result in answer["results"]]}


@pytest.mark.parametrize(("kind", "code"), RUN_HERE)
def test_the_snippet_does_what_it_says(served, embed, kind, code):
    found = run(kind, code, *served)
    assert found
    if "vectors" in found:
        assert np.abs(np.array(found["vectors"]) - embed(TEXTS)).max() < 1e-5
    if "scores" in found:
        source, *others = embed([TEXTS[0], "payment refused", "hello"])
        assert np.allclose(found["scores"], np.array(others) @ source, atol=1e-5)
    if "order" in found:
        query, *documents = embed(["card refused", "hello", "my card was declined"])
        assert found["order"] == [int(np.argmax(np.array(documents) @ query))] == [1]


def test_only_one_snippet_is_run_elsewhere():
    assert len(SNIPPETS) >= 10
    assert len(RUN_HERE) == len(SNIPPETS) - 1


def test_without_the_key_the_snippets_are_refused(served):
    url, _ = served
    for path in ("/embed?model=support", "/v1/embeddings", "/v1/rerank", "/v2/embed", "/similarity"):
        assert httpx2.post(url + path, json={}).status_code == 401
