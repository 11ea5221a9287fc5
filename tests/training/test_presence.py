"""A worker's entry among others: who beats, who is silent, and that a name has one worker."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry import claims, datasets, jobs
from registry.home import Home
from registry.registry import Registry
from training.presence import Presence

AFTER_S = 3.0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Home.at(tmp_path / "home", f"sqlite:///{tmp_path}/home/registry.sqlite").registry()
    yield opened
    opened.close()


@pytest.fixture
def enter(registry: Registry) -> Iterator[Callable[..., tuple[Presence, threading.Event]]]:
    """Presences that have entered, each with what is set when it is refused; all leave with the test."""
    entered = []

    def make(name: str) -> tuple[Presence, threading.Event]:
        refused = threading.Event()
        presence = Presence(registry, name, AFTER_S, refused.set)
        presence.enter()
        entered.append(presence)
        return presence, refused

    yield make
    for presence in entered:
        presence.leave(None)


def test_a_name_has_one_worker_and_the_first_learns_of_the_second(
    registry: Registry, enter: Callable[..., tuple[Presence, threading.Event]]
) -> None:
    _, first_refused = enter("blue")
    second, second_refused = enter("blue")
    assert first_refused.wait(20)
    assert not second_refused.is_set()
    with registry.reading() as session:
        assert set(claims.beats(session)) == {second.id}


def test_the_job_of_a_worker_that_beats_no_more_is_free_and_that_worker_forgotten(
    registry: Registry, enter: Callable[..., tuple[Presence, threading.Event]]
) -> None:
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "rows", b"text,label\nwords,a\nother words,b\n", "csv")
        job = jobs.enqueue(session, adapter="desk", dataset="rows", requested_by="test")
        claims.register(session, "dead", "red")
        claims.take(session, job.id, "dead", {})
    living, _ = enter("blue")
    beating, _ = enter("green")
    assert living.free_jobs() == []
    deadline = time.monotonic() + 20
    while not (found := living.free_jobs()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [each.id for each in found] == [job.id]
    assert set(living.silent) == {"dead"}
    with registry.writing() as session:
        claims.take(session, job.id, living.id, living.silent)
    assert living.free_jobs() == []
    with registry.reading() as session:
        assert set(claims.beats(session)) == {living.id, beating.id}
    living.leave(job.id)
    assert [each.id for each in beating.free_jobs()] == [job.id]
