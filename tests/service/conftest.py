"""Helpers of the service's tests: real adapter versions made without training, and services over fresh homes."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from starlette.testclient import TestClient

from encoder.adapters import Head
from encoder.encoder import Encoder
from encoder.manifest import FileEntry, HeadManifest, Parity
from monitoring.reference import Reference
from registry import backbones, versions
from registry.home import Home
from registry.registry import Registry
from registry.versions import Version
from service import Settings, create_app

MODEL = "all-MiniLM-L6-v2"
# Exact and quick to load: vectors can be compared to 1e-5 whatever batch they were computed in.
EXACT = {"provider": "cpu", "precision": "fp32", "worker": False}

SUBJECTS = ["my card", "a transfer", "the exchange rate", "a cash withdrawal", "my identity check", "a top up"]
PROBLEMS = ["was declined", "is still pending", "looks wrong", "was charged twice", "failed yesterday", "is too slow"]
ENDINGS = [
    "please help",
    "what now?",
    "in Berlin",
    "since Monday",
    "on my phone",
    "again",
    "for 30 euros",
    "at the shop",
]
DATASET = {"name": "support", "revision": 1, "digest": "0" * 64}
TOPICAL = [f"{s} {p} {e}" for s in SUBJECTS for p in PROBLEMS for e in ENDINGS]


def make_weights(seed: int, dimension: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3 / np.sqrt(dimension), (dimension, dimension)).astype(np.float32)


def apply(weights: np.ndarray, base: np.ndarray) -> np.ndarray:
    moved = base + base @ weights
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def make_head(weights: np.ndarray) -> bytes:
    """A small real head, the same as `apply`."""
    dimension = len(weights)
    helper = onnx.helper
    given, made = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", dimension])
        for name in ("base", "sentence_embedding")
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["base", "w"], ["moved"]),
            helper.make_node("Add", ["base", "moved"], ["sum"]),
            helper.make_node("LpNormalization", ["sum"], ["sentence_embedding"], axis=-1, p=2),
        ],
        "head",
        [given],
        [made],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


@dataclass
class Publisher:
    """Publishes head versions with references into a registry."""

    registry: Registry
    encoder: Encoder
    backbone: str
    base: np.ndarray

    def head(self, version: Version) -> Head:
        return Head.open(version.digest, self.registry.fetch)

    def __call__(
        self,
        adapter: str,
        seed: int,
        *,
        promote: bool = True,
        reference: bool = True,
        break_it: bool = False,
        **more: Any,
    ) -> Version:
        store, dimension = self.registry.store, self.base.shape[1]
        weights = more.get("weights", make_weights(seed, dimension))
        model, outputs = make_head(weights), apply(weights, self.base[:16])
        if break_it:
            outputs = np.roll(outputs, 1, axis=0)
        probes = safetensors.numpy.save({"inputs": np.ascontiguousarray(self.base[:16]), "outputs": outputs})
        files = {"head.onnx": model, "probes.safetensors": probes}
        for data in files.values():
            store(data)
        manifest = HeadManifest(
            backbone=self.backbone,
            dimension=dimension,
            files={name: FileEntry.of(data) for name, data in files.items()},
            parity=Parity(16, 0.0, 1.0),
            recipe={},
            dataset=DATASET,
            metrics={},
            parent=None,
            job=f"job_{adapter}_{seed}",
            versions={},
        )
        digest = store(manifest.to_bytes())
        picture = None
        if reference:
            vectors = apply(weights, self.base)
            order = np.random.default_rng(0).permutation(len(vectors))
            fit, calibration, replay = np.split(order, [140, 250])
            picture = store(
                Reference.build(
                    fit=vectors[fit],
                    fit_ids=[str(i) for i in fit],
                    fit_labels=[SUBJECTS[i // (len(PROBLEMS) * len(ENDINGS))] for i in fit],
                    calibration=vectors[calibration],
                    replay=vectors[replay],
                    version_info={"dataset": DATASET},
                ).to_bytes()
            )
        with self.registry.writing() as session_:
            versions.ensure_adapter(session_, adapter, self.backbone)
            version = versions.publish(
                session_, adapter=adapter, digest=digest, kind="head", backbone=self.backbone, reference=picture,
                parent=None, job_id=None, dataset="support@1", metrics={}, verdict=more.get("verdict"),
                rejected=more.get("rejected", False),
            )  # fmt: skip
            if promote:
                version = versions.promote(session_, adapter, version.number, by="test")
        return version


@pytest.fixture(scope="session")
def exact_encoder(exported_backbone: Path) -> Encoder:
    """The default backbone in fp32 on the CPU."""
    registry = Home.at(exported_backbone).registry()
    with registry.reading() as session:
        digest = backbones.default(session).digest
    encoder = Encoder.open(digest, registry.fetch, provider="cpu", precision="fp32", threads=2, streams=1)
    registry.close()
    return encoder


@pytest.fixture(scope="session")
def topical(exact_encoder: Encoder) -> np.ndarray:
    """Base vectors of the texts that references are built from."""
    return exact_encoder.encode(TOPICAL).vectors


@pytest.fixture
def publish(backbone_home: Home, exact_encoder: Encoder, topical: np.ndarray) -> Iterator[Publisher]:
    """Publishes into the test's own home."""
    publisher = Publisher(backbone_home.registry(), exact_encoder, exact_encoder.digest, topical)
    yield publisher
    publisher.registry.close()


