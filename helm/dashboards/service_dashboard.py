"""The dashboard of the service: is it up, is it fast, is it drifting, is training healthy."""

from panels import ADAPTER, GREEN, JOB, RED, YELLOW, Panel, Query, Row, dashboard


def _quantiles(metric: str, *, by: str = "") -> list[Query]:
    """Median and 99th percentile of a histogram over all replicas."""
    groups, legend = ("le", "") if not by else (f"le, {by}", f"{{{{{by}}}}} ")
    return [
        Query(
            f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{JOB}}}[$__rate_interval])))",
            f"{legend}{word}",
        )
        for q, word in ((0.5, "median"), (0.99, "99 %"))
    ]


def _rate(metric: str, *, by: str = "", labels: str = JOB) -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{labels}}}[$__rate_interval]))"


UP = Row(
    "Is it up",
    [
        Panel(
            title="Replicas", text="Replicas with a loaded model that Prometheus can scrape.", kind="stat", width=3,
            queries=[Query(f"count(count by (job, instance) (driftline_build_info{{{JOB}}}))", "replicas")],
            levels=[(0, RED), (1, GREEN)], height=6,
        ),
        Panel(
            title="Alerts", text="What fires now; docs/alerts.md says what to do.", kind="table", width=9, height=6,
            queries=[Query('ALERTS{alertname=~"Driftline.*", alertstate="firing"}')], hidden=("Value", "alertstate"),
        ),
        Panel(
            title="Live versions", text="What each adapter's name points to.", kind="table", width=6, height=6,
            queries=[Query(f"max by (adapter, version) (driftline_live_version_info{{{ADAPTER}}})")],
            hidden=("Value",),
        ),
        Panel(
            title="What runs", text="Release, backbone and arithmetic of the replicas.", kind="table", width=6,
            queries=[Query(f"count by (version, backbone, provider, precision) (driftline_build_info{{{JOB}}})")],
            height=6,
        ),
        Panel(
            title="Requests", text="Answers a second by status.", kind="timeseries", unit="reqps", least=0,
            queries=[Query(_rate("driftline_requests_total", by="status"), "{{status}}")],
        ),
        Panel(
            title="Failed and refused", text="Shares of what callers ask; probes and scrapes are left out.",
            kind="timeseries", unit="percentunit", least=0,
            queries=[
                Query(f"job:driftline_requests_failed:ratio_rate5m{{{JOB}}}", "failed"),
                Query(f"job:driftline_requests_refused:ratio_rate5m{{{JOB}}}", "refused for load"),
            ],
        ),
        Panel(
            title="Versions that went live or could not be loaded", text="Over an hour, by replica.",
            kind="timeseries", least=0,
            queries=[
                Query(
                    f"sum by (adapter, outcome) (increase(driftline_version_swaps_total{{{ADAPTER}}}[1h]))",
                    "{{adapter}} {{outcome}}",
                )
            ],
        ),
    ],
)  # fmt: skip

FAST = Row(
    "Is it fast",
    [
        Panel(
            title="Seconds to the answer", text="By route, over all replicas.", kind="timeseries", unit="s", least=0,
            queries=[
                Query(f"route:driftline_request_seconds:p50_rate5m{{{JOB}}} >= 0", "{{route}} median"),
                Query(f"route:driftline_request_seconds:p99_rate5m{{{JOB}}} >= 0", "{{route}} 99 %"),
            ],
        ),
        Panel(
            title="Texts", text="Texts embedded a second, by the model that was asked for.", kind="timeseries",
            queries=[Query(_rate("driftline_texts_total", by="model"), "{{model}}")], least=0,
        ),
        Panel(
            title="Seconds in the queue", text="Of the oldest text of a batch.", kind="timeseries", unit="s", least=0,
            queries=_quantiles("driftline_queue_seconds"),
        ),
        Panel(
            title="Seconds of a batch", text="What the runtime took.", kind="timeseries", unit="s", least=0,
            queries=_quantiles("driftline_batch_seconds"),
        ),
        Panel(
            title="Work that waits", text="Tokens in the queues, and requests without their answer.",
            kind="timeseries", least=0,
            queries=[
                Query(f"sum(driftline_queue_tokens{{{JOB}}})", "tokens"),
                Query(f"sum(driftline_requests_in_flight{{{JOB}}})", "requests"),
            ],
        ),
        Panel(
            title="Refused and left", text="Requests refused for load, and callers who left before their answer.",
            kind="timeseries", unit="reqps", least=0,
            queries=[
                Query(_rate("driftline_queue_refused_requests_total", by="reason"), "{{reason}}"),
                Query(_rate("driftline_dropped_callers_total"), "caller left"),
            ],
        ),
        Panel(
            title="Cache", text="Share of the texts whose vector was known: in this process, in the shared server.",
            kind="timeseries", unit="percentunit", least=0, most=1,
            queries=[
                Query(
                    f"{_rate('driftline_cache_hits_total')} / "
                    f"({_rate('driftline_cache_hits_total')} + {_rate('driftline_cache_misses_total')})",
                    "own cache",
                ),
                Query(
                    f"{_rate('driftline_shared_cache_hits_total')} / "
                    f"({_rate('driftline_shared_cache_hits_total')} + {_rate('driftline_shared_cache_misses_total')})",
                    "shared server",
                ),
            ],
        ),
        Panel(
            title="Padding", text="Share of computed tokens that were only padding.", kind="timeseries",
            unit="percentunit", least=0, most=1,
            queries=[
                Query(
                    f"{_rate('driftline_padding_tokens_total')} / {_rate('driftline_batch_tokens_sum')}", "padding"
                )
            ],
        ),
        Panel(
            title="Shared server", text="1 while it is asked; 0 while it is left alone because it failed.",
            kind="timeseries", least=0, most=1,
            queries=[Query(f'min(driftline_shared_cache_state{{{JOB}, state="closed"}})', "asked by all replicas")],
        ),
    ],
)  # fmt: skip

