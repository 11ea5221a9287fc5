"""The engine over Ray Data gives what the local one gives, names the same rows and can be gone on from."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from encoder.bulk.layout import Origin, vectors_of
from encoder.bulk.model import Model
from encoder.bulk.options import OnError, Options
from encoder.bulk.parts import Folder
from encoder.bulk.run import embed_file
from encoder.bulk.window import WINDOW_ROWS
from registry.home import Home

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Writes = Callable[..., Path]
Makes = Callable[..., list[str]]


def test_it_equals_the_local_engine(
    tmp_path: Path, own_tiny: Home, open_tiny: Callable[..., Model], write_jsonl: Writes, sentences: Makes
) -> None:
    texts = sentences(2 * WINDOW_ROWS + 100)
    texts[5] = texts[WINDOW_ROWS + 1] = ""
    texts[7] = "long " * 400
    source = write_jsonl(tmp_path / "in.jsonl", texts, id=range(len(texts)))
    here, there = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    embed_file(source, here, lambda p: open_tiny(2), Options(id_column="id", on_error=OnError.NULL))
    command = [sys.executable, "-m", "cli", "embed", str(source), "--out", str(there), "--engine", "ray"]
    command += ["--model", "desk@2", "--id-column", "id", "--on-error", "null", "--provider", "cpu", "--json"]
    command += ["--workers", "2", "--threads", "1", "--data-dir", str(own_tiny.data_dir)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "RAY_ADDRESS": ""})
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    assert (summary["rows"], summary["embedded"]) == (len(texts), len(texts) - 3)
    assert [bad["row"] for bad in summary["bad_rows"]] == [6, 8, WINDOW_ROWS + 2]
    found, wanted = pq.read_table(there), pq.read_table(here)
    assert found.schema.equals(wanted.schema)
    for name in ("row", "id"):
        assert found[name].combine_chunks().equals(wanted[name].combine_chunks())
    for name in ("embedding", "base"):
        assert found[name].is_null().equals(wanted[name].is_null())
        pair = (vectors_of(table[name].combine_chunks().drop_null()) for table in (found, wanted))
        assert np.abs(np.subtract(*pair)).max() < 1e-6
    origins = [Origin.of(pq.read_metadata(path).metadata) for path in (here, there)]
    assert origins[0] == origins[1]
    assert not Folder(there).path.exists()
