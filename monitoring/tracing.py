"""Traces, where they are asked for: spans go to an OpenTelemetry collector (OTLP over HTTP) in the background.

The only file that knows the library, which is imported when tracing is on and not before. What a span may hold is for
its callers to keep to: names, numbers and ids, never a text, never a key. The providers are our own, not the
library's global ones, so that nothing else in the process starts to report because we do.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from monitoring.errors import TracingUnusable

if TYPE_CHECKING:
    from opentelemetry import trace as otel
    from opentelemetry.sdk.trace.export import SpanExporter

Value = str | int | float | bool

# What a stop waits for a collector; what has not gone by then is lost.
FLUSH_SECONDS: Final = 2.0
# The library's complaints (of a collector that is away) are passed on this often at most.
COMPLAIN_SECONDS: Final = 60.0
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_CHOICES: Final = ("auto", "on", "off")


class Span:
    """One span that has begun. It may be described and ended from any thread."""

    __slots__ = ("_span", "_tracing")

    def __init__(self, tracing: "Tracing", span: "otel.Span") -> None:
        self._tracing = tracing
        self._span = span

    @property
    def recording(self) -> bool:
        """Whether it is to be sent: it was sampled, and has not ended."""
        return self._span.is_recording()

    @property
    def context(self) -> "otel.SpanContext":
        """The library's own identity of the span, for links."""
        return self._span.get_span_context()

    @property
    def ids(self) -> dict[str, str]:
        """`trace_id` (32 hex digits) and `span_id` (16), for log lines."""
        return {"trace_id": f"{self.context.trace_id:032x}", "span_id": f"{self.context.span_id:016x}"}

    @property
    def traceparent(self) -> str:
        """The W3C header value that makes another program's span a child of this one."""
        context = self.context
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"

    def describe(self, attributes: Mapping[str, Value], name: str | None = None) -> None:
        """Add attributes, and perhaps give it another name."""
        self._span.set_attributes(attributes)
        if name is not None:
            self._span.update_name(name)

    def link(self, other: "Span") -> None:
        """Point to a span of another trace, or elsewhere in this one."""
        self._span.add_link(other.context)

    def fail(self, error: str | None) -> None:
        """Mark it as failed, with the type of what went wrong; a message may hold a text, so none is taken."""
        self._span.set_status(self._tracing.status_error)
        if error is not None:
            self._span.set_attribute("error.type", error)

    def child(self, name: str, attributes: Mapping[str, Value] | None = None, *, began: float | None = None) -> "Span":
        """A span within this one; `began` is a time on `time.monotonic`, now by default."""
        return self._tracing.begin(name, attributes, parent=self, began=began)

    def end(self, at: float | None = None) -> None:
        """End it, at a time on `time.monotonic`, now by default."""
        self._span.end(None if at is None else _epoch_ns(at))


