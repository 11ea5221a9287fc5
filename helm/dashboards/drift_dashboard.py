"""The dashboard of drift, for one adapter: does its monitor watch, what has it found, and what follows from it."""

from panels import ADAPTER, BLUE, GREEN, RED, YELLOW, Panel, Query, Row, dashboard


def _largest(metric: str, *by: str, labels: str = ADAPTER) -> str:
    """A gauge that every replica shows alike, once."""
    return f"max by ({', '.join(by)}) ({metric}{{{labels}}})"


UP = Row(
    "Is the monitor up",
    [
        Panel(
            title="State", text="Of the monitor of the live version.", kind="stat", width=4, height=6,
            queries=[Query(_largest("driftline_drift_state", "state") + " == 1", "{{state}}")],
            levels=[(0, BLUE)], shown="name",
        ),
        Panel(
            title="Since the last reading", text="Long without traffic is no fault; long with traffic is one.",
            kind="stat", unit="s", width=4, height=6, levels=[(0, GREEN), (1800, YELLOW)],
            queries=[Query(f"time() - {_largest('driftline_drift_reading_timestamp_seconds', 'adapter')}", "reading")],
        ),
        Panel(
            title="Reference", text="What the traffic is held against: items to calibrate on, and their rarest share.",
            kind="table", width=6, height=6, hidden=("Value",),
            queries=[Query(_largest("driftline_drift_reference_info", "version", "reference", "n_cal", "alpha0"))],
        ),
        Panel(
            title="Age of the reference", text="Since it was made.", kind="stat", unit="s", width=4, height=6,
            queries=[
                Query(
                    f"time() - {_largest('driftline_drift_reference_created_timestamp_seconds', 'adapter')}", "age"
                )
            ],
            levels=[(0, GREEN), (90 * 86_400, YELLOW)],
        ),
        Panel(
            title="Observations between two false alarms",
            text="Stated, and measured on the part of the reference that was kept for it. Below half of the stated, "
            "the monitor is not calibrated.",
            kind="bargauge", width=6, height=6, levels=[(0, BLUE)],
            queries=[Query(_largest("driftline_drift_run_length", "kind"), "{{kind}}")],
        ),
    ],
)  # fmt: skip

FAST = Row(
    "Is the monitor fast enough",
    [
        Panel(
            title="Evidence a second", text="Vectors scored, and those that the shared state has taken in.",
            kind="timeseries", unit="short", least=0, width=12, height=7,
            queries=[
                Query(f"sum(rate(driftline_drift_observations_total{{{ADAPTER}}}[$__rate_interval]))", "scored"),
                Query(f"sum(rate(driftline_drift_evidence_total{{{ADAPTER}}}[$__rate_interval]))", "taken in"),
            ],
        ),
        Panel(
            title="No evidence", text="A second: one request, session or text counts only so often; sampled and behind "
            "where traffic is busier than the monitor.",
            kind="timeseries", unit="short", least=0, width=12, height=7,
            queries=[
                Query(
                    "sum by (reason) "
                    f"(rate(driftline_drift_skipped_observations_total{{{ADAPTER}}}[$__rate_interval]))",
                    "{{reason}}",
                )
            ],
        ),
    ],
)  # fmt: skip

