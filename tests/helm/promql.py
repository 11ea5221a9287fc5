"""What an expression of PromQL asks for: its metrics, each with the labels it is narrowed by. Not a parser: promtool
judges the grammar, this only finds names."""

import re
from pathlib import Path
from typing import Any

import yaml

from monitoring.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "helm" / "rules").glob("*.yaml"))
# Labels that scraping adds, and what Prometheus makes by itself.
OF_TARGETS = {"job", "instance", "pod"}
OF_PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate"}}

_TEXT = re.compile(r'"(?:\\.|[^"\\])*"')
_LABEL_LISTS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_RANGES = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?(?!\s*\(|[a-zA-Z0-9_:])")
_WORDS = {"and", "or", "unless", "bool", "by", "without", "on", "ignoring", "offset", "inf", "nan"}


def asked(expr: str) -> list[tuple[str, set[str]]]:
    """Every metric of an expression with the labels that select its series."""
    plain = _TEXT.sub('""', expr)
    plain = _RANGES.sub(" ", _LABEL_LISTS.sub(" ", plain))
    found = []
    for name, selector in _SELECTOR.findall(plain):
        if name.lower() not in _WORDS:
            found.append((name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))))
    return found


def grouped(expr: str) -> set[str]:
    """Every label of the lists after by, without, on and ignoring."""
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expr)
    return {label.strip() for labels in lists for label in labels.split(",") if label.strip()}


def rules() -> list[dict[str, Any]]:
    """Every recording and alerting rule that is shipped."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def known() -> dict[str, set[str]]:
    """Every series there can be with its own labels: of the service, of the rules, of Prometheus."""
    found: dict[str, set[str]] = dict(OF_PROMETHEUS)
    for instrument in Metrics().catalogue:
        labels = set(instrument.labels)
        if instrument.kind == "histogram":
            found |= {f"{instrument.name}_bucket": labels | {"le"}}
            found |= {f"{instrument.name}_{part}": labels for part in ("sum", "count")}
        else:
            found[instrument.name] = labels
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = set(re.split(r"_(?!$)", rule["record"].split(":")[0])) | {"adapter"}
    return found


def unknown(expr: str) -> list[str]:
    """What an expression asks for that there cannot be."""
    series = known()
    labels_of_all = OF_TARGETS.union(*series.values())
    problems = [f"label {label}" for label in sorted(grouped(expr) - labels_of_all)]
    for name, labels in asked(expr):
        if name not in series:
            problems.append(f"metric {name}")
        else:
            problems += [f"label {label} of {name}" for label in sorted(labels - series[name] - OF_TARGETS)]
    return problems