class Tracing:
    """The spans of one program, on their way to a collector.

    A bounded queue and a thread stand between: a collector that is slow or away costs the spans that do not fit, and
    nobody any time. Endpoint, headers, sampler and queue are set by the standard OTEL_… variables.

    Args:
        program: Name of the program, `service.name`, where OTEL_SERVICE_NAME gives no other.
        version: Of the program, `service.version`.
        complain: Told now and then which part of the library is in trouble; called from any thread.

    Raises:
        TracingUnusable: The library is not installed, or one of its variables has a value that cannot be used.
    """

    def __init__(self, program: str, version: str, complain: Callable[[str], None]) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._exporter = otlp_exporter()
        except ImportError:
            raise TracingUnusable(
                "tracing is asked for (DRIFTLINE_TRACING, or OTEL_EXPORTER_OTLP_ENDPOINT is set), but OpenTelemetry is "
                "not installed. Run: pip install 'driftline[trace]', or set DRIFTLINE_TRACING=off"
            ) from None
        self._trace = trace
        self.status_error = trace.StatusCode.ERROR
        self._propagator = TraceContextTextMapPropagator()
        self._complaints = _Complaints(complain)
        try:
            self._processor = BatchSpanProcessor(self._exporter)
            resource = Resource.create(
                {"service.name": os.environ.get("OTEL_SERVICE_NAME") or program, "service.version": version}
            )
            sampled = TracerProvider(resource=resource, shutdown_on_exit=False)
            # For what is only begun because a span that is kept asks for it: its own dice would lose it.
            always = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        except ValueError:
            self._exporter.shutdown()
            self._complaints.close()
            raise TracingUnusable(
                "tracing is asked for, but a variable of OpenTelemetry (OTEL_BSP_… or OTEL_SPAN_…) has a value that "
                "cannot be used"
            ) from None
        for provider in (sampled, always):
            provider.add_span_processor(self._processor)
        self._sampled = sampled.get_tracer("driftline", version)
        self._always = always.get_tracer("driftline", version)

    def begin(
        self,
        name: str,
        attributes: Mapping[str, Value] | None = None,
        *,
        parent: Span | Mapping[str, str] | None = None,
        server: bool = False,
        began: float | None = None,
    ) -> Span:
        """Begin a span.

        Args:
            parent: A span, or the W3C headers `traceparent` and `tracestate` of one elsewhere; what is no valid header
                is as none. Without a parent a trace begins.
            server: Whether it answers a caller.
            began: When, on `time.monotonic`; now by default.
        """
        if isinstance(parent, Span):
            context = self._trace.set_span_in_context(parent._span)
        else:  # of nothing it makes an empty context; none at all would mean what the caller's own holds
            context = self._propagator.extract(parent or {})
        kind = self._trace.SpanKind.SERVER if server else self._trace.SpanKind.INTERNAL
        start = None if began is None else _epoch_ns(began)
        return Span(self, self._sampled.start_span(name, context, kind=kind, attributes=attributes, start_time=start))

    def gather(
        self, name: str, spans: Sequence[Span], attributes: Mapping[str, Value] | None = None, *, began: float
    ) -> Span:
        """Begin a trace of its own for work that several spans share, with a link to each; they should be recording."""
        root = self._propagator.extract({})
        links = [self._trace.Link(span.context) for span in spans]
        started = self._always.start_span(name, root, attributes=attributes, links=links, start_time=_epoch_ns(began))
        return Span(self, started)

    def close(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Send what has ended, for so long at most (blocking); False when it took longer and some of it was lost."""
        sender = threading.Thread(target=self._processor.shutdown, name="driftline-trace-flush", daemon=True)
        sender.start()
        sender.join(seconds)
        sent = not sender.is_alive()
        if not sent:  # the library would go on trying for half a minute
            self._exporter.shutdown()
        self._complaints.close()
        return sent


class _Complaints(logging.Handler):
    """Passes on that the library complains, without its words: they may hold the collector's address."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._complain = complain
        self._quiet_until = 0.0
        self._library = logging.getLogger("opentelemetry")
        self._propagated, self._library.propagate = self._library.propagate, False
        self._library.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one complaint on, unless one was shortly before."""
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + COMPLAIN_SECONDS
            self._complain(record.name)

    def close(self) -> None:
        """Leave the library's log as it was found."""
        self._library.removeHandler(self)
        self._library.propagate = self._propagated
        super().close()


def open_tracing(choice: str, program: str, version: str, complain: Callable[[str], None]) -> Tracing | None:
    """The program's tracing; None where it is not asked for.

    Args:
        choice: `on`, `off`, or `auto`: on where a standard variable names a collector.
        program, version, complain: As `Tracing` takes them.

    Raises:
        TracingUnusable: It is asked for and cannot be, or `choice` is none of the three.
    """
    if choice not in _CHOICES:
        raise TracingUnusable("DRIFTLINE_TRACING must be auto, on or off")
    if choice == "off" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if choice == "auto" and (
        _first(_ENDPOINTS) is None or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    ):
        return None
    protocol = _first(_PROTOCOLS)
    if protocol not in (None, "http/protobuf"):
        raise TracingUnusable(
            "traces are sent by OTLP over HTTP: set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL to http/protobuf and give the "
            "collector's HTTP port (4318 as a rule), or set DRIFTLINE_TRACING=off"
        )
    if not _is_address(_first(_ENDPOINTS)):
        raise TracingUnusable(
            "OTEL_EXPORTER_OTLP_ENDPOINT is no address of a collector; it must look like http://HOST:4318"
        )
    return Tracing(program, version, complain)


def otlp_exporter() -> "SpanExporter":
    """What sends spans to the collector that the standard variables name."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _first(names: Sequence[str]) -> str | None:
    """The first of the variables that is set to something."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _is_address(address: str | None) -> bool:
    if address is None:
        return True  # the library's default: this machine's port 4318
    try:
        parts = urlsplit(address)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 4318) > 0
    except ValueError:  # of a port that is none
        return False


def _epoch_ns(monotonic: float) -> int:
    """Nanoseconds since 1970 of a time on `time.monotonic`, in seconds."""
    return time.time_ns() - round((time.monotonic() - monotonic) * 1e9)
