"""Failed authentication: an address that fails too often waits, nobody else does, and memory is bounded."""

import pytest

from service import doors
from service.doors import Doors
from service.errors import Problem

REFUSED = Problem(401, "no")


@pytest.fixture
def time():
    return [0.0]


@pytest.fixture
def door(time):
    return Doors(lambda: time[0])


def statuses(door, address, times):
    return [door.failed(address, REFUSED).status for _ in range(times)]


def test_a_few_failures_are_401_and_more_are_429_until_time_has_passed(door, time):
    assert statuses(door, "10.0.0.1", doors.FAILURES) == [401] * doors.FAILURES
    refused = door.failed("10.0.0.1", REFUSED)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
    assert statuses(door, "10.0.0.2", 1) == [401]
    time[0] += 5
    assert statuses(door, "10.0.0.1", 2) == [401, 429]
    time[0] += 1e6
    assert statuses(door, "10.0.0.1", doors.FAILURES + 1) == [401] * doors.FAILURES + [429]


def test_addresses_that_come_and_go_fill_no_memory(door, monkeypatch):
    monkeypatch.setattr(doors, "ADDRESSES", 100)
    for number in range(1000):
        door.failed(f"address {number}", REFUSED)
    assert len(door._failed) == 100


def test_a_right_key_is_let_in_from_an_address_that_failed(client, publish):
    publish("support", 1)
    made = client.post("/admin/keys", json={"name": "root", "scopes": ["admin"]}).json()
    body = {"model": "support", "input": "hello"}
    wrong = {"authorization": "Bearer dl_aaaaaaaa_" + "b" * 43}
    seen = [client.post("/v1/embeddings", json=body, headers=wrong).status_code for _ in range(doors.FAILURES + 3)]
    assert set(seen[: doors.FAILURES]) == {401}
    assert set(seen[-3:]) == {429}
    assert client.get("/v1/models", headers=wrong).status_code == 429
    right = {"authorization": f"Bearer {made['secret']}"}
    assert client.post("/v1/embeddings", json=body, headers=right).status_code == 200
