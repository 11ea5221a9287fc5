"""A run that is cut short loses no row and repeats none: in this process, and killed with -9 in one of its own."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoder.bulk.errors import BadRow, FileRefused, ResumeRefused, RowsRefused
from encoder.bulk.local import Tick
from encoder.bulk.model import Model, OpenModel
from encoder.bulk.options import OnError, Options
from encoder.bulk.parts import Folder
from encoder.bulk.run import embed_file, local
from encoder.bulk.survey import Survey, Task
from encoder.bulk.window import FIRST_ROWS, WINDOW_ROWS, Done
from registry.home import Home

Opens = Callable[..., Model]
Writes = Callable[..., Path]
Makes = Callable[..., list[str]]
ROWS = 4 * WINDOW_ROWS + 123


class Cut(Exception):
    """What ends an interrupted run here."""


def cut_after(windows: int) -> Callable[[Task, Model, OpenModel, Tick], Iterator[Done]]:
    """The local engine, ending abruptly before a window is given."""

    def engine(task: Task, model: Model, open_model: OpenModel, tick: Tick) -> Iterator[Done]:
        for given, done in enumerate(local(task, model, open_model, tick)):
            if given == windows:
                raise Cut
            yield done

    return engine


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, write_jsonl: Writes, sentences: Makes) -> Path:
    texts = sentences(ROWS // 2)
    texts = [*texts, *texts, "odd"]
    return write_jsonl(tmp_path_factory.mktemp("source") / "in.jsonl", texts, id=[i % 1000 for i in range(len(texts))])


@pytest.fixture(scope="module")
def uninterrupted(source: Path, open_tiny: Opens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out.parquet"
    embed_file(source, out, lambda p: open_tiny(2), OPTIONS)
    return out


OPTIONS = Options(id_column="id")


def test_each_interruption_is_gone_on_from(tmp_path: Path, source: Path, uninterrupted: Path, open_tiny: Opens) -> None:
    out = tmp_path / "out.parquet"
    for windows, expected in ((0, 0), (2, 0), (1, FIRST_ROWS)):
        with pytest.raises(Cut):
            embed_file(source, out, lambda p: open_tiny(2), OPTIONS, engine=cut_after(windows))
        assert not out.exists()
        done = Folder(out).parts()
        assert (done[-1].last if done else 0) >= expected
    pins: list[object] = []

    def opened(pinned: tuple[str, str] | None) -> Model:
        pins.append(pinned)
        return open_tiny(2)

    summary = embed_file(source, out, opened, OPTIONS)
    assert pins == [("cpu", "fp32")], "the same provider and precision go on"
    assert 0 < summary.resumed < summary.rows
    assert summary.embedded == summary.rows
    assert pq.read_table(out).equals(pq.read_table(uninterrupted))
    assert not Folder(out).path.exists()


def test_half_written_files_and_a_missing_part_are_made_anew(
    tmp_path: Path, source: Path, uninterrupted: Path, open_tiny: Opens
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(Cut):
        embed_file(source, out, lambda p: open_tiny(2), OPTIONS, engine=cut_after(4))
    folder = Folder(out).path
    parts = sorted(folder.glob("part-*.arrow"))
    assert len(parts) >= 3
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    (folder / "part-000000000001-000000000099.new").write_bytes(b"half")
    assert embed_file(source, out, lambda p: open_tiny(2), OPTIONS).resumed == FIRST_ROWS
    assert pq.read_table(out).equals(pq.read_table(uninterrupted))


def test_another_input_model_or_options_are_refused(
    tmp_path: Path, source: Path, open_tiny: Opens, uninterrupted: Path
) -> None:
    out, mine = tmp_path / "out.parquet", tmp_path / "in.jsonl"
    mine.write_bytes(source.read_bytes())
    with pytest.raises(Cut):
        embed_file(mine, out, lambda p: open_tiny(2), OPTIONS, engine=cut_after(2))
    for options in (Options(), Options(id_column="id", base=False), Options(id_column="id", text_column="id")):
        with pytest.raises(ResumeRefused, match=r"other options .*--restart"):
            embed_file(mine, out, lambda p: open_tiny(2), options)
    with pytest.raises(ResumeRefused, match="begun with desk@2, not desk@1"):
        embed_file(mine, out, lambda p: open_tiny(1), OPTIONS)
    mine.write_bytes(source.read_bytes().replace(b"odd", b"ODD"))
    with pytest.raises(ResumeRefused, match="other bytes"):
        embed_file(mine, out, lambda p: open_tiny(2), OPTIONS)
    mine.write_bytes(source.read_bytes())  # a new time stamp, but the same bytes
    assert embed_file(mine, out, lambda p: open_tiny(2), OPTIONS).resumed >= FIRST_ROWS
    assert pq.read_table(out).equals(pq.read_table(uninterrupted))


def test_restart_forgets_and_a_torn_state_asks_for_it(
    tmp_path: Path, source: Path, open_tiny: Opens, uninterrupted: Path
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(Cut):
        embed_file(source, out, lambda p: open_tiny(1), OPTIONS, engine=cut_after(2))
    (Folder(out).path / "state.json").write_bytes(b"[]")
    with pytest.raises(ResumeRefused, match="--restart"):
        embed_file(source, out, lambda p: open_tiny(2), OPTIONS)
    assert embed_file(source, out, lambda p: open_tiny(2), OPTIONS, restart=True).resumed == 0
    assert pq.read_table(out).equals(pq.read_table(uninterrupted))


def test_two_runs_never_write_the_same_output(tmp_path: Path, source: Path, open_tiny: Opens) -> None:
    out = tmp_path / "out.parquet"

    def engine(task: Task, model: Model, open_model: OpenModel, tick: Tick) -> Iterator[Done]:
        with pytest.raises(ResumeRefused, match="another run"):
            embed_file(source, out, lambda p: open_tiny(2), OPTIONS)
        raise Cut
        yield

    with pytest.raises(Cut):
        embed_file(source, out, lambda p: open_tiny(2), OPTIONS, engine=engine)


def test_a_refused_run_leaves_the_folder_of_the_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out.parquet")
    with folder.locked():
        with pytest.raises(ResumeRefused, match="another run"), Folder(folder.out).locked():
            pytest.fail("two runs hold the same folder")
        assert folder.path.is_dir(), "empty as yet, but in use"
    assert not folder.path.exists()


def test_a_lock_on_a_folder_that_was_removed_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the run before removes its folder between the opening and the locking of this one."""
    folder, real, locks = Folder(tmp_path / "out.parquet"), fcntl.flock, 0

    def late(handle: int, operation: int) -> None:
        nonlocal locks
        locks += 1
        if locks == 1:
            folder.path.rmdir()
        real(handle, operation)

    monkeypatch.setattr("encoder.bulk.parts.fcntl.flock", late)
    with folder.locked():
        assert locks == 2
        with pytest.raises(ResumeRefused, match="another run"), Folder(folder.out).locked():
            pytest.fail("two runs hold the same folder")


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_somebody_else_is_refused_and_kept(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes, restart: bool
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["one"])
    folder = Folder(tmp_path / "out.parquet")
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileRefused, match=r"out\.parquet\.parts .* no run wrote"):
        embed_file(source, folder.out, lambda p: open_tiny(), Options(), restart=restart)
    assert (folder.path / "thesis.txt").read_text() == "years of work"
    assert not folder.out.exists()