DRIFTING = Row(
    "Is it drifting",
    [
        Panel(
            title="Alarms", text="Act: the shift is large enough. Small: it is real, and waits to be acknowledged.",
            kind="stat", height=7,
            queries=[
                Query(
                    f"adapter:driftline_drift_alarm_active:max{{{ADAPTER}}}"
                    f" + adapter:driftline_drift_alarm_actionable:max{{{ADAPTER}}}",
                    "{{adapter}}",
                )
            ],
            levels=[(0, GREEN), (1, YELLOW), (2, RED)], words={"0": "calm", "1": "small", "2": "act"},
        ),
        Panel(
            title="Novelty", text="Share of the texts that are as unlike the reference as its rarest items.",
            kind="timeseries", unit="percentunit", least=0, height=7,
            queries=[
                Query(f"adapter:driftline_drift_novel_per_observations:ratio_increase15m{{{ADAPTER}}}", "{{adapter}}")
            ],
        ),
        Panel(
            title="Neighbourhoods", text="Share of an hour's traffic that moved between them, above what chance gives.",
            kind="timeseries", unit="percentunit", least=0, height=7,
            queries=[
                Query(
                    f"clamp_min(adapter:driftline_drift_occupancy_tv:increase1h{{{ADAPTER}}}"
                    f" - adapter:driftline_drift_occupancy_tv_chance:increase1h{{{ADAPTER}}}, 0)",
                    "{{adapter}}",
                )
            ],
        ),
    ],
)  # fmt: skip

TRAINING = Row(
    "Is training healthy",
    [
        Panel(
            title="Jobs", text="Jobs that wait and run; some that wait while none runs want a worker.",
            kind="timeseries", least=0, width=6,
            queries=[Query(f"state:driftline_jobs:max{{{JOB}}}", "{{state}}")],
        ),
        Panel(
            title="Requests for a retrain", text="By who asked and what became of it, over an hour.", kind="timeseries",
            least=0, width=6,
            queries=[
                Query(
                    f"sum by (source, outcome) (increase(driftline_retrain_requests_total{{{JOB}}}[1h]))",
                    "{{source}}: {{outcome}}",
                )
            ],
        ),
        Panel(
            title="Since the last job", text="By adapter and how it ended.", kind="table", unit="s", width=6,
            queries=[Query(f"time() - adapter_state:driftline_last_job_timestamp_seconds:max{{{ADAPTER}}}")],
            hidden=("job",),
        ),
        Panel(
            title="Rollouts", text="Share of the callers that a candidate answers; 0 in shadow.", kind="timeseries",
            unit="percentunit", least=0, most=1, width=6,
            queries=[Query(f"max by (adapter) (driftline_rollout_share{{{ADAPTER}}})", "{{adapter}}")],
        ),
    ],
)  # fmt: skip

SERVICE = dashboard(
    "driftline-service",
    "Driftline / Service",
    "Is it up, is it fast, is it drifting, is training healthy: all replicas together.",
    [UP, FAST, DRIFTING, TRAINING],
    many_adapters=True,
)
