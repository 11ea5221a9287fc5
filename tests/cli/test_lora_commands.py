"""`driftline adapter import`, `promote` and `export` as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

from registry.home import Home


def driftline(home: Home, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *map(str, arguments), "--data-dir", str(home.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def weights_of(home: Home, digest: str) -> Path:
    """Where the weights of a version lie."""
    registry = home.registry()
    weights = json.loads(registry.fetch(digest))["files"]["lora.safetensors"]["sha256"]
    registry.close()
    return registry.artifacts.path(weights)


def test_an_adapter_comes_in_goes_live_and_out_as_one_file(backbone_home, peft_folder, tmp_path):
    folder = peft_folder(seed=5, r=4, layers_to_transform=[5])
    done = driftline(backbone_home, "adapter", "import", "tone", folder, "--json")
    assert done.returncode == 0, done.stderr
    version = json.loads(done.stdout)
    assert (version["name"], version["kind"], version["state"], version["rank"]) == ("tone@1", "lora", "candidate", 4)
    assert version["metrics"]["parity"]["texts"] == 304

    early = driftline(backbone_home, "adapter", "export", "tone", "--out", tmp_path / "tone.onnx")
    assert early.returncode == 2
    assert "no live version" in early.stderr
    damaged = weights_of(backbone_home, version["digest"])
    sound = damaged.read_bytes()
    damaged.chmod(0o600)
    damaged.write_bytes(sound[:-1] + b"\xff")
    refused = driftline(backbone_home, "adapter", "promote", "tone@1")
    assert refused.returncode == 1
    assert "cannot be served, so nothing was moved" in refused.stderr
    assert json.loads(driftline(backbone_home, "adapter", "list", "--json").stdout)[0]["live"] is None
    damaged.write_bytes(sound)
    promoted = driftline(backbone_home, "adapter", "promote", "tone@1")
    assert promoted.returncode == 0, promoted.stderr
    assert "tone@1 is live" in promoted.stdout

    file, tokens = tmp_path / "tone.onnx", tmp_path / "tokenizer.json"
    written = driftline(backbone_home, "adapter", "export", "tone", "--out", file, "--tokenizer", tokens)
    assert written.returncode == 0, written.stderr
    assert "Wrote tone@1" in written.stdout
    encoding = tokenizers.Tokenizer.from_file(str(tokens)).encode("where is my card")
    feed = {"input_ids": np.array([encoding.ids]), "attention_mask": np.array([encoding.attention_mask])}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, feed)
    assert vectors.shape == (1, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors), 1.0, atol=1e-5)

    file.write_bytes(b"precious")
    kept = driftline(backbone_home, "adapter", "export", "tone@1", "--out", file)
    assert kept.returncode == 1
    assert "--force" in kept.stderr
    assert file.read_bytes() == b"precious"
    assert driftline(backbone_home, "adapter", "export", "tone@1", "--out", file, "--force").returncode == 0
    assert file.stat().st_size > 80_000_000
    assert sorted(path.name for path in tmp_path.glob("*tone*")) == ["tone.onnx"]


def test_what_cannot_come_in_leaves_nothing_behind(backbone_home, tmp_path):
    for arguments, named in [
        (("tone", tmp_path), "adapter_config.json is missing"),
        (("Not A Name", tmp_path), "a name has"),
        (("tone", tmp_path, "--backbone", "nobody"), "no such backbone"),
    ]:
        refused = driftline(backbone_home, "adapter", "import", *arguments)
        assert refused.returncode == 1
        assert named in refused.stderr
    assert json.loads(driftline(backbone_home, "adapter", "list", "--json").stdout) == []
