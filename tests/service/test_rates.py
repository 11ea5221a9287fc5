"""Rates and quotas of keys: what is let in, what the answer says, and that counts survive outages and add up."""

from datetime import UTC, datetime, timedelta

import pytest

from registry import keys, quotas
from registry.errors import Unavailable
from registry.quotas import KeyLimits
from service.errors import Problem
from service.rates import Rates


class Clock:
    """A moment that tests move."""

    def __init__(self):
        self.seconds = 0.0
        self.start = datetime(2026, 5, 4, 22, 0, tzinfo=UTC)

    def monotonic(self):
        return self.seconds

    def now(self):
        return self.start + timedelta(seconds=self.seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(publish):
    return publish.registry


@pytest.fixture
def key(registry):
    with registry.writing() as session:
        return keys.issue(session, "app", [keys.Scope.EMBED])[0].id


def rates_of(clock, registry):
    rates = Rates(clock.monotonic, clock.now)
    rates.reconcile(registry)
    return rates


def limited(registry, key, **limits):
    with registry.writing() as session:
        quotas.limit(session, key, KeyLimits(**limits))


def refusal(rates, key, texts):
    with pytest.raises(Problem) as caught:
        rates.admit(key, texts)
    return caught.value


def used(registry, clock):
    with registry.reading() as session:
        return quotas.used(session, clock.now().date())


def test_a_minute_holds_its_texts_and_no_more(clock, registry, key):
    limited(registry, key, texts_per_minute=60)
    rates = rates_of(clock, registry)
    rates.admit(key, 50)
    refused = refusal(rates, key, 20)
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "rate_limited", "10")
    rates.admit(key, 10)  # a refused request took nothing
    clock.seconds += 10
    rates.admit(key, 10)
    assert refusal(rates, key, 61).status == 413
    rates.admit("another", 10_000)
    rates.admit(None, 10_000)


def test_a_day_ends_at_midnight_utc(clock, registry, key):
    limited(registry, key, texts_per_day=100)
    rates = rates_of(clock, registry)
    rates.admit(key, 90)
    refused = refusal(rates, key, 11)
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "quota_exceeded", "7200")
    assert "10 left" in refused.message
    clock.seconds += 7201  # and the registry was not asked yet
    rates.admit(key, 100)


def test_services_together_keep_a_quota_once_they_have_reconciled(clock, registry, key):
    limited(registry, key, texts_per_day=100)
    one, other = rates_of(clock, registry), rates_of(clock, registry)
    one.admit(key, 60)
    other.admit(key, 30)
    one.reconcile(registry)
    other.reconcile(registry)
    one.reconcile(registry)
    assert used(registry, clock) == {key: 90}
    for rates in (one, other):
        assert refusal(rates, key, 11).code == "quota_exceeded"
    assert rates_of(clock, registry)._known == {key: 90}  # a restart too


def test_an_outage_loses_no_count(clock, registry, key, monkeypatch):
    limited(registry, key, texts_per_day=100)
    rates = rates_of(clock, registry)
    rates.admit(key, 60)

    def away(*_):
        raise Unavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(quotas, "add_uses", away)
        with pytest.raises(Unavailable):
            rates.reconcile(registry)
    rates.admit(key, 5)
    assert refusal(rates, key, 36).code == "quota_exceeded"
    rates.reconcile(registry)
    assert used(registry, clock) == {key: 65}


def test_old_days_are_forgotten_and_unknown_keys_left_out(clock, registry, key):
    day = clock.now().date()
    with registry.writing() as session:
        quotas.add_uses(session, day, {key: 5, "nobody": 5})
        quotas.add_uses(session, day + timedelta(days=quotas.KEPT_DAYS + 1), {key: 7})
    assert used(registry, clock) == {}
    for bad in ({"texts_per_minute": 0}, {"texts_per_day": -1}, {"texts_per_day": quotas.MOST + 1}):
        with pytest.raises(ValueError, match="must be from 1"):
            KeyLimits(**bad)


def test_over_http(client, publish):
    publish("support", 1)
    root = client.post("/admin/keys", json={"name": "root", "scopes": ["admin"]}).json()
    admin = {"authorization": f"Bearer {root['secret']}"}
    made = client.post("/admin/keys", json={"name": "app", "scopes": ["embed"]}, headers=admin).json()
    app = {"authorization": f"Bearer {made['secret']}"}
    path = f"/admin/keys/{made['id']}/limits"
    assert client.put(path, json={"texts_per_minute": 0}, headers=admin).status_code == 422
    assert client.put("/admin/keys/nobody/limits", json={}, headers=admin).status_code == 404
    assert client.put(path, json={"texts_per_minute": 4}, headers=app).status_code == 403
    answer = client.put(path, json={"texts_per_minute": 4}, headers=admin)
    assert answer.json() == {"id": made["id"], "texts_per_minute": 4, "texts_per_day": None}

    def ask(count):
        body = {"model": "support", "input": ["hello"] * count}
        return client.post("/v1/embeddings", json=body, headers=app)

    assert ask(3).status_code == 200
    refused = ask(2)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limited"
    assert int(refused.headers["retry-after"]) in (15, 16)
    assert ask(5).status_code == 413
    assert client.put(path, json={}, headers=admin).status_code == 200
    assert ask(50).status_code == 200
