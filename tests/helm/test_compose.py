"""compose.yaml and what it mounts: each configuration is accepted by the program that will read it."""

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.conftest import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"secrets", "prepare", "service", "worker"}

Program = Callable[..., subprocess.CompletedProcess[str]]


def mounts() -> Iterator[tuple[str, str, str, list[str]]]:
    """Of every service: its name, what is mounted, where, and how."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *how = volume.split(":")
            yield name, source, target, how


def laid_out(service: str, folder: Path) -> Path:
    """A copy of what a service finds of this repository under its own paths."""
    for name, source, target, _ in mounts():
        place = folder / target.lstrip("/")
        if name == service and source.startswith("./"):
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)
    return folder


def test_it_is_all_there() -> None:
    assert set(SERVICES) == OURS | {"postgres", "valkey", "prometheus", "alertmanager", "grafana"}


def test_every_port_is_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_images_are_pinned_and_ours_are_targets_of_the_dockerfile() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    for service in SERVICES.values():
        _, _, tag = service["image"].rpartition(":")
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-\w+)?", tag)
    built = {service["image"]: service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert {SERVICES[name]["image"] for name in OURS} == built.keys()
    assert set(built.values()) <= targets


def test_every_mount_exists_and_what_is_of_the_repository_is_read_only() -> None:
    for name, source, _, how in mounts():
        if source.startswith("./"):
            assert (ROOT / source).exists(), f"{name} mounts {source}"
            assert how == ["ro"], f"{name} could write to {source}"
        else:
            assert source in COMPOSE["volumes"], f"{name} mounts {source}"


def test_our_containers_are_unprivileged_and_cannot_write_their_root() -> None:
    for name in OURS:
        service = SERVICES[name]
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_no_secret_stands_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|PASSFILE", variable):
                assert value.startswith("/keys/") or value == "true", f"{name}: {variable}"
        assert "@" not in str(service.get("command", ""))
    assert SERVICES["service"]["environment"]["DRIFTLINE_DATABASE_URL"].count(":") == 1  # no password in it


def test_what_holds_data_has_no_way_out() -> None:
    assert COMPOSE["networks"]["store"] == {"internal": True}
    for name in ("postgres", "valkey", "worker"):
        assert SERVICES[name]["networks"] == ["store"]


def test_nothing_waits_for_a_state_that_never_comes() -> None:
    for service in SERVICES.values():
        wanted = service.get("depends_on", {})
        for other, how in wanted.items() if isinstance(wanted, dict) else ():
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


def test_promtool_accepts_prometheus_with_the_charts_rules(program: Program, tmp_path: Path) -> None:
    folder = laid_out("prometheus", tmp_path) / "etc" / "prometheus"
    done = program("promtool", "check", "config", "prometheus.yml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = sum(int(n) for n in re.findall(r"(\d+) rules? found", done.stdout))
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (ROOT / "helm" / "rules").glob("*.yaml")]
    assert counted == sum(len(group["rules"]) for file in files for group in file["groups"]) > 0


def test_prometheus_scrapes_the_service_and_tells_the_alertmanager() -> None:
    read = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = [job for job in read["scrape_configs"] if job["job_name"] == "driftline"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) <= SERVICES.keys()
    assert found["port"] == 8080
    (targets,) = read["alerting"]["alertmanagers"][0]["static_configs"]
    assert {target.partition(":")[0] for target in targets["targets"]} <= SERVICES.keys()


@pytest.mark.parametrize("action", ["retrain", "none"])
def test_amtool_accepts_the_alertmanager_and_routes_retrains_to_the_service(program: Program, action: str) -> None:
    file = str(ROOT / "deploy" / "alertmanager.yml")
    checked = program("amtool", "check-config", file)
    assert checked.returncode == 0, checked.stderr
    routed = program(
        "amtool",
        "config",
        "routes",
        "test",
        f"--config.file={file}",
        "alertname=A",
        "adapter=support",
        f"action={action}",
    )
    assert routed.stdout.strip() == ("driftline" if action == "retrain" else "nobody")


def test_some_alert_asks_for_a_retrain_in_the_words_that_are_routed() -> None:
    rules = [
        rule
        for file in (ROOT / "helm" / "rules").glob("*.yaml")
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]
    assert [rule["alert"] for rule in rules if rule.get("labels", {}).get("action") == "retrain"]


def test_the_alertmanager_presents_the_key_that_is_registered() -> None:
    read = yaml.safe_load((ROOT / "deploy" / "alertmanager.yml").read_text(encoding="utf-8"))
    (receiver,) = [r for r in read["receivers"] if "webhook_configs" in r]
    (hook,) = receiver["webhook_configs"]
    assert hook["url"] == "http://service:8080/admin/alerts"
    file = hook["http_config"]["authorization"]["credentials_file"]
    assert f"--key=alertmanager:train={file}" in SERVICES["prepare"]["command"]
    assert SERVICES["alertmanager"]["group_add"] == ["10001"]


def test_grafana_finds_its_source_and_the_dashboards(tmp_path: Path) -> None:
    folder = laid_out("grafana", tmp_path)
    provisioning = folder / "etc" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"].removeprefix("http://").partition(":")[0] in SERVICES
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "driftline.yaml").read_text())["providers"]
    dashboards = sorted((folder / provider["options"]["path"].lstrip("/")).glob("*.json"))
    assert dashboards
    assert len({json.loads(file.read_text(encoding="utf-8"))["uid"] for file in dashboards}) == len(dashboards)


def test_passwords_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    command = ["sh", str(ROOT / "deploy" / "secrets.sh"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=30)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert set(made) == {"postgres", "pgpass"}
    assert made["pgpass"] == f"postgres:5432:*:driftline:{made['postgres']}\n"
    assert len(made["postgres"]) >= 32
    assert all(stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600 for name in made)  # noqa: PTH116
    subprocess.run(command, check=True, timeout=30)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == made
