"""Does what `docker build` and `docker run --read-only` would do, without an engine: is the image known to start?

Each stage of the Dockerfile is built in a root folder of its own (chroot, mount namespaces) over a Debian that
debootstrap makes. The target is then started as a container is: as its user, as process 1, from a root that cannot be
written, with nothing but /data, /keys and /tmp to write to. A service is asked its health check until it is healthy and
embeds one text; a worker refits on the example's tickets. Then it is stopped with its stop signal. The report goes to
standard output as JSON.

    scripts/image-rehearsal service --work /var/tmp/rehearsal

Where pip has packages in folders or its settings in a file, `--share PATH` shows them to the build.
"""

import argparse
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from dockerfile import stages
from root import Root, build

PROJECT = Path(__file__).resolve().parents[2]
HEALTHY_SECONDS = 120
STOP_SECONDS = 40
MB = 1_000_000
_FIND_TORCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"


def main() -> int:
    """Exit status 0 when the image was built and, a service, started, answered and stopped as it should."""
    parser = argparse.ArgumentParser(prog="scripts/image-rehearsal", description=__doc__, add_help=True)
    parser.add_argument("target", nargs="?", default="service", help="target of the Dockerfile")
    parser.add_argument("--work", type=Path, required=True, help="folder for the roots; several GB")
    parser.add_argument("--base", type=Path, help="root folder of Debian [default: made by debootstrap in --work]")
    parser.add_argument("--share", action="append", default=[], type=Path, help="path of this machine RUN may read")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("roots are entered with chroot: run this as root")
    options.work.mkdir(parents=True, exist_ok=True)
    known = stages((PROJECT / "Dockerfile").read_text())
    base = options.base or _debian(known["base"].parent, options.work / "debian")
    mounts = {str(path): (path, False) for path in (Path("/etc/resolv.conf"), *options.share)}
    pass_on = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    begun = time.monotonic()
    root = build(options.target, known, base, options.work / "stages", PROJECT, mounts, {}, pass_on)
    report: dict[str, object] = {"target": options.target, "build_seconds": round(time.monotonic() - begun)}
    report |= sizes(root.folder, base)
    container = Container(root, options.work / "volumes")
    report |= container.checks()
    report |= container.serve() if root.config.health else container.work()
    print(json.dumps(report, indent=2))
    return 0 if report["exit_status"] == 0 and not report["root_writable"] else 1


def sizes(image: Path, base: Path) -> dict[str, float]:
    """Megabytes (10^6 bytes) of an image: whole, gzipped, and of its parts."""
    parts = {
        "python_environment": image / "opt/driftline",
        "backbone": image / "opt/backbone",
        "debian": base,
    }
    zipped = subprocess.run(["sh", "-c", f"tar -C '{image}' -c . | gzip -1 | wc -c"], capture_output=True, check=True)
    found = {f"{name}_mb": _size(path) for name, path in {"image": image, **parts}.items()}
    return {**found, "image_gzipped_mb": round(int(zipped.stdout) / MB, 1)}


def _size(folder: Path) -> float:
    out = subprocess.run(["du", "-sb", str(folder)], capture_output=True, check=True, text=True).stdout
    return round(int(out.split()[0]) / MB, 1)


def _debian(image: str, folder: Path) -> Path:
    """The Debian that an image such as debian:bookworm-slim holds: the same packages, before slimming."""
    if not (folder / "etc/debian_version").exists():
        suite = image.removeprefix("debian:").removesuffix("-slim")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", suite, str(folder)], check=True, stdout=sys.stderr)
        # What the slim images leave out, and the packages that were downloaded.
        for place in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(folder / place, ignore_errors=True)
    return folder