def wait_ready(get: Callable[[str], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while get("/readyz").status_code != 200:
        assert time.monotonic() < deadline, "the service did not become ready"
        time.sleep(0.05)


@contextlib.contextmanager
def client_of(home: Home, encoder: Encoder | Callable[[str], Encoder], **settings: Any) -> Iterator[TestClient]:
    """A service over a home, in this process. It is given the session's encoder, which is the one it would load."""
    app = create_app(Settings(data_dir=home.data_dir, **{**EXACT, "poll_seconds": 0.05, **settings}))
    app.state.service.catalog._open_encoder = encoder if callable(encoder) else lambda digest: encoder
    with TestClient(app, base_url="http://127.0.0.1") as client:
        wait_ready(client.get)
        yield client


@pytest.fixture
def serving(exact_encoder: Encoder) -> Callable[..., contextlib.AbstractContextManager[TestClient]]:
    return lambda home, **settings: client_of(home, exact_encoder, **settings)


@pytest.fixture
def client(backbone_home: Home, exact_encoder: Encoder) -> Iterator[TestClient]:
    """A service over a fresh home, for tests that change it."""
    with client_of(backbone_home, exact_encoder) as client:
        yield client


@pytest.fixture(scope="module")
def shared(
    exported_backbone: Path, exact_encoder: Encoder, topical: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A service with the adapter `support` (versions 1 and 2, 2 live), for tests that only read."""
    folder = tmp_path_factory.mktemp("service") / "home"
    shutil.copytree(exported_backbone, folder)
    home = Home.at(folder)
    publisher = Publisher(home.registry(), exact_encoder, exact_encoder.digest, topical)
    publisher("support", 1)
    publisher("support", 2)
    with client_of(home, exact_encoder) as client:
        client.heads = {n: publisher.head(v) for n, v in ((v.number, v) for v in history(publisher, "support"))}
        yield client
    publisher.registry.close()


PROMPTS = {"query": "query: ", "passage": "passage: ", "empty": ""}


@pytest.fixture(scope="module")
def prompted_home(
    exported_backbone: Path, exact_encoder: Encoder, topical: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Home:
    """A home with the adapter `support` and a second backbone `prompted`: the default one, with prompts."""
    folder = tmp_path_factory.mktemp("prompted") / "home"
    shutil.copytree(exported_backbone, folder)
    home = Home.at(folder)
    registry = home.registry()
    Publisher(registry, exact_encoder, exact_encoder.digest, topical)("support", 1)
    manifest = dataclasses.replace(exact_encoder.manifest, name="prompted", prompts=PROMPTS)
    digest = registry.store(manifest.to_bytes())
    with registry.writing() as session:
        backbones.add(session, manifest.to_dict(), digest)
    registry.close()
    return home


@pytest.fixture(scope="module")
def both(
    prompted_home: Home, exact_encoder: Encoder
) -> Iterator[Callable[..., contextlib.AbstractContextManager[TestClient]]]:
    """Services over `prompted_home`, in this process; the home is shared and must not be changed."""
    registry = prompted_home.registry()
    opened = {exact_encoder.digest: exact_encoder}

    def open_encoder(digest: str) -> Encoder:
        if digest not in opened:
            opened[digest] = Encoder.open(
                digest, registry.fetch, provider="cpu", precision="fp32", threads=2, streams=1
            )
        return opened[digest]

    yield lambda **settings: client_of(prompted_home, open_encoder, **settings)
    registry.close()


def history(publisher: Publisher, adapter: str) -> list[Version]:
    with publisher.registry.reading() as session:
        return versions.history(session, adapter)


class Process:
    """A service in a process of its own, as `driftline serve` runs it; `before` is Python run ahead of it there."""

    def __init__(self, home: Home, *, before: str = "", **settings: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = {"data_dir": str(home.data_dir), **EXACT, "poll_seconds": 0.1, "port": self.port, **settings}
        code = "import json, sys; from service import Settings, run; run(Settings(**json.loads(sys.argv[1])))"
        self.log = home.data_dir.parent / f"serve-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", f"{before}\n{code}", json.dumps(options)],
                stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> "Answer":
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> "Answer":
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: Any = None) -> "Answer":
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))
        except (urllib.error.URLError, ConnectionError):
            assert self.process.poll() is None, self.log.read_text()
            return Answer(0, b"", {})

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@dataclass
class Answer:
    status_code: int
    content: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.content)


@pytest.fixture(scope="session")
def start_service() -> Callable[..., Process]:
    """Starts a service in a process of its own; who asked for it stops it."""

    def start(home: Home, **settings: Any) -> Process:
        process = Process(home, **settings)
        wait_ready(process.get)
        return process

    return start


@pytest.fixture
def spawn() -> Iterator[Callable[..., Process]]:
    """Starts services in processes of their own; whatever still runs at the end is killed."""
    started: list[Process] = []

    def start(home: Home, *, ready: bool = True, **settings: Any) -> Process:
        process = Process(home, **settings)
        started.append(process)
        if ready:
            wait_ready(process.get)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
