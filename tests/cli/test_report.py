"""`driftline report`: writes a version's stored documents, and says why where it cannot."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from registry import backbones, versions
from registry.home import Home

PAGE = b'<!doctype html><meta name="generator" content="driftline.report/1"><p>caf\xc3\xa9</p>'
CARD = b'{"schema":"driftline.model_card/1"}'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with `support@1`, which has both documents and is live, and `support@2`, which has none."""
    home = Home.at(tmp_path / "home")
    registry = home.registry()
    page, card = registry.store(PAGE), registry.store(CARD)
    with registry.writing() as session:
        manifest = {"name": "tiny", "dimension": 4, "max_tokens": 8, "source": "test"}
        backbones.add(session, manifest, "a" * 64)
        versions.ensure_adapter(session, "support", "a" * 64)
        for job, metrics in (("job_1", {"report": page, "card": card}), ("job_2", {})):
            versions.publish(
                session, adapter="support", digest="b" * 64, kind="head", backbone="a" * 64, reference=None,
                parent=None, job_id=job, dataset="support@1", metrics=metrics, verdict=None, rejected=False,
            )  # fmt: skip
        versions.promote(session, "support", 1, by="test")
    registry.close()
    return home


def driftline(home: Home, *arguments: str) -> tuple[int, bytes, str]:
    """Exit status, standard output and standard error."""
    result = CliRunner().invoke(app, ["report", *arguments, "--data-dir", str(home.data_dir)])
    return result.exit_code, result.stdout_bytes, result.stderr


def test_the_page_and_the_card_are_written(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = driftline(home, "support")
    assert status == 0
    assert b"support@1.html" in out
    assert (tmp_path / "support@1.html").read_bytes() == PAGE
    status, out, _ = driftline(home, "support@1", "--card", "--out", "card.json", "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["version"], told["document"], told["bytes"], told["out"]) == (
        "support@1", "card", len(CARD), "card.json",
    )  # fmt: skip
    assert (tmp_path / "card.json").read_bytes() == CARD


def test_a_file_that_exists_stays_unless_told(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "mine.html"
    file.write_text("mine")
    status, _, error = driftline(home, "support", "--out", str(file))
    assert status == 1
    assert "--overwrite replaces it" in error
    assert file.read_text() == "mine"
    assert driftline(home, "support", "--out", str(file), "--overwrite")[0] == 0
    assert file.read_bytes() == PAGE


def test_standard_output_gets_the_bytes_alone(home: Home) -> None:
    assert driftline(home, "support", "--out", "-") == (0, PAGE, "")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("support@2", "there is no report of support@2"),
        ("support@7", "there is no version support@7"),
        ("other", "there is no adapter other"),
        ("No Name", "a model is a name"),
    ],
)
def test_what_is_not_there_is_named(home: Home, tmp_path: Path, asked: str, words: str) -> None:
    status, _, error = driftline(home, asked, "--out", str(tmp_path / "out.html"))
    assert status == 1
    assert words in " ".join(error.split())
    assert not (tmp_path / "out.html").exists()


def test_a_folder_that_is_not_there(home: Home, tmp_path: Path) -> None:
    status, _, error = driftline(home, "support", "--out", str(tmp_path / "no" / "out.html"))
    assert status == 1
    assert "cannot be written" in error
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
