"""`driftline prepare`, `backbone export` and `key generate`: what an image does before its first start."""

import json
import shutil
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.backbone_folder import MANIFEST, read_backbone, write_backbone
from cli.main import app
from encoder.errors import ArtifactRefused
from registry import backbones, keys
from registry.home import Home
from registry.keys import Key, Scope


def driftline(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data-dir", str(home.data_dir)])


def known_keys(home: Home) -> list[Key]:
    registry = home.registry()
    with registry.reading() as session:
        found = keys.all(session)
    registry.close()
    return found


@pytest.fixture(scope="module")
def folder(exported_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default backbone, exported as a folder."""
    place = tmp_path_factory.mktemp("exported") / "backbone"
    home = tmp_path_factory.mktemp("home") / "home"
    shutil.copytree(exported_backbone, home)
    done = driftline(Home.at(home), "backbone", "export", str(place))
    assert done.exit_code == 0, done.output
    return place


def test_a_new_home_gets_backbone_and_keys_and_a_second_run_changes_nothing(folder: Path, tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    secret = tmp_path / "alerts"
    command = ("prepare", "--backbone", str(folder), "--key", f"alerts:train+read={secret}")
    first = driftline(home, *command)
    assert first.exit_code == 0, first.output
    made = secret.read_text()
    assert made not in first.output
    assert stat.S_IMODE(secret.stat().st_mode) & 0o027 == 0
    (key,) = known_keys(home)
    assert (key.name, key.scopes) == ("alerts", {Scope.TRAIN, Scope.READ})
    registry = home.registry()
    with registry.reading() as session:
        (backbone,) = backbones.all(session)
        assert keys.verifier(session).check(made) == key
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for entry in manifest["files"].values():
        assert len(registry.fetch(entry["sha256"])) == entry["size"]
    registry.close()
    assert backbone.name == manifest["name"]
    assert driftline(home, *command).exit_code == 0
    assert (known_keys(home), secret.read_text()) == ([key], made)


def test_a_revoked_key_stays_revoked(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    command = ("prepare", "--key", f"old:embed={tmp_path / 'old'}")
    assert driftline(home, *command).exit_code == 0
    (key,) = known_keys(home)
    assert driftline(home, "key", "revoke", key.id).exit_code == 0
    assert driftline(home, *command).exit_code == 0
    (after,) = known_keys(home)
    assert after.revoked_at is not None


def test_a_generated_secret_is_nobodys_until_it_is_registered(tmp_path: Path) -> None:
    secret = CliRunner().invoke(app, ["key", "generate"]).output.strip()
    home = Home.at(tmp_path / "home")
    assert driftline(home, "prepare").exit_code == 0
    assert known_keys(home) == []
    file = tmp_path / "key"
    file.write_text(f"{secret}\n")
    assert driftline(home, "prepare", "--key", f"admin:admin={file}").exit_code == 0
    (key,) = known_keys(home)
    assert key.last4 == secret[-4:]


def test_a_secret_with_the_id_of_another_key_is_refused(tmp_path: Path) -> None:
    registry = Home.at(tmp_path / "home").registry()
    with registry.writing() as session:
        _, first = keys.issue(session, "first", [Scope.EMBED])
    other = keys.new_secret()
    body = other.split("_")[2][:37]
    forged = f"dl_{first.split('_')[1]}_{body}{keys._check_characters(first.split('_')[1], body)}"
    with pytest.raises(ValueError, match="belongs to another key"), registry.writing() as session:
        keys.issue(session, "second", [Scope.ADMIN], secret=forged)
    registry.close()


@pytest.mark.parametrize(
    ("given", "content", "says"),
    [
        ("alerts:train", None, "NAME:SCOPES=FILE"),
        ("alerts:root={}", None, "scopes of"),
        (":train={}", None, "NAME:SCOPES=FILE"),
        ("alerts:train={}", "hunter2", "does not hold a key"),
        ("alerts:train={}", "", "does not hold a key"),
        ("alerts:train={}", "é", "not plain text"),
    ],
)
def test_what_is_no_key_is_refused_and_none_is_registered(
    tmp_path: Path, given: str, content: str | None, says: str
) -> None:
    home = Home.at(tmp_path / "home")
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    done = driftline(home, "prepare", "--key", given.format(file))
    assert done.exit_code != 0
    assert says in done.output
    assert "hunter2" not in done.output
    assert known_keys(home) == []


def test_an_exported_folder_is_imported_without_torch_under_the_same_digest(folder: Path, tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    done = driftline(home, "backbone", "import", str(folder), "--json")
    assert done.exit_code == 0, done.output
    again = tmp_path / "again"
    assert driftline(home, "backbone", "export", str(again)).exit_code == 0
    assert {file.name: file.read_bytes() for file in again.iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }
    assert driftline(home, "backbone", "export", str(again)).exit_code == 1  # nothing is overwritten
    assert driftline(home, "backbone", "import", str(folder), "--name", "other").exit_code == 2


@pytest.mark.parametrize("harm", ["changed", "missing", "no manifest"])
def test_a_folder_that_is_not_whole_leaves_no_backbone(folder: Path, tmp_path: Path, harm: str) -> None:
    broken = tmp_path / "backbone"
    shutil.copytree(folder, broken)
    match harm:
        case "changed":
            (broken / "tokenizer.json").write_bytes(b"{}")
        case "missing":
            (broken / "tokenizer.json").unlink()
        case _:
            (broken / MANIFEST).unlink()
    home = Home.at(tmp_path / "home")
    done = driftline(home, "prepare", "--backbone", str(broken))
    assert done.exit_code == 1
    assert "tokenizer.json" in done.output or MANIFEST in done.output
    assert json.loads(driftline(home, "backbone", "list", "--json").output) == []


def test_a_manifest_cannot_name_a_file_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"]["../outside"] = manifest["files"].pop("retrieval.json")
    (tmp_path / "backbone" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactRefused):
        read_backbone(tmp_path / "backbone", lambda data: "")


def test_export_writes_the_manifest_last(exported_backbone: Path, tmp_path: Path) -> None:
    registry = Home.at(shutil.copytree(exported_backbone, tmp_path / "home")).registry()
    with registry.reading() as session:
        (backbone,) = backbones.all(session)
    missing = json.loads(registry.fetch(backbone.digest))["files"]["tokenizer.json"]["sha256"]

    def fetch(digest: str) -> bytes:
        if digest == missing:
            raise OSError("gone")
        return registry.fetch(digest)

    with pytest.raises(OSError, match="gone"):
        write_backbone(tmp_path / "out", backbone.digest, fetch)
    assert not (tmp_path / "out" / MANIFEST).exists()
    registry.close()
