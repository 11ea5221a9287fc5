"""LangChain's class for Text Embeddings Inference, against a server in a process of its own.

It needs huggingface_hub below 2, which the project is past; so it runs in a small environment with what
langchain-tei.txt pins, made once and kept in `.cache/`. Up to 1.2.1 the class took a server's address as its `model`;
newer ones take it among `model_kwargs` only, and the older ones there as well.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import httpx2
import numpy as np
import pytest

from cli.server import running_service

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PINS = HERE / "langchain-tei.txt"
OLDER = "langchain-huggingface==1.2.1"
MODEL = "all-MiniLM-L6-v2"
TEXTS = ["my card was declined", "what is the exchange rate?", "a dog in the park"]
LONG = "card " * 400

CLIENT = """
import asyncio, json, sys
older = sys.argv[1:]
sys.path[:0] = older
from langchain_huggingface import HuggingFaceEndpointEmbeddings

url, texts, long = json.load(sys.stdin)

def embeddings(path="", **kwargs):
    if older:
        return HuggingFaceEndpointEmbeddings(model=url + path, model_kwargs=kwargs)
    return HuggingFaceEndpointEmbeddings(model_kwargs={"model": url + path, **kwargs})

async def later():
    return [await embeddings().aembed_documents(texts), await embeddings().aembed_query(texts[0])]

def refusal(text, **kwargs):
    try:
        embeddings(**kwargs).embed_query(text)
    except Exception as error:
        return str(error)

plain = embeddings()
print(json.dumps({
    "documents": plain.embed_documents(texts),
    "query": plain.embed_query(texts[0]),
    "later": asyncio.run(later()),
    "route": embeddings("/embed").embed_documents(texts),
    "adapted": embeddings("/embed?model=support").embed_documents(texts),
    "prompted": embeddings("/embed?model=prompted", prompt_name="query").embed_documents(texts),
    "short": embeddings(dimensions=64).embed_query(texts[0]),
    "cut": embeddings(truncate=True).embed_query(long),
    "two lines": plain.embed_query("my card\\nwas declined"),
    "too long": refusal(long),
    "no prompts": refusal(texts[0], prompt_name="query"),
    "left": refusal(long, truncate=True, truncation_direction="left"),
}))
"""


@pytest.fixture(scope="module")
def environment():
    """Folder of the small environment; `older` in it has the older class."""
    key = hashlib.sha256(PINS.read_bytes() + OLDER.encode() + sys.version.encode()).hexdigest()[:16]
    folder = ROOT / ".cache" / f"langchain-tei-{key}"
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        venv.create(unfinished)
        reason = install(unfinished, "--requirement", PINS)
        reason = reason or install(unfinished, "--no-deps", "--target", unfinished / "older", OLDER)
        if reason is not None:
            shutil.rmtree(unfinished)
            pytest.skip(f"pip cannot install LangChain's TEI class: {reason}")
        try:
            unfinished.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(unfinished)
    return folder


def install(folder, *what):
    """Why pip could not install this, None when it did."""
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    options = ["--disable-pip-version-check", "--no-compile", "--only-binary=:all:", "--retries=1", "--timeout=10"]
    try:
        done = subprocess.run([*pip, *options, *what], capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        return "not done within three minutes"
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
    return None if done.returncode == 0 else errors[-1]


@pytest.fixture(scope="module")
def url(prompted_home):
    """A server with the adapter `support` and the backbone `prompted`, exact on the CPU."""
    settings = {"DRIFTLINE_PROVIDER": "cpu", "DRIFTLINE_PRECISION": "fp32", "DRIFTLINE_LOG_FORMAT": "json"}
    with running_service(prompted_home.data_dir, worker=False, settings=settings) as url:
        yield url


def run(environment, code, *arguments, given=""):
    # -I: what this process has on its path is not what the client has.
    command = [environment / "bin" / "python", "-I", "-c", code, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["newer", "older"])
def found(request, environment, url):
    """What the client got."""
    older = [environment / "older"] if request.param == "older" else []
    return run(environment, CLIENT, *older, given=json.dumps([url, TEXTS, LONG]))


def near(found, expected):
    return np.shape(found) == np.shape(expected) and np.abs(np.array(found) - expected).max() < 1e-5


def test_documents_and_queries(found, exact_encoder):
    expected = exact_encoder.encode(TEXTS).vectors
    assert near(found["documents"], expected)
    assert near(found["route"], expected)
    assert near(found["query"], expected[0])
    documents, query = found["later"]
    assert near(documents, expected)
    assert near(query, expected[0])


def test_models_prompts_and_lengths(found, exact_encoder):
    expected = exact_encoder.encode(TEXTS).vectors
    assert np.shape(found["adapted"]) == expected.shape
    assert np.abs(np.array(found["adapted"]) - expected).max() > 0.01
    assert near(found["prompted"], exact_encoder.encode([f"query: {t}" for t in TEXTS]).vectors)
    assert near(found["short"], expected[0][:64] / np.linalg.norm(expected[0][:64]))
    assert near(found["cut"], exact_encoder.encode([LONG], truncate=True).vectors[0])
    assert near(found["two lines"], exact_encoder.encode(["my card was declined"]).vectors[0])


def test_refusals_are_shown(found):
    assert "inputs[0] has 402 tokens; the limit is 256" in found["too long"]
    assert "this model has no prompts" in found["no prompts"]
    assert "only its end can be cut" in found["left"]


def test_the_page_s_snippet(environment, url):
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "langchain_huggingface" in c)
    code = code.replace("http://127.0.0.1:8080", url)
    vectors = run(environment, f"{code}\nimport json; print(json.dumps(vectors))")
    body = {"model": "support", "input": ["my card was declined", "payment refused"]}
    answer = httpx2.post(f"{url}/v1/embeddings", json=body).raise_for_status().json()
    assert near(vectors, [item["embedding"] for item in answer["data"]])
