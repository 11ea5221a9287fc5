"""What a service answers to rubbish: `python benchmarks/bad_input.py`. Prints status and message of each case."""

import argparse
from pathlib import Path

import httpx2

from cli.server import running_service
from registry.home import Home

JSON = {"content-type": "application/json"}
CSV = {"content-type": "text/csv"}
JSONL = {"content-type": "application/x-ndjson"}


def cases(model: str) -> list[tuple[str, str, bytes, dict[str, str]]]:
    """Name, path, body and headers of each case."""

    def body(value: str) -> bytes:
        return f'{{"model": "{model}", "input": {value}}}'.encode()

    many = "[" + ",".join(['"a"'] * 3000) + "]"
    one_label = b"".join(b'{"text": "message number %d", "label": "same"}\n' % i for i in range(20))
    return [
        ("empty list", "/v1/embeddings", body("[]"), JSON),
        ("empty string", "/v1/embeddings", body('["fine", ""]'), JSON),
        ("only white space", "/v1/embeddings", body('" \\n\\t "'), JSON),
        ("3,000 items", "/v1/embeddings", body(many), JSON),
        ("10 MB body", "/v1/embeddings", body('"' + "x" * 10_000_000 + '"'), JSON),
        ("a number as input", "/v1/embeddings", body("7"), JSON),
        ("null among strings", "/v1/embeddings", body('["a", null]'), JSON),
        ("token ids", "/v1/embeddings", body("[[101, 2023, 102]]"), JSON),
        (
            "dimensions too large",
            "/v1/embeddings",
            f'{{"model":"{model}","input":"a","dimensions":4096}}'.encode(),
            JSON,
        ),
        ("dimensions as text", "/v1/embeddings", f'{{"model":"{model}","input":"a","dimensions":"x"}}'.encode(), JSON),
        (
            "unknown encoding",
            "/v1/embeddings",
            f'{{"model":"{model}","input":"a","encoding_format":"z"}}'.encode(),
            JSON,
        ),
        ("unknown model", "/v1/embeddings", b'{"model": "no-such-model", "input": "a"}', JSON),
        ("no model", "/v1/embeddings", b'{"input": "a"}', JSON),
        ("text over the limit", "/v1/embeddings", body('["short", "' + "word " * 2000 + '"]'), JSON),
        ("truncated JSON", "/v1/embeddings", b'{"model": "x", "input": ["a", "b', JSON),
        ("not UTF-8", "/v1/embeddings", b'{"model": "x", "input": "\xff\xfe\xfa"}', JSON),
        ("an array as body", "/v1/embeddings", b"[1, 2]", JSON),
        ("nested 20,000 deep", "/v1/embeddings", b"[" * 20_000, JSON),
        ("unknown path", "/v1/nothing", b"{}", JSON),
        ("malformed CSV", "/admin/datasets/bad", b'text,label\n"unclosed,greeting\nhello,greeting,extra\n', CSV),
        ("CSV without a text column", "/admin/datasets/bad", b"message,label\nhello,a\nbye,b\n", CSV),
        ("truncated JSONL", "/admin/datasets/bad", b'{"text": "a", "label": "x"}\n{"text": "b", "lab', JSONL),
        ("one label", "/admin/datasets/bad", one_label, JSONL),
        ("dataset not UTF-8", "/admin/datasets/bad", b"text,label\nh\xe9llo,a\nbye,b\n", CSV),
        ("empty dataset", "/admin/datasets/bad", b"", CSV),
        ("bad dataset name", "/admin/datasets/..%2F..%2Fetc", b"text,label\na,b\nc,d\n", CSV),
        ("retrain on an unknown dataset", "/admin/retrain", b'{"adapter": "a", "dataset": "nothing"}', JSON),
        ("unknown recipe field", "/admin/retrain", b'{"adapter":"a","dataset":"n","recipe":{"learning":1}}', JSON),
        ("promote an unknown version", "/admin/adapters/a/promote", b'{"version": 99}', JSON),
    ]


def main() -> None:
    """Send every case to one service and print the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None)
    home = Home.at(parser.parse_args().data_dir)
    with running_service(home.data_dir, worker=False) as url, httpx2.Client(base_url=url, timeout=60) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        print("| case | status | answer |\n| --- | ---: | --- |")
        for name, path, body, headers in cases(model):
            answer = client.post(path, content=body, headers=headers)
            detail = answer.json().get("detail", answer.text[:200]) if answer.content else ""
            print(f"| {name} | {answer.status_code} | {str(detail)[:220]} |")
        alive = client.post("/v1/embeddings", json={"model": model, "input": "still there?"})
        print(f"\nafterwards a good request is answered with {alive.status_code}")


if __name__ == "__main__":
    main()
