"""Datasets: immutable revisions, content-addressed rows, and a report that tells the truth."""

from typing import Any

import orjson
import pytest
from sqlalchemy import select

from registry import backbones, datasets, events, jobs, requests, versions
from registry.errors import Conflict, DatasetRefused, InvalidName, NotFound
from registry.registry import Registry
from registry.row import Row, RowKind
from registry.tables import EventRecord

FIRST = b"text,label\nhello there,a\ngood bye,b\n"


def _add(registry: Registry, data: bytes, name: str = "support", format: str = "csv") -> datasets.DatasetRevision:
    with registry.writing() as session:
        return datasets.add(session, registry.artifacts, name, data, format)


def test_content_decides_what_a_revision_is(registry: Registry) -> None:
    first = _add(registry, FIRST)
    second = _add(registry, FIRST + "où est-ce ?,c\n".encode())
    same = _add(registry, b'{"label":"a","text":"hello there"}\n{"text":"good bye","label":"b"}', format="jsonl")
    elsewhere = _add(registry, FIRST, name="copy")
    assert (first.revision, second.revision) == (1, 2)
    assert same == first
    assert (elsewhere.name, elsewhere.revision, elsewhere.digest) == ("copy", 1, first.digest)
    assert (second.kind, second.rows, second.labels) == (RowKind.LABELLED, 3, 3)
    with registry.reading() as session:
        assert datasets.get(session, "support") == second
        assert datasets.get(session, "support", 1) == first
        assert datasets.all(session) == [elsewhere, second, first]
        for name, revision in (("support", 3), ("support", 0), ("nothing", None), ("\x00", None), ("support", 2**80)):
            with pytest.raises(NotFound):
                datasets.get(session, name, revision)
        assert session.scalars(select(EventRecord.kind)).all().count("dataset.added") == 3
    assert datasets.load_rows(registry.artifacts, second)[2] == Row("où est-ce ?", "c")
    assert orjson.loads(registry.fetch(first.digest).splitlines()[0]) == {"label": "a", "text": "hello there"}


def test_a_refused_upload_leaves_nothing(registry: Registry) -> None:
    with pytest.raises(DatasetRefused):
        _add(registry, FIRST + b",c\n")
    with pytest.raises(InvalidName):
        _add(registry, FIRST, name="../support")
    with registry.reading() as session:
        assert datasets.all(session) == []
        assert events.latest_id(session) == 0
    assert [path for path in registry.artifacts.folder.rglob("*") if path.is_file()] == []


def test_the_report_names_what_the_owner_should_know(registry: Registry) -> None:
    long = "I would like to know where my new card is, it was due last week"
    texts = [
        ("hello there", "greeting"),
        ("hello there", "greeting"),  # repeats row 1
        ("Hello, there!", "farewell"),  # the same for a reader, another label
        (long, "card"),
        (long + " or so", "card"),  # near-duplicate of row 4
        ("unique words stand here", "single"),
    ]
    report = _add(registry, ("text,label\n" + "".join(f'"{t}",{label}\n' for t, label in texts)).encode()).report
    assert report["labels"] == {"greeting": 2, "card": 2, "farewell": 1, "single": 1}
    assert report["duplicates"] == {"groups": 1, "extra_rows": 1, "examples": [[1, 2]]}
    assert report["duplicates_ignoring_case_and_punctuation"]["examples"] == [[1, 2, 3]]
    assert report["conflicts"] == {"count": 1, "examples": [{"rows": [1, 2, 3], "labels": ["farewell", "greeting"]}]}
    assert report["near_duplicates"] == {"groups": 2, "rows": 5, "largest": 3, "examples": [[1, 2, 3], [4, 5]]}
    assert report["characters"]["max"] == len(long) + 6
    assert report["splits"]["near_duplicates_between"] == {"count": 0, "pairs": []}
    said = " ".join(report["warnings"])
    for words in ("repeat another row", "more than one label", "single row", "near-duplicates of another"):
        assert words in said
    assert "hello" not in said


def test_near_duplicates_that_had_to_be_parted_are_reported(registry: Registry) -> None:
    words = [f"word{number:03d}" for number in range(120)]
    chain = [f"{' '.join(words[at : at + 20])},{'ab'[at % 2]}" for at in range(100)]
    report = _add(registry, ("text,label\n" + "\n".join(chain)).encode()).report
    between = report["splits"]["near_duplicates_between"]
    assert between["count"] > 0
    assert all(first < second for first, second in between["pairs"])
    assert any("different splits" in warning for warning in report["warnings"])


def test_racing_uploads_of_the_same_rows_are_one_revision(registry: Registry, racers: Any) -> None:
    said = racers.run(
        4,
        """
registry = home.registry()
ready()
with registry.writing() as session:
    added = datasets.add(session, registry.artifacts, "support", b"text,label\\nhello,a\\nbye,b\\n", "csv")
say(added.revision)
""",
    )
    assert said == ["1"] * 4
    with registry.reading() as session:
        assert len(datasets.all(session)) == 1


def test_a_retrain_request_needs_something_to_fit_on(stocked: Registry) -> None:
    _add(stocked, b"text\njust a line\n", name="plain")
    with stocked.writing() as session:
        with pytest.raises(Conflict, match="neither labels nor pairs"):
            requests.request_retrain(session, adapter="fresh", dataset="plain", recipe={}, by="test")
        job = requests.request_retrain(session, adapter="fresh", dataset="support", recipe={"seed": 1}, by="test")
        with pytest.raises(NotFound):  # the job makes the adapter, so that a bad request leaves none behind
            versions.get_adapter(session, "fresh")
        name = backbones.all(session)[0].name.lower()
        with pytest.raises(Conflict, match="belongs to a backbone"):
            requests.request_retrain(session, adapter=name, dataset="support", recipe={}, by="test")
        assert jobs.get(session, job.id).recipe == {"seed": 1}
