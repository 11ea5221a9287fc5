"""schemathesis over the whole OpenAPI document, with a key of each scope, against a real service process.

No 5xx, every status and content type documented, answers of the documented shape, invalid data refused, valid data
taken (but for what a document cannot say: schema_hooks.py), 405 with Allow, 401 without a key.
DRIFTLINE_EXAMPLES=1000 makes it a long run.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import keys
from registry.keys import Scope

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("DRIFTLINE_EXAMPLES", "6"))
# Its cases show no key or a wrong one thousands of times from one address, which would be told to wait.
OPEN_DOORS = "import service.doors; service.doors.FAILURES = 10**9"
ROWS = "text,label\n" + "".join(f"message number {i} of {'ab'[i % 2]},{'ab'[i % 2]}\n" for i in range(40))


@pytest.fixture
def target(publish, backbone_home, spawn):
    """A service with the adapter `support`, a dataset, an ended job; and a key of each scope."""
    publish("support", 1)
    publish("support", 2)
    with publish.registry.writing() as session:
        secrets = {scope.value: keys.issue(session, scope.value, [scope])[1] for scope in Scope}
        spare, _ = keys.issue(session, "spare", [Scope.EMBED])
    process = spawn(backbone_home, before=OPEN_DOORS, log_level="info")
    return process, secrets, spare.id


def call(url: str, secret: str, *arguments: str) -> dict:
    command = ["curl", "-sS", "-H", f"Authorization: Bearer {secret}", *arguments[1:], url + arguments[0]]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def examine(url: str, secret: str, tmp_path: Path, phases: str, examples: int, known: dict[str, object]) -> str:
    """Run schemathesis; what it printed, "" if it found nothing. `known`: values of path parameters that exist."""
    config = tmp_path / "schemathesis.toml"
    lines = [f'"path.{name}" = {json.dumps(value)}' for name, value in known.items()]
    config.write_text((HERE / "schemathesis.toml").read_text() + "\n[parameters]\n" + "\n".join(lines) + "\n")
    st = Path(sys.executable).with_name("st")
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "schema_hooks.py")}
    command = [st, "--no-color", "--config-file", config, "run", f"{url}/openapi.json", "--phases", phases]
    command += ["-n", str(examples), "--continue-on-failure", "-H", f"Authorization: Bearer {secret}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "Test cases:" in done.stdout, done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout


def test_the_service_does_what_its_document_says(target: tuple, tmp_path: Path) -> None:
    process, secrets, spare = target
    url = process.url
    call(url, secrets["train"], "/admin/datasets/support", "-H", "Content-Type: text/csv", "--data-binary", ROWS)
    body = json.dumps({"adapter": "support", "dataset": "support"})
    job = call(url, secrets["train"], "/admin/retrain", "-H", "Content-Type: application/json", "-d", body)["job_id"]
    call(url, secrets["train"], f"/admin/jobs/{job}/cancel", "-X", "POST")  # else its events would be waited for
    known = {"name": "support", "adapter": "support", "number": 2, "model": "support", "key_id": spare, "job_id": job}
    runs: list[tuple[str, Callable[[], str]]] = [
        ("admin", lambda: examine(url, secrets["admin"], tmp_path, "examples,fuzzing", EXAMPLES, {})),
        ("admin, known names", lambda: examine(url, secrets["admin"], tmp_path, "coverage,fuzzing", EXAMPLES, known)),
    ]
    runs += [
        (scope, lambda scope=scope: examine(url, secrets[scope], tmp_path, "fuzzing", EXAMPLES // 2, known))
        for scope in ("embed", "read", "train")
    ]
    found = {name: said for name, run in runs if (said := run())}
    assert not found, "\n".join(f"{name}:\n{said}" for name, said in found.items())

    counted = process.get("/metrics").content.decode()
    assert 'status="200"' in counted
    failed = [line for line in counted.splitlines() if "requests_total" in line and 'status="5' in line]
    assert not [line for line in failed if "/readyz" not in line]  # that one was asked before the model was loaded
    assert process.stop() == 0
    log = process.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log