DRIFTING = Row(
    "Is it drifting",
    [
        Panel(
            title="Alarm", text="Latched until it is acknowledged or another version is live; act: large enough.",
            kind="state-timeline", width=24, height=4,
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
            title="Evidence", text="Logarithm of the evidence of each detector; dashed is the line that it alone would "
            "have to cross. The highest ones name what moved.",
            kind="timeseries", width=12, height=9, dashed="line.*",
            queries=[
                Query(f"topk(8, {_largest('driftline_drift_evidence_log', 'detector')})", "{{detector}}"),
                Query(_largest("driftline_drift_evidence_log_threshold", "detector"), "line {{detector}}"),
            ],
        ),
        Panel(
            title="Statistics", text="Over their lines: above 1 a window, or a moving average, is significant.",
            kind="timeseries", width=6, height=9,
            queries=[
                Query(
                    f"{_largest('driftline_drift_statistic', 'statistic')} / "
                    f"{_largest('driftline_drift_statistic_threshold', 'statistic')}",
                    "{{statistic}}",
                )
            ],
        ),
        Panel(
            title="Effect sizes", text="Over what an action needs: below 1 a change is real, but small.",
            kind="timeseries", width=6, height=9,
            queries=[
                Query(
                    f"{_largest('driftline_drift_effect_size', 'measure')} / "
                    f"{_largest('driftline_drift_effect_size_threshold', 'measure')}",
                    "{{measure}}",
                )
            ],
        ),
        Panel(
            title="Novelty by segment", text="Share of the texts that are as unlike the reference as its rarest items.",
            kind="timeseries", unit="percentunit", least=0,
            queries=[
                Query(
                    f"adapter_segment:driftline_drift_novel_per_observations:ratio_increase15m{{{ADAPTER}}}",
                    "{{segment}}",
                )
            ],
        ),
        Panel(
            title="p-values of the last hour", text="Share at or below each edge. While traffic is like the reference "
            "it is the edge itself.",
            kind="bargauge", unit="percentunit", least=0, most=1, levels=[(0, BLUE)],
            queries=[
                Query(f"sort(adapter_le:driftline_drift_novelty_pvalue:ratio_increase1h{{{ADAPTER}}})", "{{le}}")
            ],
        ),
        Panel(
            title="Moved between neighbourhoods", text="Total variation of an hour's traffic from the reference; "
            "dashed is what chance alone gives.",
            kind="timeseries", unit="percentunit", least=0, dashed="chance.*",
            queries=[
                Query(f"adapter:driftline_drift_occupancy_tv:increase1h{{{ADAPTER}}}", "moved"),
                Query(f"adapter:driftline_drift_occupancy_tv_chance:increase1h{{{ADAPTER}}}", "chance"),
            ],
        ),
        Panel(
            title="Neighbourhoods", text="Share of an hour's traffic in each, over the reference's: 1 where nothing "
            "changed. GET /admin/drift/{adapter} has their labels and medoids.",
            kind="heatmap", width=16, height=12,
            queries=[
                Query(
                    f"adapter_cell:driftline_drift_cell_occupancy:ratio_increase1h{{{ADAPTER}}}"
                    f" / adapter_cell:driftline_drift_reference_cell:ratio{{{ADAPTER}}}",
                    "{{cell}}",
                )
            ],
        ),
        Panel(
            title="Moved most", text="Change of the share of an hour's traffic, largest first.", kind="table",
            unit="percentunit", width=8, height=12, hidden=("job", "adapter"),
            queries=[
                Query(
                    "topk(10, abs("
                    f"adapter_cell:driftline_drift_cell_occupancy:ratio_increase1h{{{ADAPTER}}}"
                    f" - adapter_cell:driftline_drift_reference_cell:ratio{{{ADAPTER}}}))"
                )
            ],
        ),
        Panel(
            title="Neighbourhoods, chi-square", text="Over its degrees of freedom, recomputed from all replicas' "
            "counts: near 1 while nothing changes.",
            kind="timeseries", least=0, width=12, height=7,
            queries=[
                Query(f"adapter:driftline_drift_occupancy_chi2_per_df:increase1h{{{ADAPTER}}}", "{{adapter}}")
            ],
        ),
        Panel(
            title="Alarms raised", text="A day, by statistic.", kind="timeseries", least=0, width=12, height=7,
            queries=[
                Query(
                    f"sum by (statistic) (increase(driftline_drift_alarms_total{{{ADAPTER}}}[1d]))", "{{statistic}}"
                )
            ],
        ),
    ],
)  # fmt: skip

TRAINING = Row(
    "Is training healthy",
    [
        Panel(
            title="Probes, same version", text="Largest difference of probe vectors from those recorded at publishing; "
            "above 0.001 a library, the machine or an artifact has changed.",
            kind="timeseries", least=0, dashed="line",
            queries=[
                Query(_largest("driftline_probe_difference", "adapter"), "difference"),
                Query("vector(0.001)", "line"),
            ],
        ),
        Panel(
            title="Probes, other version", text="Share of a probe's nearest neighbours that two versions have in "
            "common (low: rebuild indexes that were made with the other one).",
            kind="bargauge", unit="percentunit", least=0, most=1, levels=[(0, RED), (0.6, GREEN)],
            queries=[Query(_largest("driftline_probe_overlap_ratio", "other", "k"), "{{other}}, {{k}} neighbours")],
        ),
        Panel(
            title="Since the last job", text="By how it ended.", kind="table", unit="s", hidden=("job",),
            queries=[Query(f"time() - adapter_state:driftline_last_job_timestamp_seconds:max{{{ADAPTER}}}")],
        ),
        Panel(
            title="Rollout, disagreement", text="Of candidate and live version, with bounds; all processes together.",
            kind="timeseries", unit="percentunit", least=0, width=12, dashed=".*(lower|upper)",
            queries=[Query(_largest("driftline_rollout_disagreement", "measure", "bound"), "{{measure}} {{bound}}")],
        ),
        Panel(
            title="Rollout, faults", text="Requests that failed or were slow with the candidate, with bounds.",
            kind="timeseries", unit="percentunit", least=0, width=12, dashed=".*(lower|upper)",
            queries=[Query(_largest("driftline_rollout_fault_ratio", "measure", "bound"), "{{measure}} {{bound}}")],
        ),
    ],
)  # fmt: skip

DRIFT = dashboard(
    "driftline-drift",
    "Driftline / Drift",
    "One adapter: does its monitor watch, is its traffic drifting and where, and what follows from it.",
    [UP, FAST, DRIFTING, TRAINING],
    many_adapters=False,
)
