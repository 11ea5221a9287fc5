"""A home that was backed up under load, or left by an earlier release, serves the same vectors."""

import json
import threading

import numpy as np
from typer.testing import CliRunner

from cli.main import app
from registry import backup, keys, readings, restore, schema, versions
from registry.home import Home

TEXTS = [f"my card number {n} was declined at the shop" for n in range(12)]


def vectors(service, secret=None):
    """What a service answers, with the name of the version that it names."""
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    answer = service.post("/v1/embeddings", json={"model": "support", "input": TEXTS}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], np.array([d["embedding"] for d in answer.json()["data"]])


def doctor(home):
    done = CliRunner().invoke(app, ["doctor", "--data-dir", str(home.data_dir), "--no-model", "--json"])
    return {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}


def test_a_backup_made_while_versions_move_serves_what_its_moment_served(serving, backbone_home, publish, tmp_path):
    heads = {f"support@{n}": publish.head(publish("support", n)) for n in (1, 2)}
    stop, answers = threading.Event(), []

    def ask(client):
        while not stop.is_set():
            answers.append(vectors(client))

    def move():
        turn = 0
        while not stop.is_set():
            with publish.registry.writing() as session:
                versions.promote(session, "support", turn % 2 + 1, by="test")
                readings.add(session, adapter="support", version=1, window_n=turn, statistics={}, cells=[], alarm=False)
            turn += 1

    with serving(backbone_home) as client:
        # One that asks: the client of the tests takes one request at a time.
        busy = [threading.Thread(target=ask, args=(client,)), threading.Thread(target=move)]
        for thread in busy:
            thread.start()
        try:
            while len(answers) < 5:
                stop.wait(0.01)
            made = backup.make(publish.registry, tmp_path / "b.tar")
            begun = len(answers)
            while len(answers) < begun + 5:
                stop.wait(0.01)
        finally:
            stop.set()
            for thread in busy:
                thread.join()
    assert made.rows["readings"] > 0
    target = Home.at(tmp_path / "other")
    restore.restore(target, tmp_path / "b.tar")
    expected = {name: head.apply(publish.encoder.encode(TEXTS).vectors) for name, head in heads.items()}
    with serving(target) as client:
        name, found = vectors(client)
        assert np.abs(found - expected[name]).max() < 1e-5
        other = next(each for each in heads if each != name)
        moved = client.post("/admin/adapters/support/promote", json={"version": int(other[-1])})
        assert moved.status_code == 200
        assert vectors(client)[0] == other
    assert all(np.abs(found - expected[name]).max() < 1e-5 for name, found in answers)
    assert set(doctor(target).values()) <= {"ok", "warning"}


def test_a_home_of_an_earlier_release_serves_after_the_upgrade(serving, backbone_home, publish):
    head = publish.head(publish("support", 1))
    with publish.registry.writing() as session:
        _, secret = keys.issue(session, "root", [keys.Scope.ADMIN])
    with publish.registry.database.connection() as connection:
        schema.downgrade(connection, "0002")
    assert doctor(backbone_home)["schema"] == "warning"
    with publish.registry.database.connection() as connection, connection.begin():
        assert schema.current(connection) == "0002"  # a look migrates nothing
    with serving(backbone_home) as client:
        name, found = vectors(client, secret)
        assert name == "support@1"
        assert np.abs(found - head.apply(publish.encoder.encode(TEXTS).vectors)).max() < 1e-5
        assert client.get("/info").status_code == 401  # its keys hold
        drift = client.get("/admin/drift/support", headers={"authorization": f"Bearer {secret}"})
        assert drift.status_code == 200
    after = doctor(backbone_home)
    assert (after["schema"], after["keys"], after["artifacts"]) == ("ok", "ok", "ok")
