"""Clients that mean harm, over a real connection: each gets a clear 4xx or is cut; the service goes on as before.

Slow clients are in test_patience.py, wrong values of fields in test_vectors_api.py and test_schemathesis.py.
"""

import contextlib
import gzip
import json
import random
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.home import Home

MODEL = "all-MiniLM-L6-v2"
CANARY = "zyxwvut-canary"
LIMIT = 1024 * 1024
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\n"


class Target:
    """A service in a process of its own, and raw connections to it."""

    def __init__(self, process) -> None:
        self.process = process

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.process.port), timeout=20)

    def send(self, data: bytes, *, half_close: bool = False) -> bytes:
        """What comes back until the connection is closed, or pauses after an answer."""
        with self.open() as link:
            with contextlib.suppress(ConnectionError):
                link.sendall(data)
                if half_close:
                    link.shutdown(socket.SHUT_WR)
            return read(link)

    def post(self, body: bytes, path: str = "/v1/embeddings", headers: bytes = b"") -> tuple[int, dict]:
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n".encode()
        size = b"content-length: %d\r\nconnection: close\r\n" % len(body)
        answer = self.send(head + headers + size + b"\r\n" + body)
        top, _, content = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), json.loads(content)

    def memory(self) -> int:
        """Bytes in use of the service's process."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def serves(self) -> None:
        answer = self.process.post("/v1/embeddings", {"model": MODEL, "input": "still there?"})
        assert len(answer.json()["data"][0]["embedding"]) == 384


def read(link: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while piece := link.recv(65536):
            got += piece
            link.settimeout(1)
    return got


def status(answer: bytes) -> int:
    """The status of the first answer; 0 for a connection that was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.fixture(scope="module")
