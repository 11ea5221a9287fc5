"""A move of the live pointer: proven first, with no transaction open, and only what was proven goes live."""

import pytest

from registry import versions
from registry.errors import Conflict
from registry.proven import move_proven


class Refused(Exception):
    pass


@pytest.fixture
def two(stocked, publish):
    """An adapter with two versions, of which the first is live."""
    made = publish(), publish()
    with stocked.writing() as session:
        versions.promote(session, "banking", 1, by="test")
    return made


def live(registry):
    with registry.reading() as session:
        return versions.get_adapter(session, "banking").live


def promote(number):
    return lambda session: versions.promote(session, "banking", number, by="test")


def test_what_is_proven_goes_live_and_the_database_is_free_meanwhile(registry, two):
    def prove(version):
        assert live(registry) == 1
        with registry.writing() as session:  # would wait for a transaction that writes
            versions.ensure_adapter(session, "other", version.backbone)
        return f"proof of {version.name}"

    version, proof = move_proven(registry, promote(2), prove)
    assert (version.name, proof, live(registry)) == ("banking@2", "proof of banking@2", 2)


def test_what_cannot_be_proven_does_not_move(registry, two):
    def prove(version):
        raise Refused

    with pytest.raises(Refused):
        move_proven(registry, promote(2), prove)
    assert live(registry) == 1


def test_a_move_that_leads_elsewhere_by_now_is_proven_anew(registry, two):
    targets = [2, 1, 1, 1]
    proven = []
    version, _ = move_proven(
        registry, lambda session: promote(targets.pop(0))(session), lambda v: proven.append(v.name)
    )
    assert proven == ["banking@2", "banking@1"]
    assert version.name == "banking@1"
    turns = iter([1, 2] * 10)
    with pytest.raises(Conflict, match="kept changing"):
        move_proven(registry, lambda session: promote(next(turns))(session), lambda v: None)
    assert live(registry) == 1
