"""A whole distributed installation on this machine: PostgreSQL, S3, a shared cache, services behind nginx, workers.

Every part is a process with a folder of its own; services and workers share nothing but what distributed ones share.
Needs the Debian packages postgresql, nginx-light and redis-server (or valkey), and moto from the extra `dev`.
"""

import contextlib
import glob
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cli.server import free_port

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "deploy" / "nginx.conf"
BUCKET = "driftline"


def program(*names: str) -> str | None:
    """The first of these programs that is installed; distributions keep servers out of PATH."""
    places = ("/usr/local/sbin", "/usr/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True))  # noqa: PTH207
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *places])
    return next((found for name in names if (found := shutil.which(name, path=path)) is not None), None)


def missing() -> list[str]:
    """What has to be installed first."""
    wanted = {"PostgreSQL": ("initdb",), "nginx": ("nginx",), "Valkey or Redis": ("valkey-server", "redis-server")}
    return [name for name, names in wanted.items() if program(*names) is None]


class Process:
    """One program that is started, killed, frozen and started again; `starts` counts."""

    def __init__(
        self, name: str, command: list[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.folder = name, folder
        self.starts = 0
        self._command, self._environment = command, {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the program says."""
        return self.folder.parent / f"{self.name}.log"

    @property
    def alive(self) -> bool:
        """Whether it runs, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the program as it was started last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, for the first time or again."""
        self.starts += 1
        self.folder.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as kill -9 does, if it was started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Cluster:
    """Services and workers over one registry; `running` makes one.

    Attributes:
        services, workers: The processes, by their place.
        ports: Of the services; `port` is nginx's.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], services: int, workers: int) -> None:
        self.folder = folder
        self._environment = {"DRIFTLINE_PROVIDER": "cpu", "PYTHONPATH": str(ROOT), **environment}
        self.port, *self.ports = (free_port() for _ in range(services + 1))
        self.services = [self._service(number) for number in range(services)]
        self.workers = [self._worker(number) for number in range(workers)]

    def ready(self, number: int) -> bool:
        """Whether a service says that it is."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.ports[number]}/readyz", timeout=5).close()
        except OSError:
            return False
        return True

    def _service(self, number: int) -> Process:
        own = {
            "DRIFTLINE_PORT": str(self.ports[number]), "DRIFTLINE_WORKER": "false", "DRIFTLINE_THREADS": "1",
            "DRIFTLINE_PRECISION": "fp32",
            # What is looked at is right answers, not how much this machine bears.
            "DRIFTLINE_QUEUE_SECONDS": "10",
        }  # fmt: skip
        return self._program(f"service-{number}", ["-m", "cli", "serve"], own)

    def _worker(self, number: int) -> Process:
        name = f"worker-{number}"
        return self._program(name, ["-m", "training", "worker"], {"DRIFTLINE_WORKER_ID": name})

    def _program(self, name: str, command: list[str], own: Mapping[str, str]) -> Process:
        folder = self.folder / name
        environment = {**self._environment, "DRIFTLINE_DATA_DIR": str(folder), **own}
        return Process(name, [sys.executable, *command], folder, environment)


@contextlib.contextmanager
def running(folder: Path, services: int = 2, workers: int = 2, take_over_s: float = 60.0) -> Iterator[Cluster]:
    """Everything but services and workers started, which the caller starts; all of it ends with the block.

    While the block runs this process has the installation's variables too. Raises RuntimeError when a server does not
    start; its log is in the folder.
    """
    with contextlib.ExitStack() as stack:
        environment = {
            "DRIFTLINE_DATABASE_URL": stack.enter_context(_postgresql()),
            "DRIFTLINE_CACHE_URL": stack.enter_context(_cache(folder)),
            "DRIFTLINE_TAKE_OVER_SECONDS": str(take_over_s),
            **stack.enter_context(_object_store(folder)),
        }
        before = dict(os.environ)
        os.environ.update(environment)
        stack.callback(_restore, before)
        cluster = Cluster(folder, environment, services, workers)
        stack.enter_context(_nginx(folder, cluster))
        try:
            yield cluster
        finally:
            for process in (*cluster.services, *cluster.workers):
                process.kill()


def until(what: str, reached: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait. Raises TimeoutError, which names what was waited for."""
    deadline = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(0.05)


def _restore(before: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)


@contextlib.contextmanager
def _started(process: Process, answers: Callable[[], bool]) -> Iterator[None]:
    process.start()
    try:
        until(process.name, lambda: not process.alive or answers())
        if not process.alive:
            raise RuntimeError(f"{process.name} ended; its log is {process.log}")
        yield
    finally:
        process.kill()


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    """A server with a folder out of the way, since it does not run as root and wants its folder for itself."""
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="driftline-postgresql-"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    port = free_port()

    def run(name: str, *arguments: str) -> None:
        who = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        command = [str(program(name)), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60, **who)  # type: ignore[call-overload]

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    try:
        run("initdb", "-U", "driftline", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        run("pg_ctl", "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql://driftline@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(program("valkey-server", "redis-server")), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = Process("cache", [*command, "--dir", str(folder)], folder / "cache")
    with _started(process, lambda: b"ready to accept" in process.log.read_bytes().lower()):
        yield f"redis://127.0.0.1:{port}"


@contextlib.contextmanager
def _object_store(folder: Path) -> Iterator[dict[str, str]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def made() -> bool:
        try:
            urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=5).close()
        except OSError:
            return False
        return True

    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _started(Process("objects", command, folder / "objects"), made):
        yield {
            "DRIFTLINE_ARTIFACTS_URL": f"s3://{BUCKET}/test", "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        }  # fmt: skip


@contextlib.contextmanager
def _nginx(folder: Path, cluster: Cluster) -> Iterator[None]:
    """nginx with the configuration that the documentation gives, on this machine's ports."""
    own = folder / "nginx"
    own.mkdir()
    text = CONFIGURATION.read_text().replace("listen 8080;", f"listen 127.0.0.1:{cluster.port};")
    for number, port in enumerate(cluster.ports, 1):
        text = text.replace(f"service-{number}:8080", f"127.0.0.1:{port}")
    (own / "driftline.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"  {kind}_temp_path {own / kind};\n" for kind in kinds)
    # One process: a kill leaves no child of it behind.
    main = f"master_process off;\ndaemon off;\npid {own / 'pid'};\nerror_log {own / 'error.log'} warn;\n"
    (own / "nginx.conf").write_text(
        f"{main}events {{ worker_connections 512; }}\n"
        f"http {{\n  access_log off;\n{temporary}  include {own / 'driftline.conf'};\n}}\n"
    )

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{cluster.port}/healthz", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            return False
        return True

    command = [str(program("nginx")), "-p", str(own), "-e", str(own / "error.log"), "-c", str(own / "nginx.conf")]
    with _started(Process("nginx", command, own), answers):
        yield