def target(exported_backbone, start_service, tmp_path_factory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile") / "home"
    shutil.copytree(exported_backbone, folder)
    process = start_service(Home.at(folder), max_body_bytes=LIMIT, max_upload_bytes=LIMIT, log_level="info")
    found = Target(process)
    found.serves()
    yield found
    found.serves()
    assert process.stop() == 0
    log = process.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log
    assert CANARY not in log
    for line in log.splitlines():
        json.loads(line)  # nothing writes beside the structured log


def body(value: str, **more: str) -> bytes:
    """A body of /v1/embeddings whose `input` is this JSON, with further raw fields."""
    fields = {"model": f'"{MODEL}"', "input": value, **more}
    return ("{" + ",".join(f'"{name}": {item}' for name, item in fields.items()) + "}").encode()


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


# Name -> body of /v1/embeddings and the status it gets; 200 where it is odd but right.
BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "white space": (b" \r\n\t ", 400),
    "a byte order mark": (b"\xef\xbb\xbf" + body('"x"'), 400),
    "UTF-16": (body('"x"').decode().encode("utf-16"), 400),
    "not UTF-8": (body('"x"').replace(b'"x"', b'"\xff\xfe"'), 400),
    "an overlong encoding": (body('"x"').replace(b'"x"', b'"\xc0\xaf"'), 400),
    "a raw surrogate": (body('"x"').replace(b'"x"', b'"\xed\xa0\x80"'), 400),
    "an escaped half of a pair": (body('"\\ud800"'), 400),
    "two wrong halves": (body('"\\udc00\\ud800"'), 400),
    "NUL as a byte": (body('"x"').replace(b'"x"', b'"a\x00b"'), 400),
    "a control character as a byte": (body('"x"').replace(b'"x"', b'"a\x1bb"'), 400),
    "NUL escaped": (body('"a\\u0000b"'), 200),
    "only control characters": (body('"\\u0001\\u0002\\u007f"'), 200),
    "blank in Unicode": (body('"\\u2003\\u00a0\\u3000"'), 400),
    "lists 100,000 deep": (body(nested(100_000)), 400),
    "lists 900 deep": (body(nested(900)), 422),
    "objects 100,000 deep": (body(nested(100_000, '{"a":', "}")), 400),
    "depth outside of input": (body('"x"', user=nested(500)), 422),
    "100,000 tiny items": (body("[" + ",".join(['"a"'] * 100_000) + "]"), 413),
    "100,000 empty items": (body("[" + ",".join(['""'] * 100_000) + "]"), 413),
    "300,000 token ids": (body("[" + ",".join(["1"] * 300_000) + "]"), 422),
    "a list of lists": (body(json.dumps([["a"]] * 1000)), 422),
    "nearly 1 MB without a space": (body('"' + "x" * 1_000_000 + '"'), 400),
    "nearly 1 MB of one mark": (body('"' + "\u0301" * 500_000 + '"'), 400),
    "40,000 fields": (body('"x"', **{f"field{i}": "1" for i in range(40_000)}), 200),
    "the same field twice": (body('"x"')[:-1] + b', "input": 5}', 422),
    "1e999": (body('"x"', dimensions="1e999"), 400),
    "a number of 100,000 digits": (body('"x"', dimensions="9" * 100_000), 400),
    "a fraction of 100,000 digits": (body('"x"', dimensions="0." + "5" * 100_000), 422),
    "minus nought": (body('"x"', dimensions="-0"), 422),
    "minus nought point nought": (body('"x"', dimensions="-0.0"), 422),
    "2**64": (body('"x"', dimensions=str(2**64)), 422),
    "NaN": (body('"x"', dimensions="NaN"), 400),
    "Infinity": (body('"x"', dimensions="-Infinity"), 400),
    "a leading nought": (body('"x"', dimensions="010"), 400),
    "true for a number": (body('"x"', dimensions="true"), 422),
    "a trailing comma": (body('["x",]'), 400),
    "two bodies": (body('"x"') * 2, 400),
    "XML": (b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", 400),
    "a pickle": (b"cos\nsystem\n(S'true'\ntR.", 400),
    "a string": (b'"x"', 400),
    "the prototype": (body('"x"', __proto__='{"a": 1}'), 200),
    "a model with a path": (body('"x"').replace(MODEL.encode(), b"../../../etc/passwd"), 404),
    "a model with NUL": (body('"x"').replace(MODEL.encode(), b"a\\u0000"), 404),
    "a model of 100,000 letters": (body('"x"').replace(MODEL.encode(), b"a" * 100_000), 404),
    "a model that is a list": (body('"x"').replace(f'"{MODEL}"'.encode(), b'["a"]'), 422),
    "a prompt by a list": (body('"x"', prompt_name="[]"), 422),
    "an encoding by an object": (body('"x"', encoding_format='{"a": []}'), 422),
    "a cut by a list": (body('"x"', truncate="[[]]"), 422),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(target: Target, name: str) -> None:
    data, expected = BODIES[name]
    found, answer = target.post(data)
    assert found == expected, answer.get("detail")
    if found >= 400:
        assert answer["status"] == expected
        assert len(json.dumps(answer)) < 1500


# What the admin routes read goes through pydantic and the standard library's JSON instead.
ADMIN = {
    "lists deep": nested(100_000),
    "NaN": '{"version": NaN}',
    "infinite": '{"version": 1e999}',
    "a number of 5,000 digits": '{"version": ' + "9" * 5000 + "}",
    "beyond 64 bits": '{"version": 99999999999999999999}',
    "text": '{"version": "1"}',
    "true": '{"version": true}',
    "half a pair": '{"version": 1, "' + CANARY + '\\ud800": 1}',
    "an unknown field": '{"version": 1, "a text of ' + CANARY + '": 1}',
    "not an object": f'["{CANARY}"]',
    "nothing": "",
    "a rule that is no number": '{"version": 1, "share": NaN}',
    "a rule beyond bounds": '{"version": 1, "share": 1e999, "stages": [1e308, -1e999]}',
    "a reason with NUL": '{"version": 1, "reason": "\\u0000"}',
}


@pytest.mark.parametrize("path", ["promote", "rollout", "rollout/stop"])
@pytest.mark.parametrize("name", ADMIN)
def test_admin_bodies(target: Target, name: str, path: str) -> None:
    found, answer = target.post(ADMIN[name].encode(), f"/admin/adapters/{CANARY}/{path}")
    assert found in (400, 404, 422), answer
    assert len(json.dumps(answer)) < 1500
    if found != 404:
        assert CANARY not in json.dumps(answer)


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2030-01-01T00:00:60Z", "2030-02-30T00:00:00Z", "x"],
)
def test_moments(target: Target, moment: str) -> None:
    found, answer = target.post(
        json.dumps({"name": "x", "scopes": ["embed"], "expires_at": moment}).encode(), "/admin/keys"
    )
    assert found == 422, answer


def test_a_body_over_the_limit_is_refused_by_its_length_alone(target: Target) -> None:
    for size in (LIMIT + 1, 10**12, 2**63 - 1):
        answer = target.send(HEAD + b"content-length: %d\r\n\r\n{" % size)
        assert status(answer) == 413
    assert status(target.send(HEAD + b"content-length: 99999999999999999999999999\r\n\r\n{")) == 400


def test_a_chunked_body_over_the_limit_is_refused_and_not_read_on(target: Target) -> None:
    before = target.memory()
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    sent = 0
    with target.open() as link:
        link.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 200 * LIMIT:
                link.sendall(piece)
                sent += 65536
        answer = read(link)
    assert status(answer) in (413, 0)  # a closed connection may lose the answer of one who does not read
    assert sent < 64 * LIMIT
    assert target.memory() - before < 32 * LIMIT
    with target.open() as link:  # one who reads it gets it
        link.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + piece * 17)
        assert status(read(link)) == 413


