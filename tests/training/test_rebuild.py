"""A reference rebuilt explicitly: from which rows, bound to its version, entered as an event, when it is refused."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.encoder import Encoder
from monitoring.reference import Reference
from registry import backbones, datasets, jobs, readings, references, versions
from registry.errors import Conflict
from registry.home import Home
from registry.registry import Registry
from registry.tables import EventRecord
from registry.versions import Version
from training import retrain
from training.errors import DataRefused
from training.files import WorkFolder
from training.rebuild import rebuild
from training.served import encode_with
from training.steps import JobContext, Runtime

ROOT = Path(__file__).resolve().parents[2]
TICKETS = (ROOT / "examples" / "support-desk" / "tickets.jsonl").read_bytes().splitlines(keepends=True)
ROWS = 320
QUICK: dict[str, Any] = {"steps": 20, "hidden": 32, "lora_budget_s": 0}
OFF_TOPIC = [
    f"{what} {where} {when}"
    for what in ("how tall is the tower", "who painted the ceiling", "which river runs", "when did the war end")
    for where in ("in Paris", "in Rome", "in the old town", "near the border", "by the sea", "up north")
    for when in ("today", "in the year 1900", "according to the guide", "as far as anyone knows", "in summer", "at all")
]


class Keeper:
    """Nobody stops these fits."""

    def keep(self, process: Any) -> None:
        """Nothing to note."""


@dataclass
class Desk:
    """A home with one version, made by a whole retrain."""

    registry: Registry
    encoder: Encoder
    version: Version

    def add(self, name: str, rows: list[dict[str, str]]) -> None:
        data = b"\n".join(json.dumps(row).encode() for row in rows)
        with self.registry.writing() as session:
            datasets.add(session, self.registry.artifacts, name, data, "jsonl")

    def stored(self) -> Version:
        with self.registry.reading() as session:
            return versions.get(session, self.version.adapter, self.version.number)

    def reference(self) -> Reference:
        digest = self.stored().reference
        assert digest is not None
        return Reference.from_bytes(self.registry.fetch(digest))


@pytest.fixture(scope="module")
def fitted(exported_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder]:
    """A home after one whole retrain, to be copied, and its backbone."""
    folder = tmp_path_factory.mktemp("fitted") / "home"
    shutil.copytree(exported_backbone, folder)
    home = Home.at(folder)
    registry = home.registry()
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "desk", b"".join(TICKETS[:ROWS]), "jsonl")
        job = jobs.enqueue(session, adapter="desk", dataset="desk", recipe=QUICK, requested_by="test")
        job = jobs.start(session, job.id)
        digest = backbones.default(session).digest
    context = JobContext(registry, job, WorkFolder(home.work_dir / job.id), Runtime("cpu", "fp32", 2), Keeper())
    for name in [step for step in retrain.WORK if step != "report"]:
        assert retrain.run_step(context, name) == {"state": "done"}
    encoder = Encoder.open(digest, registry.fetch, provider="cpu", precision="fp32", threads=2, streams=1)
    registry.close()
    return folder, encoder


@pytest.fixture
def desk(fitted: tuple[Path, Encoder], tmp_path: Path) -> Iterator[Desk]:
    shutil.copytree(fitted[0], tmp_path / "home")
    registry = Home.at(tmp_path / "home").registry()
    with registry.reading() as session:
        version = versions.get(session, "desk", 1)
    yield Desk(registry, fitted[1], version)
    registry.close()


def test_without_newer_rows_it_is_the_one_the_retrain_built(desk: Desk) -> None:
    """Bit for bit, so that there is nothing to replace; another one bound to the version is replaced by it."""
    built = desk.version.reference
    assert built is not None
    with pytest.raises(Conflict, match="exactly this reference already"):
        rebuild(desk.registry, desk.version, desk.encoder, by="test")
    other = desk.registry.store(b"another one")
    with desk.registry.writing() as session:
        references.replace(session, "desk", 1, other, expected=built, by="test")
        readings.put_state(session, "desk", 1, state={"some": "evidence"}, alarm_active=True)
    found = rebuild(desk.registry, desk.stored(), desk.encoder, by="ann")
    assert found.entered.after == built == desk.stored().reference
    assert (found.entered.before, found.entered.number, found.entered.by) == (other, 3, "ann")
    # The version is the same; only what its traffic is held against changed, and its monitor begins afresh.
    assert desk.stored().digest == desk.version.digest
    with desk.registry.reading() as session:
        assert readings.get_state(session, "desk", 1) is None
        line = references.history(session, "desk", 1)
        kinds = [event.kind for event in session.query(EventRecord).order_by(EventRecord.id)][-3:]
    assert [(one.before, one.after, one.number) for one in line] == [(built, other, 2), (other, built, 3)]
    assert kinds == ["reference.rebuilt", "drift.alarm_began", "reference.rebuilt"]
    assert line[1].detail["dataset"]["name"] == "desk"
    assert desk.registry.fetch(other) == b"another one", "references are never deleted"


def test_newer_rows_calibrate_and_some_of_them_join_the_index(desk: Desk) -> None:
    old = desk.reference()
    desk.add("newer", [{"text": text} for text in OFF_TOPIC])
    vectors = encode_with(desk.encoder, desk.registry.fetch, desk.version.kind, desk.version.digest)(OFF_TOPIC)
    assert np.median(old.novelty(vectors)) < 0.1
    told: list[str] = []
    found = rebuild(desk.registry, desk.version, desk.encoder, newer=("newer", None), by="test", tell=told.append)
    new = desk.reference()
    assert new.digest == found.entered.after
    # The fitted rows are still the index; two fifths of the newer rows, marked as such, stand beside them.
    joined = [name for name in new.fit_ids if name.startswith("newer@1.")]
    assert set(new.fit_ids) - set(joined) == set(old.fit_ids)
    assert 0.25 * len(OFF_TOPIC) < len(joined) < 0.55 * len(OFF_TOPIC)
    assert new.fit_labels is not None
    assert set(new.fit_labels) - {"(no label)"} == set(old.fit_labels or ())
    assert new.n_cal >= 50
    assert new.n_cal + len(new.replay) + len(joined) <= len(OFF_TOPIC)
    assert np.median(new.novelty(vectors)) > 0.3, "what the newer rows are like is usual now"
    assert found.to_json()["newer"]["name"] == "newer"
    assert new.version_info["dataset"] == old.version_info["dataset"]
    assert told[-1] == "building the reference"


def test_rows_it_was_fitted_on_never_calibrate(desk: Desk) -> None:
    desk.add("again", [json.loads(line) for line in TICKETS[:ROWS]])
    found = rebuild(desk.registry, desk.version, desk.encoder, newer=("again", 1), by="test").reference
    fitted = {name for name in found.fit_ids if not name.startswith("again@1.")}
    # Of the same rows those that were fitted on, and whatever resembles them, are left aside.
    assert found.n_cal + len(found.replay) <= ROWS - len(fitted)
    small = desk.reference()
    desk.add("fitted", [json.loads(TICKETS[int(name) - 1]) for name in sorted(fitted, key=int)])
    with pytest.raises(DataRefused, match="holds 0 rows to calibrate on"):
        rebuild(desk.registry, desk.stored(), desk.encoder, newer=("fitted", None), by="test")
    assert desk.reference().digest == small.digest


def test_what_cannot_be_known_is_refused(desk: Desk) -> None:
    """An import names neither its dataset nor the rows it has seen."""
    manifest = json.loads(desk.registry.fetch(desk.version.digest)) | {"dataset": {}}
    digest = desk.registry.store(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
    with desk.registry.writing() as session:
        silent = versions.publish(
            session, adapter="desk", digest=digest, kind=desk.version.kind, backbone=desk.version.backbone,
            reference=None, parent=None, job_id=None, dataset="elsewhere@1", metrics={}, verdict=None, rejected=False,
        )  # fmt: skip
    with pytest.raises(DataRefused, match="--newer"):
        rebuild(desk.registry, silent, desk.encoder, by="test")
    desk.add("newer", [{"text": text} for text in OFF_TOPIC])
    with pytest.raises(DataRefused, match="--unseen"):
        rebuild(desk.registry, silent, desk.encoder, newer=("newer", None), by="test")
    found = rebuild(desk.registry, silent, desk.encoder, newer=("newer", None), unseen=True, by="test")
    assert found.entered.number == 1
    assert found.reference.calibrated
    stale = desk.version
    with desk.registry.writing() as session:
        references.replace(session, "desk", 1, "ab" * 32, expected=stale.reference, by="test")
    with pytest.raises(Conflict, match="meanwhile"):
        rebuild(desk.registry, stale, desk.encoder, newer=("newer", None), by="test")
