"""Every setting of the service: one frozen object, read from DRIFTLINE_* variables and built once at start."""

import ipaddress
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.home import Home
from service.patience import Patience

MIB = 1024 * 1024


class Settings(BaseSettings):
    """Settings of `driftline serve`; each field is also an environment variable `DRIFTLINE_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="DRIFTLINE_", frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Beyond loopback an API key must exist.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path | None = Field(None, description="Folder of registry, artifacts and work files.")
    database_url: str | None = Field(None, description="Registry database; SQLite in the data folder by default.")
    artifacts_url: str | None = Field(
        None,
        description="Object store that artifacts are kept in, such as s3://bucket/prefix, for programs that "
        "share no disk; credentials come from the provider's own variables (AWS_…); needs the extra `s3`.",
    )
    worker: bool = Field(True, description="Start and supervise the training worker as a child process.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Further Host names accepted while no key exists (loopback names always are)."
    )

    provider: str = Field("auto", description="Execution provider; `auto` measures and takes the fastest exact one.")
    precision: str = Field("auto", description="Arithmetic of the backbone: auto, fp32, bf16, or int8.")
    threads: int | None = Field(None, ge=1, description="Threads of the runtime; by default one a core.")
    streams: int | None = Field(None, ge=1, description="Batches computed at once; by default what measures best.")
    max_batch_tokens: int = Field(
        512, ge=1, description="Padded tokens in one batch of the runtime; a GPU wants 8192 or more."
    )
    queue_tokens: int = Field(300_000, ge=1, description="Tokens that may wait; beyond it callers get 429.")
    queue_seconds: float = Field(
        0.2,
        gt=0,
        description="Longest wait, at the measured rate, that a small request is let in to, else it gets 429; a large "
        "one may wait 8 times its own work.",
    )
    cache_bytes: int = Field(256 * MIB, ge=0, description="Memory of the cache of base vectors; 0 turns it off.")
    cache_url: SecretStr | None = Field(
        None,
        description="Valkey or Redis server that several services share vectors through: redis://, rediss:// (TLS) or "
        "unix://, with user and password if it wants them; needs the extra `redis`. Requests go on without it when it "
        "is slow or away. Give it a memory limit and an eviction policy such as allkeys-lru.",
    )
    cache_ttl_seconds: int = Field(7 * 86_400, ge=1, description="How long a vector stays in the shared server.")
    cache_timeout_ms: int = Field(
        30, ge=1, le=1000, description="Most milliseconds one read of the shared server may take."
    )
    cache_salt: SecretStr | None = Field(
        None,
        min_length=16,
        description="Secret that the keys and values in the shared server are made with, the same for all services "
        "that share it: others who reach the server can then neither look texts up nor plant vectors. Set it wherever "
        "the server is not yours alone.",
    )
    resident_adapters: int = Field(
        512, ge=1, description="Adapters whose live version stays in memory; the least recently used goes first."
    )
    pinned_versions: int = Field(16, ge=1, description="Versions beside the live ones that stay loaded.")

    truncate: bool = Field(False, description="Cut over-long texts when a request does not say; else refuse them.")
    default_prompt_name: str | None = Field(
        None, description="Prompt of the backbone, by name, for requests that name none; no prompt by default."
    )
    tei_model: str | None = Field(
        None,
        description="Model of the routes whose clients name none (those of Text Embeddings Inference, rerank); the "
        "default backbone unless set.",
    )
    max_inputs: int = Field(2048, ge=1, description="Texts in one request.")
    max_neighbors: int = Field(20_000, ge=1, description="Texts times k of one /v1/neighbors request.")
    max_request_tokens: int = Field(300_000, ge=1, description="Tokens of one request, all texts together.")
    max_body_bytes: int = Field(8 * MIB, ge=1, description="Body of a request, dataset uploads excepted.")
    max_upload_bytes: int = Field(128 * MIB, ge=1, description="Body of a dataset upload.")
    request_seconds: float = Field(60.0, gt=0, description="Deadline of an embedding request; 504 after it.")

    stuck_seconds: float = Field(
        30.0, gt=0, description="A run of the model that takes longer than this turns /healthz to 503."
    )

    poll_seconds: float = Field(0.5, gt=0, description="How often the registry is asked for changes.")
    header_seconds: float = Field(15.0, gt=0, description="Longest time a request's headers may take to arrive.")
    body_seconds: float = Field(20.0, gt=0, description="Grace of a request's body before its least rate applies.")
    body_rate: float = Field(
        8192, gt=0, description="Bytes a second that a body must reach on average once its grace is over."
    )
    answer_seconds: float = Field(
        60.0, gt=0, description="Longest pause in which a client reads nothing of its answer before it is cut off."
    )
    max_header_bytes: int = Field(64 * 1024, ge=1024, description="Request line and headers together; more gets 431.")
    max_connections: int = Field(4096, ge=1, description="Open connections; one more gets 503.")

    drift_window: int = Field(256, ge=32, description="Vectors that are evidence in one drift reading.")
    drift_arl: int = Field(
        1_000_000, ge=1000, description="Mean vectors that are evidence between two false drift alarms."
    )
    drift_per_request: int = Field(
        16,
        ge=1,
        description="Most vectors of one request, chosen at random, that are evidence for a drift alarm: texts sent "
        "together are seldom independent.",
    )
    drift_per_session: int = Field(
        16,
        ge=1,
        description="Most vectors of one session in a minute that are evidence; a session is named by the header "
        "x-driftline-session or else the field `user`.",
    )
    drift_mode: Literal["sequential", "windows"] = Field(
        "sequential",
        description="sequential: evidence is gathered over all requests, and an alarm is raised as soon as it is "
        "enough. windows: each window of `drift_window` vectors is judged by itself.",
    )
    drift_min_novelty_ratio: float = Field(
        2.0, ge=1, description="An alarm calls for action from so many times the expected rate of novel vectors."
    )
    drift_min_tv: float = Field(
        0.05, ge=0, lt=1, description="Or from this total variation of the neighbourhoods above what chance gives."
    )
    drift_min_auc: float = Field(
        0.6, ge=0.5, lt=1, description="Or when a classifier tells new from old with this area under its curve."
    )
    drift_readings: int = Field(10_000, ge=1, description="Drift readings kept of each version; older ones go.")
    drift_rate: float = Field(
        150.0,
        gt=0,
        description="Vectors a second that the drift monitor takes of busy traffic, at random; a thousand at once "
        "after quieter times.",
    )
    drift_queue: int = Field(16_384, ge=1, description="Vectors that may wait for the drift monitor; more are dropped.")
    retained_texts: int = Field(
        5_000,
        ge=1,
        description="Most texts kept of an adapter, of callers whose key allows it (`driftline key create "
        "--retain-texts DAYS`; none does by default); the oldest go first.",
    )
    drift_probe_seconds: float = Field(
        3600.0,
        gt=0,
        description="How often the recorded probe texts are encoded once more, to see whether their vectors changed.",
    )
    drift_policy: Literal["off", "retrain"] = Field(
        "off",
        description="retrain: an alarm that calls for a retrain gets one without an Alertmanager, under the limits "
        "that alerts have.",
    )
    alerts_need_effect: bool = Field(
        True,
        description="Whether an alert starts a retrain only where the service's own monitor advises one; false for "
        "alerts that come from elsewhere.",
    )
    retrain_cooldown_seconds: float = Field(
        86_400.0,
        ge=0,
        description="Pause after a retrain of an adapter that an alert or the policy started, unless it failed.",
    )
    retrain_budget: int = Field(
        8, ge=0, description="Retrains that alerts and the policy start in 24 hours at most, of all adapters together."
    )
    rollout_rate: float = Field(
        100.0, gt=0, description="Texts a second that a rollout compares of busy traffic, of requests at random."
    )
    rollout_queue: int = Field(1024, ge=16, description="Texts that may wait to be compared; more are dropped.")

    drain_seconds: float = Field(0.0, ge=0, description="Pause between /readyz going off and the port closing.")
    shutdown_seconds: int = Field(30, ge=1, description="How long requests under way may still take at a stop.")
    tracing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether OpenTelemetry traces are sent; auto: where OTEL_EXPORTER_OTLP_ENDPOINT names a collector. "
        "Needs the extra `trace`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level of log lines.")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal.")

    @field_validator("cache_url")
    @classmethod
    def _reachable(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url.get_secret_value())
            usable = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and (parts.port or 6379) > 0
        except ValueError:  # of a port that is none; its message would show it
            usable = False
        if not usable and not (parts.scheme == "unix" and parts.path):
            raise ValueError("must look like redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss://… or unix://PATH")
        return url

    @property
    def loopback(self) -> bool:
        """Whether the service is bound where only this machine reaches it."""
        return is_loopback(self.host)

    def patience(self) -> Patience:
        """How long a client may take."""
        return Patience(
            header_seconds=self.header_seconds,
            body_seconds=self.body_seconds,
            body_rate=self.body_rate,
            answer_seconds=self.answer_seconds,
            header_bytes=self.max_header_bytes,
            connections=self.max_connections,
        )

    def home(self) -> Home:
        """The data folder, database and object store these settings point to."""
        return Home.at(self.data_dir, self.database_url, self.artifacts_url)


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a host name or address (with or without brackets) is this machine's loopback."""
    bare = host.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False