def test_a_compressed_body_is_refused_unread(target: Target) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    before = target.memory()
    for coding, data in (
        ("gzip", bomb),
        ("GZIP", gzip.compress(bomb)),
        ("gzip, gzip", gzip.compress(bomb)),
        ("deflate", zlib.compress(b"0" * 50_000_000)),
        ("br", b"\x5b\xff\xff"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("identity, gzip", bomb),
        ("rubbish", b"{}"),
    ):
        for path in ("/v1/embeddings", "/embed", "/admin/datasets/bomb", "/admin/retrain"):
            found, answer = target.post(data, path, f"content-encoding: {coding}\r\n".encode())
            assert found == 415
            assert "compressed" in answer["detail"]
    assert target.memory() - before < 32 * LIMIT
    assert target.post(body('"x"'), headers=b"content-encoding: identity\r\n")[0] == 200


GET = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n"
SMUGGLED = b"GET /admin/keys HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
# Name -> bytes on the wire and the statuses they may get; 0 is a connection closed without an answer.
WIRE: dict[str, tuple[bytes, set[int]]] = {
    "length and chunks": (HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, {400}),
    "chunks and length": (HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED, {400}),
    "two lengths": (HEAD + b"content-length: 0\r\ncontent-length: 4\r\n\r\n" + SMUGGLED, {400}),
    "a length twice": (HEAD + b"content-length: 0\r\ncontent-length: 0\r\n\r\n" + SMUGGLED, {400}),
    "lengths in a list": (HEAD + b"content-length: 0, 4\r\n\r\n" + SMUGGLED, {400}),
    "a signed length": (HEAD + b"content-length: +4\r\n\r\n{}", {400}),
    "a negative length": (HEAD + b"content-length: -1\r\n\r\n{}", {400}),
    "a length in hex": (HEAD + b"content-length: 0x4\r\n\r\n{}", {400}),
    "an unknown coding": (HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED, {400}),
    "chunked not last": (HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + SMUGGLED, {400}),
    "chunked by another mark": (HEAD + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED, {400}),
    "a space before the colon": (HEAD + b"content-length : 4\r\n\r\n{}", {400}),
    "a folded header": (HEAD + b"x-a: b\r\n content-length: 4\r\n\r\n{}", {400}),
    "bare line feeds": (b"POST /v1/embeddings HTTP/1.1\nhost: 127.0.0.1\ncontent-length: 0\n\n", {400}),
    "a bare carriage return": (HEAD + b"x-a: b\rcontent-length: 4\r\n\r\n{}", {400}),
    "NUL in a header": (GET + b"x-a: \x00\r\n\r\n", {400}),
    "NUL in a header's name": (GET + b"x\x00a: b\r\n\r\n", {400}),
    "a chunk of negative size": (HEAD + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n", {400}),
    "a chunk of huge size": (HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n", {400}),
    "a chunk that is no number": (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", {400}),
    "a chunk longer than it says": (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", {400}),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", {400, 403}),
    "another site's host": (b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n", {403}),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", {0, 400, 403}),
    "HTTP/9.9": (b"GET /v1/models HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n", {400}),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0, 400}),
    "a method of nobody": (b"ZYXWVUT / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {400}),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {400, 404, 405}),
    "a proxy's target": (b"GET http://evil.example/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {400, 404, 405}),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {400, 404, 405}),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + b"\x5a" * 500, {0, 400}),
    "zeros": (b"\x00" * 5000, {400}),
    "random bytes": (random.Random(1).randbytes(60_000), {0, 400}),
    "a websocket": (
        GET + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x85abcd",
        {200, 400, 426},
    ),
    "HTTP/2 by upgrade": (GET + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n\r\n", {200, 400, 426}),
    "a long path": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {404}),
    "a path that is too long": (
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        {0, 400, 414, 431},
    ),
    "a long query": (b"GET /v1/models?" + b"a=b&" * 15_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {200}),
    "a header of 60,000 bytes": (GET + b"x-a: " + b"b" * 60_000 + b"\r\n\r\n", {200}),
    "a header of 100,000 bytes": (GET + b"x-a: " + b"b" * 100_000 + b"\r\n\r\n", {0, 431}),
    "10,000 headers": (GET + b"".join(b"x-%d: y\r\n" % i for i in range(10_000)) + b"\r\n", {0, 431}),
    "bytes beyond ASCII in the path": (b"GET /\xff\xfe HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", {400, 404}),
    "bytes beyond ASCII in a header": (GET + b"x-request-id: \xff\xfe\r\n\r\n", {200}),
    "a request id that breaks lines": (GET + b"x-request-id: a\x0d\x0ainjected: b\r\n\r\n", {200}),
    "a key of odd bytes": (GET + b"authorization: Bearer \xff\xf0\r\n\r\n", {200, 401}),
    "a deadline of NaN": (HEAD + b"x-request-deadline-ms: nan\r\ncontent-length: 2\r\n\r\n{}", {422}),
}


@pytest.mark.parametrize("name", WIRE)
def test_bytes_on_the_wire(target: Target, name: str) -> None:
    data, allowed = WIRE[name]
    answer = target.send(data)
    assert status(answer) in allowed, answer[:300]
    assert answer.count(b"HTTP/1.1 ") <= 1  # nothing smuggled was taken for a request of its own


@pytest.mark.parametrize(
    "path",
    [
        "/%00", "/v1/models/%00", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/../../etc/passwd", "//v1/models//x",
        "/admin/datasets/%2e%2e%2fkeys", "/admin/jobs/%2e%2e", "/admin/adapters/..;/keys", "/admin/adapters/a%0d%0ab",
        "/v1/models/%ff%fe", "/v1/models/%ed%a0%80", "/v1/models/%c0%af", "/v1/models/%", "/v1/models/%zz",
        "/admin/adapters/x/versions/99999999999999999999/card", "/admin/adapters/x/versions/-1/report",
        "/admin/adapters/x/versions/1e3/card", "/admin/jobs/" + "a" * 5000, "/admin/drift/%00?history=1",
        "/admin/jobs?limit=99999999999999999999", "/admin/jobs?adapter=%00&limit=5", "/admin/jobs?limit=1&limit=x",
        "/admin/datasets/x?revision=99999999999999999999", "/admin/datasets/x?revision=%00",
    ],
)  # fmt: skip
def test_tricks_in_paths(target: Target, path: str) -> None:
    answer = target.send(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
    assert status(answer) in ((200, 422) if path.startswith("/admin/jobs?adapter") else (400, 404, 422)), answer[:300]
    assert b"root:" not in answer


def test_pipelined_requests_are_answered_each_once_and_in_order(target: Target) -> None:
    requests = [body(json.dumps(["x"] * (1 + number % 3))) for number in range(200)]
    with target.open() as link:
        link.sendall(b"".join(HEAD + b"content-length: %d\r\n\r\n" % len(each) + each for each in requests))
        got = b""
        while got.count(b'"usage"') < len(requests):
            piece = link.recv(1 << 20)
            assert piece
            got += piece
    counts = [int(n) for n in re.findall(rb'"prompt_tokens":(\d+)', got)]
    assert counts == [3 * (1 + number % 3) for number in range(200)]


def test_trailers_without_end_are_cut(target: Target) -> None:
    before = target.memory()
    sent = 0
    with target.open() as link:
        link.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        trailers = b"".join(b"x-%d: %s\r\n" % (i, b"y" * 100) for i in range(500))
        with contextlib.suppress(ConnectionError):
            while sent < 100 * LIMIT:
                link.sendall(trailers)
                sent += len(trailers)
    assert sent < 32 * LIMIT
    assert target.memory() - before < 32 * LIMIT


def test_half_closed_connections_are_answered_or_closed(target: Target) -> None:
    asked = body('"x"')
    whole = HEAD + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(asked) + asked
    assert status(target.send(whole, half_close=True)) in (0, 200)
    for part in (b"", b"POST", HEAD, whole[:-3]):
        assert status(target.send(part, half_close=True)) in (0, 400, 408)


def test_uploads(target: Target) -> None:
    for kind, data in (
        ("text/csv", b"text,label\n" + b'"' * 900_000),
        ("text/csv", b"text" + b",a" * 400_000),
        ("text/csv", b"\x00" * 900_000),
        ("application/jsonl", b"[" * 900_000),
        ("application/jsonl", (b'{"text": ' + b"[" * 5000 + b"\n") * 100),
        ("application/jsonl", b"{}\n" * 300_000),
        ("application/octet-stream", b"PK\x03\x04"),
        ("text/csv", CANARY.encode() * 50_000),
    ):
        found, answer = target.post(data, "/admin/datasets/rubbish", f"x-a: b\r\ncontent-type: {kind}\r\n".encode())
        assert found == 422, (kind, data[:20], answer["detail"])
        assert CANARY not in json.dumps(answer)


def test_memory_stays_within_bounds(target: Target) -> None:
    """The worst of the above, many times over: nothing of it is kept."""
    worst = [BODIES[name][0] for name in ("100,000 tiny items", "nearly 1 MB without a space", "40,000 fields")]
    for data in worst * 5:
        target.post(data)
    before = target.memory()
    for data in worst * 15:
        target.post(data)
    assert target.memory() - before < 48 * LIMIT
