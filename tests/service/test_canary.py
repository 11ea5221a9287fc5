"""Who gets a canary: shares within binomial bounds, sticky, growing without going back, and never per request."""

from types import SimpleNamespace

import pytest
from starlette.requests import Request

from monitoring.statistics import rate_interval
from service.auth import CALLER
from service.canary import UNIT_HEADER, Canary, place
from service.snapshot import Target

UNITS = [f"key_{n:05d}" for n in range(20_000)]


def request(key=None, **headers):
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, CALLER: key})


def version(digest):
    return SimpleNamespace(record=SimpleNamespace(digest=digest))


def canary(share=0.2, unit="key", salt=b"salt"):
    return Canary(salt, share, unit, "champion", version("candidate"))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("salt", [b"one", b"other", bytes(16)])
def test_a_share_is_met_within_binomial_bounds(share, salt):
    taken = sum(place(salt, unit) < share for unit in UNITS)
    low, high = rate_interval(taken, len(UNITS), 0.9999)
    assert low <= share <= high


def test_a_growing_share_sends_nobody_back_and_another_rollout_draws_others():
    small, large = ({u for u in UNITS if place(b"salt", u) < share} for share in (0.1, 0.3))
    assert small < large
    other = {u for u in UNITS if place(b"pepper", u) < 0.1}
    low, high = rate_interval(len(small & other), len(small), 0.9999)
    assert low <= 0.1 <= high  # independent of the first draw


def test_a_unit_gets_one_version_whatever_it_asks():
    found, router = Target(None, version("champion")), canary()
    for unit in UNITS[:200]:
        answers = {router.route(found, request(unit), f"user {n}").version.record.digest for n in range(5)}
        assert answers == {"candidate" if place(b"salt", unit) < 0.2 else "champion"}


@pytest.mark.parametrize(
    ("unit", "asked", "user"),
    [
        ("key", request("index"), None),
        ("user", request("other key"), "index"),
        ("header", request("other key", **{UNIT_HEADER: "index"}), "other user"),
    ],
)
def test_the_unit_is_the_one_that_the_rules_name(unit, asked, user):
    found = Target(None, version("champion"))
    share = place(b"salt", "index")
    assert canary(share * 1.01, unit).route(found, asked, user).version.record.digest == "candidate"
    assert canary(share * 0.99, unit).route(found, asked, user) is found


def test_who_names_no_unit_and_what_is_no_longer_champion_stay():
    champion, another = Target(None, version("champion")), Target(None, version("newer"))
    for unit in ("key", "user", "header"):
        assert canary(0.999999, unit).route(champion, request(), None) is champion
    assert canary(0.999999).route(another, request("key"), None) is another
    backbone = Target(None, None)
    assert canary(0.999999).route(backbone, request("key"), None) is backbone


def test_any_words_are_a_unit():
    for words in ("\ud800", "ü" * 10_000, " "):
        assert 0 <= place(b"salt", words) < 1
