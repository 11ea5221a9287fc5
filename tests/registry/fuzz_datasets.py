"""Parses damaged uploads by seed, or large malicious ones, for test_fuzz_datasets.py and long runs by hand.

`python fuzz_datasets.py damaged FORMAT FIRST COUNT` or `python fuzz_datasets.py bombs`. It ends with 1 at the first
that raises anything but the registry's own refusal, or one that repeats the upload, and within a bound of memory.
"""

import json
import random
import resource
import sys
from collections.abc import Iterator

from registry.errors import DatasetRefused
from registry.rows import parse

CANARY = "zyxwvut"
MEMORY = 3 * 1024**3
WHOLE = {
    "csv": 'text,label,group,confidence\n"a ""quoted"", text",x,g1,0.5\n' + "".join(
        f"{CANARY} number {i},{'xy'[i % 2]},g{i},{0.1 + i / 100}\n" for i in range(12)
    ),
    "jsonl": "".join(
        json.dumps({"text": f"{CANARY} number {i} \u00e9", "label": "xy"[i % 2], "group": i, "confidence": 0.5}) + "\n"
        for i in range(12)
    ),
}  # fmt: skip
PIECES = [
    *(
        b'"',
        b'""',
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x1a",
        b"\\",
        b"'",
    ),
    *(b"\\ud800", b"{", b"}", b"[", b"]", b"null", b"NaN", b"1e999", b"-0", b"9" * 30, b"\x0b", b"\x1c", b" "),
    *(b"\xe2\x80\xa8", b"\xc2\x85", b"\xc4\xb0", b"\xf4\x8f\xbf\xbf", b"\xed\xa0\x80"),
    *(CANARY.encode(), b"text", b"label", b"anchor", b"positive"),
]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The upload with some pieces put in, bytes lost or changed, lines doubled, or in another encoding."""
    if draw.random() < 0.1:
        data = data.decode().encode(draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037", "utf-7")))
    found = bytearray(data)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 5, 30))):
        at = draw.randrange(len(found) + 1)
        match draw.randrange(5):
            case 0:
                found[at:at] = draw.choice(PIECES)
            case 1:
                del found[at : at + draw.randrange(1, 20)]
            case 2:
                found[at : at + 1] = draw.randbytes(1)
            case 3:
                found[at:at] = found[at : at + draw.randrange(1, 200)]
            case 4:
                found[at : at + 1] = draw.choice(PIECES) * draw.choice((1, 2, 50))
    return bytes(found)


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """Name, format and bytes of uploads that are large or deep."""
    megabytes = 1 << 20
    yield "a million columns", "csv", b"text,label" + b",c" * 1_000_000 + b"\n"
    yield "a million text columns", "csv", b",".join([b"text"] * 1_000_000) + b"\n"
    yield "a million cells", "csv", b"text,label\n" + b"," * 1_000_000
    yield "open quotation", "csv", b'text,label\n"' + b"a,b\n" * (8 * megabytes)
    yield "quotes", "csv", b"text,label\n" + b'"' * (8 * megabytes)
    yield "one line", "csv", b"text,label\n" + b"x" * (32 * megabytes)
    yield "empty lines", "csv", b"text,label\n" + b"\n" * (4 * megabytes)
    yield "short rows", "csv", b"text,label\n" + b"x\n" * megabytes
    yield "NULs", "csv", b"text,label\n" + b"\x00" * (32 * megabytes)
    yield "carriage returns", "csv", b"text,label\n" + b"\r" * (4 * megabytes)
    yield "tabs and semicolons", "csv", b"text\tlabel;" * megabytes
    yield "a header of 32 MB", "csv", b"t" * (32 * megabytes)
    yield "deep lists", "jsonl", b'{"text": ' + b"[" * (8 * megabytes)
    yield "deep objects", "jsonl", b'{"a":' * (4 * megabytes)
    yield "deep lines", "jsonl", (b'{"text": "x", "a": ' + b"[" * 2000 + b"]" * 2000 + b"}\n") * 2000
    yield "a million fields", "jsonl", b"{" + b",".join(b'"f%d":1' % i for i in range(1_000_000)) + b"}\n"
    yield "empty objects", "jsonl", b"{}\n" * (2 * megabytes)
    yield "a number of a million digits", "jsonl", b'{"text": "a", "label": ' + b"9" * 1_000_000 + b"}\n"
    yield "line ends of Unicode", "jsonl", b"\xe2\x80\xa8" * megabytes
    yield "half pairs", "jsonl", b'{"text": "\\ud800"}\n' * 200_000
    yield "one text again and again", "jsonl", b'{"text": "same", "label": "a"}\n' * 300_000
    yield "long texts", "jsonl", (b'{"text": "' + b"x" * 100_001 + b'", "label": "a"}\n') * 200
    yield "UTF-16", "csv", ("text,label\n" + "x,a\n" * megabytes).encode("utf-16")
    yield "not UTF-8", "csv", b"text,label\n" + b"\xff,a\n" * megabytes


def outcome(data: bytes, format: str) -> str:
    """Parse one upload; "taken" or "refused".

    Raises:
        AssertionError: The refusal repeats the upload, or names too much.
    """
    parsed, problems = None, []
    try:
        parsed = parse(data, format)
    except DatasetRefused as refusal:
        problems = [str(refusal), *map(str, refusal.problems)]
    if parsed is None:
        words = " ".join(problems)
        assert CANARY not in words
        assert 1 < len(problems) <= 51
        assert len(words.encode()) < 20_000
        return "refused"
    assert parsed.rows
    json.dumps(parsed.report, allow_nan=False)
    for row in parsed.rows:  # fit for any database
        for part in (row.text, row.label, row.group):
            assert part is None or "\x00" not in part
            (part or "").encode()
    return "taken"


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if sys.argv[1] == "bombs":
        for name, format, data in bombs():
            print(f"{name}: {outcome(data, format)}", flush=True)
        return 0
    format, first, count = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    found = {"refused": 0, "taken": 0}
    for seed in range(first, first + count):
        data = damaged(WHOLE[format].encode(), random.Random(seed))
        try:
            found[outcome(data, format)] += 1
        except BaseException:
            print(f"{format} {seed}", flush=True)
            raise
    print(f"{found['refused']} refused, {found['taken']} taken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
