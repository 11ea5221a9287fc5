"""When traces are sent, when a start is refused, and what a collector that is away costs."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from monitoring.errors import TracingUnusable
from monitoring.tracing import Tracing, open_tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "PROTOCOL", "TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


def opened(choice: str = "auto") -> Tracing | None:
    return open_tracing(choice, "tests", "1", lambda source: None)


@pytest.fixture
def sent(exported) -> Iterator[tuple[Tracing, object]]:
    made = opened("on")
    assert made is not None
    yield made, exported
    made.close()


@pytest.mark.parametrize(
    ("choice", "variables", "on"),
    [
        ("auto", {}, False),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ("on", {}, True),
        ("on", {"OTEL_SDK_DISABLED": "true"}, False),
        ("off", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        # A cluster that sends by gRPC alone is no trouble to a program that sends nothing.
        ("off", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    ],
)
def test_when_it_is_on(choice, variables, on, exported, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = opened(choice)
    assert (made is not None) is on
    if made is not None:
        assert made.close()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector-secret:4318"}, "http://HOST:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@collector:port"}, "http://HOST:4318"),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096", "OTEL_BSP_MAX_QUEUE_SIZE": "16"}, "OTEL_BSP_"),
    ],
)
def test_what_cannot_work_is_refused_at_once_and_shows_no_address(variables, says, exported, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TracingUnusable) as refused:
        opened("on")
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)


def test_an_unknown_choice_is_refused():
    with pytest.raises(TracingUnusable, match="auto, on or off"):
        opened("yes")


def test_without_the_library_the_refusal_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnusable, match=r"driftline\[trace\]"):
        opened("on")


def test_nothing_of_it_is_loaded_while_it_is_off():
    code = """if True:
        import sys, service.app, training.steps
        from monitoring.tracing import open_tracing
        assert open_tracing("auto", "tests", "1", print) is None
        print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_parent_elsewhere_is_continued_and_its_word_on_sampling_kept(sent):
    made, exported = sent
    for flag, kept in (("01", True), ("00", False)):
        span = made.begin(flag, parent={"traceparent": f"{PARENT}-{flag}"})
        assert span.recording is kept
        assert span.ids["trace_id"] == PARENT.split("-")[1]
        assert span.traceparent == f"00-{span.ids['trace_id']}-{span.ids['span_id']}-{flag}"
        span.end()
    made.close()
    assert [(span.name, f"{span.parent.span_id:016x}") for span in exported.get_finished_spans()] == [
        ("01", PARENT.split("-")[2])
    ]


@pytest.mark.parametrize("header", ["", "00-0-0-01", f"ff{PARENT[2:]}-01", f"{PARENT}-01-more", "\x00é", "0" * 9000])
def test_what_is_no_traceparent_begins_a_trace(sent, header):
    made, _ = sent
    span = made.begin("x", parent={"traceparent": header, "tracestate": "a=" + "b" * 60_000})
    assert span.recording
    assert span.ids["trace_id"] != PARENT.split("-")[1]
    span.end()


def test_times_are_those_given(sent):
    made, exported = sent
    before, now = time.time(), time.monotonic()
    span = made.begin("past", began=now - 5)
    span.end(now - 2)
    made.close()
    (found,) = exported.get_finished_spans()
    assert found.end_time - found.start_time == pytest.approx(3e9, abs=5e7)
    assert found.start_time / 1e9 == pytest.approx(before - 5, abs=0.05)


def test_shared_work_is_kept_when_one_who_shares_it_is(exported, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    made = opened("on")
    assert made is not None
    assert not made.begin("own").recording
    kept = made.begin("kept", parent={"traceparent": f"{PARENT}-01"})
    made.gather("shared", [kept], began=time.monotonic()).end()
    kept.end()
    made.close()
    shared, _ = exported.get_finished_spans()
    assert shared.name == "shared"
    assert shared.parent is None
    assert [link.context.span_id for link in shared.links] == [kept.context.span_id]


@pytest.mark.parametrize("backlog", [8, None])
def test_a_collector_that_never_answers_costs_neither_memory_nor_a_long_stop(backlog, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    troubles: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        if backlog is None:  # nobody listens
            silent.close()
        made = open_tracing("auto", "tests", "1", troubles.append)
        assert made is not None
        for _ in range(1000):
            made.begin("x").end()
        assert len(made._processor._batch_processor._queue) <= 64
        began = time.monotonic()
        assert not made.close(0.3)
        assert time.monotonic() - began < 5  # the library itself would try for 30 s
    made._processor._batch_processor._worker_thread.join(15)  # its last try fails now that the server is gone
    assert len(troubles) == 1  # and not one for each span that was dropped


def test_complaints_of_the_library_keep_their_words_to_themselves(exported, capsys, caplog):
    told: list[str] = []
    made = open_tracing("on", "tests", "1", told.append)
    assert made is not None
    library = logging.getLogger("opentelemetry.exporter.somewhere")
    for _ in range(3):
        library.warning("cannot reach http://user:secret@collector")
    assert told == ["opentelemetry.exporter.somewhere"]
    made.close()
    assert "secret" not in caplog.text + "".join(capsys.readouterr())
    assert logging.getLogger("opentelemetry").propagate


def test_the_name_of_a_program_can_be_given(exported, monkeypatch):
    for given, name in ((None, "tests"), ("mine", "mine")):
        if given is not None:
            monkeypatch.setenv("OTEL_SERVICE_NAME", given)
        made = opened("on")
        assert made is not None
        made.begin("x").end()
        made.close()
        attributes = exported.get_finished_spans()[-1].resource.attributes
        assert (attributes["service.name"], attributes["service.version"]) == (name, "1")
        exported._stopped = False  # one exporter for both
