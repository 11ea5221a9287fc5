"""The Dockerfile: hadolint's opinion, what the images promise, and the reader that the rehearsal follows it with."""

import importlib.util
import json
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from tests.helm.conftest import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader() -> Iterator[ModuleType]:
    """scripts/rehearsal/dockerfile.py."""
    spec = importlib.util.spec_from_file_location("dockerfile", ROOT / "scripts" / "rehearsal" / "dockerfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dockerfile"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["dockerfile"]


def test_hadolint_finds_nothing() -> None:
    program = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [program, "--format", "json", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("target", ["service", "service-gpu", "training"])
def test_an_image_runs_unprivileged_in_exec_form(reader: ModuleType, target: str) -> None:
    stage = reader.stages(TEXT)[target]
    assert stage.parent == "base"
    config = reader.Config()
    for step in stage.steps:
        assert config.take(*step) or step[0] == "COPY"
    assert config.user == "10001:10001"
    assert config.entrypoint == ["driftline"]
    assert config.signal == "SIGTERM"
    assert config.command == (["worker"] if target == "training" else ["serve"])
    if target != "training":
        assert config.health == ["python", "-m", "cli.ready"]
        assert config.env["DRIFTLINE_WORKER"] == "false"
        assert config.env["DRIFTLINE_HOST"] == "0.0.0.0"


@pytest.mark.parametrize(
    ("stage", "has", "lacks"),
    [
        ("service-build", {"cpu", "postgres", "redis", "s3"}, {"gpu", "train"}),
        ("service-gpu-build", {"gpu", "postgres", "redis", "s3"}, {"cpu", "train"}),
        ("training-build", {"cpu", "train", "postgres", "s3"}, {"gpu"}),
    ],
)
def test_an_image_holds_its_extras_pinned(reader: ModuleType, stage: str, has: set[str], lacks: set[str]) -> None:
    runs = [argument for instruction, argument in reader.stages(TEXT)[stage].steps if instruction == "RUN"]
    installs = [part for run in runs for part in run.split("&&") if "pip install" in part]
    assert installs
    assert all("--constraint constraints.txt" in part for part in installs)
    extras = {extra for part in installs if ".[" in part for extra in part.split(".[")[1].split("]")[0].split(",")}
    assert has <= extras
    assert not lacks & extras
    # torch alone and before the rest, and nowhere but where one trains.
    assert [part.split()[-1] for part in installs if part.split()[-1] == "torch"] == (
        ["torch"] if "train" in extras else []
    )
    assert ("train" not in extras) or installs[0].split()[-1] == "torch"


def test_the_serving_images_copy_the_backbone_and_no_stage_with_torch(reader: ModuleType) -> None:
    for target in ("service", "service-gpu"):
        copies = [argument for instruction, argument in reader.stages(TEXT)[target].steps if instruction == "COPY"]
        assert copies == [
            f"--from={target}-build /opt/driftline /opt/driftline",
            "--from=backbone /opt/backbone /opt/backbone",
        ]


def test_a_build_sees_the_packages_and_nothing_else(reader: ModuleType) -> None:
    files = set(reader.context_files(ROOT))
    assert {
        Path("pyproject.toml"),
        Path("constraints.txt"),
        Path("cli/main.py"),
        Path("registry/migrations/env.py"),
    } <= files
    assert {file.parts[0] for file in files} == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
        *("cli", "service", "training", "monitoring", "encoder", "registry"),
    }
    assert not [file for file in files if file.suffix == ".pyc"]


def test_the_reader_joins_lines_and_fills_in_arguments_and_variables(reader: ModuleType) -> None:
    text = (
        "ARG BASE=debian:x\n# a comment\nFROM ${BASE} AS one\nENV A=1 B=$A/b\nRUN --mount=type=cache,target=/c \\\n"
        '    first \\\n    && second\nFROM one AS two\nCMD ["run"]\n'
    )
    found = reader.stages(text)
    assert (found["one"].parent, found["two"].parent) == ("debian:x", "one")
    assert found["one"].steps[1] == ("RUN", "--mount=type=cache,target=/c first && second")
    assert reader.caches(found["one"].steps[1][1]) == (["/c"], "first && second")
    config = reader.Config()
    config.take("ENV", "A=1")
    config.take("ENV", "B=$A/b")
    assert config.env == {"A": "1", "B": "1/b"}
    with pytest.raises(ValueError, match="needs a name"):
        reader.stages("FROM debian\n")


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_the_health_check_believes_readyz_alone() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    check = [sys.executable, "-m", "cli.ready"]
    port = str(server.server_port)
    try:
        done = subprocess.run(check, env={"DRIFTLINE_PORT": port}, cwd=ROOT, timeout=30, check=False)
        assert done.returncode == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    gone = subprocess.run(check, env={"DRIFTLINE_PORT": port}, cwd=ROOT, timeout=30, check=False)
    assert gone.returncode == 1


def test_the_health_check_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import cli.ready; print(sorted(m for m in set(sys.modules) - before))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    loaded = {name.partition(".")[0].strip("'[] \n") for name in out.split(",")}
    assert loaded <= sys.stdlib_module_names | {"cli"}