class Container:
    """An image with its volumes, run the way an engine would run it."""

    def __init__(self, root: Root, volumes: Path) -> None:
        """Make empty volumes that belong to the image's user."""
        shutil.rmtree(volumes, ignore_errors=True)
        user = tuple(int(part) for part in root.config.user.split(":"))
        for name in ("data", "keys"):
            (volumes / name).mkdir(parents=True)
            os.chown(volumes / name, *user)
        self._root = root
        self._keys = volumes / "keys"
        self._mounts = {f"/{name}": (volumes / name, True) for name in ("data", "keys")}
        self._mounts["/examples"] = (PROJECT / "examples", False)
        self._environment = {**root.config.env, "DRIFTLINE_PORT": str(_free_port())}

    def checks(self) -> dict[str, object]:
        """Whether the user can write outside what is mounted, and whether torch is there."""
        name = f"rehearsal-{secrets.token_hex(4)}"
        places = ["", "/opt/driftline", "/opt/backbone", "/var/tmp", "/usr", "/etc"]
        touched = self._status("sh", "-c", " || ".join(f"touch {place}/{name} 2>/dev/null" for place in places))
        return {"root_writable": touched == 0, "has_torch": self._status("python", "-c", _FIND_TORCH) == 0}

    def serve(self) -> dict[str, object]:
        """Prepare, start, ask and stop a service."""
        self._driftline("prepare", "--key", "rehearsal:embed=/keys/rehearsal")
        begun = time.monotonic()
        process = self._start()
        try:
            while self._status(*self._root.config.health) != 0:
                if process.poll() is not None or time.monotonic() - begun > HEALTHY_SECONDS:
                    raise SystemExit("the service did not become healthy")
                time.sleep(0.2)
            seen: dict[str, object] = {"healthy_after_seconds": round(time.monotonic() - begun, 1)}
            seen |= _embed(int(self._environment["DRIFTLINE_PORT"]), (self._keys / "rehearsal").read_text())
            return seen | self._stop(process)
        finally:
            process.kill()

    def work(self) -> dict[str, object]:
        """Prepare, start a worker, have it refit, and stop it."""
        self._driftline("prepare")
        self._driftline("dataset", "add", "tickets", "/examples/support-desk/tickets.jsonl")
        process = self._start()
        try:
            begun = time.monotonic()
            self._driftline("retrain", "support", "--dataset", "tickets", "--wait")
            return {"refit_seconds": round(time.monotonic() - begun, 1)} | self._stop(process)
        finally:
            process.kill()

    def _line(self, program: list[str]) -> list[str]:
        return self._root.command(program, mounts=self._mounts, user=self._root.config.user, read_only=True)

    def _driftline(self, *arguments: str) -> None:
        line = self._line([*self._root.config.entrypoint, *arguments])
        subprocess.run(line, env=self._environment, check=True, stdout=sys.stderr)

    def _status(self, *program: str) -> int:
        return subprocess.run(self._line(list(program)), env=self._environment, check=False).returncode

    def _start(self) -> subprocess.Popen[bytes]:
        line = self._line([*self._root.config.entrypoint, *self._root.config.command])
        return subprocess.Popen(line, env=self._environment, stdout=sys.stderr, stderr=sys.stderr)

    def _stop(self, process: subprocess.Popen[bytes]) -> dict[str, object]:
        """Signal the container's first process; who it was, what it used, how it ended."""
        inside = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        status = Path(f"/proc/{inside}/status").read_text()
        os.kill(int(inside), signal.Signals[self._root.config.signal])
        return {
            "uid": int(_field(status, "Uid").split()[0]),
            "resident_mb": round(int(_field(status, "VmRSS").split()[0]) * 1024 / MB),
            "exit_status": process.wait(STOP_SECONDS),
        }


def _embed(port: int, key: str) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": "all-MiniLM-L6-v2", "input": "My card was charged twice."})
    headers = {"Authorization": f"Bearer {key.strip()}", "Content-Type": "application/json"}
    begun = time.monotonic()
    connection.request("POST", "/v1/embeddings", body, headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    if answer.status != 200:
        raise SystemExit(f"embedding was answered {answer.status}: {document}")
    vector = document["data"][0]["embedding"]
    return {"embedded_dimension": len(vector), "embed_milliseconds": round(1000 * (time.monotonic() - begun), 1)}


def _field(status: str, name: str) -> str:
    return next(line.partition(":")[2] for line in status.splitlines() if line.startswith(f"{name}:"))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
