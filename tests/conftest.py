"""Fixtures every test package shares: where the real data lies, and a home with the real backbone imported."""

import contextlib
import hashlib
import http.server
import importlib.metadata
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.home import Home

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets, which is not part of the project; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip("the real datasets (../shared/data) are not on this machine")
    return SHARED


def _exported_home() -> Path:
    """A home with the default backbone exported, kept between runs and made anew when its makers change."""
    from training.export import import_backbone

    makers = (
        *("training/export.py", "training/weight_names.py", "training/sources.py", "training/parity.py"),
        *("training/quantize.py", "training/precisions.py", "training/retrieval_texts.py"),
        *("encoder/manifest.py", "encoder/retrieval.py"),
    )
    code = b"".join((ROOT / file).read_bytes() for file in (*makers, "registry/tables.py"))
    versions = "".join(importlib.metadata.version(p) for p in ("torch", "transformers", "onnxscript", "onnxruntime"))
    key = hashlib.sha256(code + versions.encode()).hexdigest()[:16]
    folder = ROOT / ".cache" / f"backbone-{key}"
    if not (folder / "done").exists():
        # Made aside and put in its place whole: several runs of the tests may want it at once.
        made = folder.with_name(f"{folder.name}-{os.getpid()}")
        registry = Home.at(made).registry()
        manifest = import_backbone(None, registry.store)
        from registry import backbones

        with registry.writing() as session:
            backbones.add(session, manifest.to_dict(), manifest.digest)
        registry.close()
        (made / "done").touch()
        with contextlib.suppress(OSError):  # another run was first
            made.rename(folder)
        shutil.rmtree(made, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def exported_backbone() -> Path:
    """Session-wide folder with the default backbone; read-only by agreement."""
    return _exported_home()


@pytest.fixture
def backbone_home(exported_backbone: Path, tmp_path: Path) -> Home:
    """A fresh home with the real default backbone imported; the test may change it."""
    folder = tmp_path / "home"
    shutil.copytree(exported_backbone, folder)
    return Home.at(folder)


@pytest.fixture(scope="session")
def session_backbone_home(exported_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """As `backbone_home`, but one for the whole session, for servers that several tests share."""
    folder = tmp_path_factory.mktemp("shared-home") / "home"
    shutil.copytree(exported_backbone, folder)
    return Home.at(folder)


@pytest.fixture(scope="session")
def peft_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves an adapter made by PEFT on the real backbone, its B drawn at random, and returns the folder."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    from training.export import quietly
    from training.sources import open_source

    def make(*, seed: int = 0, std: float = 0.05, whole: bool = False, **config: object) -> Path:
        torch.manual_seed(seed)
        settings = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], **config}
        kind = transformers.AutoModelForSequenceClassification if whole else transformers.AutoModel
        with quietly():
            model = get_peft_model(kind.from_pretrained(open_source(None).folder), LoraConfig(**settings))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(0, std)
            folder = tmp_path_factory.mktemp("peft")
            model.save_pretrained(folder)
        return folder

    return make


class Collector:
    """An OpenTelemetry collector of one's own: keeps what is posted to it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.posts.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Nothing: the tests read what was posted."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def spans(self) -> list[tuple[str, Any]]:
        """(service.name, span) of everything that came, as the protocol has it."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = []
        for _, body in self.posts:
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value.string_value for each in group.resource.attributes}
                found += [(names["service.name"], span) for scope in group.scope_spans for span in scope.spans]
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the standard variable names, for programs that the test starts."""
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    made.close()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Spans of programs in this process land in this exporter of the library's, once tracing is closed."""
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    monkeypatch.setattr("monitoring.tracing.otlp_exporter", lambda: memory)
    return memory