def test_parts_without_a_state_are_not_taken_up(tmp_path: Path, source: Path, open_tiny: Opens) -> None:
    """As where a run is killed while it clears what another one left."""
    out = tmp_path / "out.parquet"
    with pytest.raises(Cut):
        embed_file(source, out, lambda p: open_tiny(1), OPTIONS, engine=cut_after(2))
    (Folder(out).path / "state.json").unlink()
    assert embed_file(source, out, lambda p: open_tiny(2), OPTIONS).resumed == 0


def test_an_input_that_grows_meanwhile_is_not_published(
    tmp_path: Path, source: Path, open_tiny: Opens, write_jsonl: Writes
) -> None:
    mine = write_jsonl(tmp_path / "in.jsonl", ["one", "two"])

    def engine(task: Task, model: Model, open_model: OpenModel, tick: Tick) -> Iterator[Done]:
        with mine.open("a") as file:
            file.write('{"text": "three"}\n')
        yield from local(task, model, open_model, tick)

    with pytest.raises(FileRefused, match="changed while it was embedded"):
        embed_file(mine, tmp_path / "out.parquet", lambda p: open_tiny(), Options(), engine=engine)
    assert not (tmp_path / "out.parquet").exists()


def test_a_row_found_too_long_late_loses_nothing_that_was_done(
    tmp_path: Path, open_tiny: Opens, write_jsonl: Writes, sentences: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a tokenizer that makes several tokens of a byte, which the first look does not see."""
    texts = sentences(2 * WINDOW_ROWS - FIRST_ROWS)  # whole windows
    source = write_jsonl(tmp_path / "in.jsonl", [*texts, "long " * 400, "last"])
    out = tmp_path / "out.parquet"
    monkeypatch.setattr("encoder.bulk.survey.too_long", lambda block, tokenizer: [])
    with pytest.raises(RowsRefused, match=rf"row {len(texts) + 1} .*256 tokens.*goes on"):
        embed_file(source, out, lambda p: open_tiny(), Options())
    with pytest.raises(ResumeRefused):
        embed_file(source, out, lambda p: open_tiny(), Options(base=True, truncate=True))
    summary = embed_file(source, out, lambda p: open_tiny(), Options(on_error=OnError.NULL))
    assert summary.resumed == len(texts)
    assert pq.read_table(out)["embedding"].null_count == 1
    assert summary.embedded == len(texts) + 1


def test_a_survey_and_options_survive_the_state_file() -> None:
    schema = pa.schema([pa.field("a", pa.list_(pa.int64())), pa.field("b", pa.string(), nullable=False)])
    found = Survey(7, 2, [BadRow(1, None, "has no text"), BadRow(3, 4, "is not JSON")], schema)
    assert Survey.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for options in (Options(), Options(keep=None), Options(keep=("a",), id_column="b", on_error=OnError.NULL)):
        assert Options.from_dict(json.loads(json.dumps(options.to_dict()))) == options


COMMAND = [sys.executable, "-m", "cli", "embed", "--provider", "cpu", "--json"]


def command(home: Home, source: Path, out: Path, *more: str) -> list[str]:
    return [*COMMAND, str(source), "--out", str(out), "--data-dir", str(home.data_dir), *more]


def test_killed_at_any_moment_a_run_ends_with_every_row_once(
    tmp_path: Path, own_tiny: Home, source: Path, uninterrupted: Path
) -> None:
    chance = random.Random(os.environ.get("DRIFTLINE_TEST_SEED", "7"))
    out = tmp_path / "out.parquet"
    run = command(own_tiny, source, out, "--model", "desk@2", "--id-column", "id")
    folder = Folder(out).path
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        had = len(list(folder.glob("part-*"))) if folder.exists() else 0
        wanted = had + chance.choice((0, 1, 2))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if folder.exists() and (folder / "state.json").exists() and len(list(folder.glob("part-*"))) >= wanted:
                break
            time.sleep(0.005)
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
    assert kills >= 2, "the runs were killed while they were at work"
    last = subprocess.run(run, capture_output=True, text=True, timeout=240)
    assert last.returncode == 0, last.stderr
    summary = json.loads(last.stdout)
    assert summary["rows"] == summary["embedded"] == ROWS
    assert summary["resumed_rows"] or summary["already_done"]
    table = pq.read_table(out)
    assert table["row"].to_pylist() == list(range(1, summary["rows"] + 1))
    assert table.equals(pq.read_table(uninterrupted))
    assert not folder.exists()


def test_memory_does_not_grow_with_the_file(tmp_path: Path, own_tiny: Home) -> None:
    peaks = []
    for rows in (20_000, 160_000):
        source = tmp_path / f"{rows}.jsonl"
        with source.open("w") as file:
            file.writelines(f'{{"text": "row {i}", "note": "{"x" * 300}"}}\n' for i in range(rows))
        run = command(own_tiny, source, tmp_path / f"{rows}.parquet", "--keep-all", "--threads", "1")
        process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert summary["embedded"] == rows
        peaks.append(usage.ru_maxrss / 1024)
    assert peaks[1] < peaks[0] + 60, f"{peaks} MiB: the larger file adds 45 MB of texts and 10 MB of vectors"
