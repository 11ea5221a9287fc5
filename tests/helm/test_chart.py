"""The chart: what it renders is valid Kubernetes, restricted, and refuses what cannot work."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.helm.conftest import CHART, Document, Values, values

Render = Callable[[Values], list[Document]]

KUBERNETES = ("1.34", "1.37")
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
EXAMPLES = ("embedded", "distributed")


def with_(base: Values, **changes: Any) -> Values:
    """Values with some of their top-level entries replaced."""
    return {**base, **changes}


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Every pod that the documents describe, by the name of what makes it."""
    for document in documents:
        spec = document if document["kind"] == "Pod" else document.get("spec", {}).get("template")
        if isinstance(spec, dict) and "containers" in spec.get("spec", {}):
            yield document["metadata"]["name"], spec["spec"]


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def one(documents: list[Document], kind: str, name: str = "release-driftline") -> Document:
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_rendered_is_valid_in_the_strict_schemas(render: Render, example: str, version: str) -> None:
    documents = render(values(example))
    plain = [d for d in documents if d["kind"] not in CUSTOM]
    assert len(plain) >= 4
    for document in plain:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_strict_schemas_notice_a_wrong_field(render: Render) -> None:
    document = one(render(values("embedded")), "StatefulSet")
    document["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES[0], strict=True)


@pytest.mark.parametrize("example", EXAMPLES)
def test_helm_lint_finds_nothing_worse_than_a_missing_icon(example: str) -> None:
    found = helm_python.lint(str(CHART), values=values(example), strict=True)
    assert [m for m in found["messages"] if m["error"] != "icon is recommended"] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_pod_meets_the_restricted_standard(render: Render, example: str) -> None:
    found = list(pods(render(values(example))))
    assert {name for name, _ in found} >= {"release-driftline", "release-driftline-test"}
    for name, pod in found:
        security = pod["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {next(iter(v.keys() - {"name"})) for v in pod.get("volumes", [])} <= {"emptyDir", "secret"}
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_secrets_are_references_and_no_secret_is_made(render: Render, example: str) -> None:
    documents = render(values(example))
    assert not [d for d in documents if d["kind"] == "Secret"]
    secret = re.compile(r"DATABASE_URL|CACHE_URL|SALT|KEY|PASSWORD|TOKEN$")
    for _, pod in pods(documents):
        for container in containers(pod):
            for entry in container.get("env", []):
                if secret.search(entry["name"]) and entry["name"] != "DRIFTLINE_QUEUE_TOKENS":
                    assert "secretKeyRef" in entry["valueFrom"], entry["name"]


def test_embedded_is_one_pod_of_service_and_worker_on_one_volume(render: Render) -> None:
    documents = render(values("embedded"))
    assert not [d for d in documents if d["kind"] in {"Deployment", "Job", "PodDisruptionBudget"} | CUSTOM]
    spec = one(documents, "StatefulSet")["spec"]
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    assert [c["name"] for c in containers(pod)] == ["prepare", "service", "worker"]
    for container in containers(pod):
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert (mounts["data"], mounts["tmp"]) == ("/data", "/tmp")
        assert not {"DRIFTLINE_DATABASE_URL", "DRIFTLINE_ARTIFACTS_URL"} & {e["name"] for e in container["env"]}
        assert ("keys" in mounts) == (container["name"] == "prepare")
    assert [t["metadata"]["name"] for t in spec["volumeClaimTemplates"]] == ["data"]


def test_distributed_keeps_no_state_in_serving_pods(render: Render) -> None:
    documents = render(values("distributed"))
    deployment = one(documents, "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert {next(iter(v.keys() - {"name"})) for v in deployment["template"]["spec"]["volumes"]} == {"emptyDir"}
    worker = one(documents, "StatefulSet", "release-driftline-worker")["spec"]
    assert worker["replicas"] == 2
    jobs = one(documents, "Job", "release-driftline-prepare")
    assert jobs["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    for pod in (deployment["template"]["spec"], worker["template"]["spec"], jobs["spec"]["template"]["spec"]):
        (container,) = pod["containers"]
        env = {entry["name"]: entry for entry in container["env"]}
        assert env["DRIFTLINE_ARTIFACTS_URL"]["value"] == "s3://driftline/artifacts"
        assert env["DRIFTLINE_DATABASE_URL"]["valueFrom"]["secretKeyRef"]["name"] == "driftline-database"
        assert container["envFrom"] == [{"secretRef": {"name": "driftline-object-store"}}]
        assert pod["serviceAccountName"] == "driftline"
    worker_env = {e["name"]: e for e in worker["template"]["spec"]["containers"][0]["env"]}
    assert worker_env["DRIFTLINE_WORKER_ID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize("example", EXAMPLES)
def test_probes_ask_what_they_mean_and_a_stop_has_time(render: Render, example: str) -> None:
    given = with_(values(example), shutdown={"preStopSeconds": 7, "requestSeconds": 90})
    pod = dict(pods(render(given)))["release-driftline"]
    service = next(c for c in pod["containers"] if c["name"] == "service")
    assert service["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert service["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert service["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert service["startupProbe"]["periodSeconds"] * service["startupProbe"]["failureThreshold"] >= 180
    assert service["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert {"name": "DRIFTLINE_SHUTDOWN_SECONDS", "value": "90"} in service["env"]
    assert pod["terminationGracePeriodSeconds"] > 7 + 90


def test_settings_become_variables_that_the_service_knows(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = dict(pods(render(values("distributed"))))["release-driftline"]
    (service,) = pod["containers"]
    plain = {entry["name"]: entry["value"] for entry in service["env"] if "value" in entry}
    known = {f"DRIFTLINE_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in (e["name"] for e in service["env"]) if name.startswith("DRIFTLINE_")} <= known
    for name, value in plain.items():
        monkeypatch.setenv(name, value)
    settings = Settings()  # type: ignore[call-arg]
    assert (settings.queue_tokens, settings.truncate, settings.log_level) == (200_000, True, "warning")
    assert settings.allowed_hosts == ("embeddings.example",)
    assert (settings.host, settings.port, settings.worker) == ("0.0.0.0", 8080, False)


def test_a_gpu_changes_the_image_and_asks_for_the_device(render: Render) -> None:
    pod = dict(pods(render(values("distributed"))))["release-driftline"]
    (service,) = pod["containers"]
    assert service["image"].startswith("driftline/service-gpu:")
    assert service["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["runtimeClassName"] == "nvidia"


def test_the_two_ways_to_scale(render: Render) -> None:
    queue = render(values("distributed"))
    trigger = one(queue, "ScaledObject")["spec"]["triggers"][0]
    assert (
        trigger["metadata"]["query"]
        == 'sum(driftline_queue_tokens{namespace="somewhere", service="release-driftline"})'
    )
    assert "replicas" not in one(queue, "Deployment")["spec"]
    cpu = render(with_(values("distributed"), autoscaling={"by": "cpu"}))
    assert one(cpu, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    none = render(with_(values("distributed"), autoscaling={"by": "none"}))
    assert one(none, "Deployment")["spec"]["replicas"] == 3
    assert not [d for d in none if d["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}]


def test_selectors_find_exactly_their_pods(render: Render) -> None:
    documents = render(values("distributed"))
    labels = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"]
        for d in documents
        if d["kind"] in {"Deployment", "StatefulSet", "Job"}
    }

    def found(selector: dict[str, str]) -> set[str]:
        return {name for name, own in labels.items() if selector.items() <= own.items()}

    serving = {"release-driftline"}
    assert found(one(documents, "Service")["spec"]["selector"]) == serving
    assert found(one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]) == serving
    assert found(one(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]) == serving
    everything = one(documents, "NetworkPolicy", "release-driftline-all")["spec"]
    assert found(everything["podSelector"]["matchLabels"]) == labels.keys()
    assert "ingress" not in everything
    assert {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]} in everything["egress"]
    monitor = one(documents, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= one(documents, "Service")["metadata"]["labels"].items()


def test_promtool_accepts_the_rendered_rules_and_all_are_there(
    render: Render, program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    rendered = [d for d in render(values("distributed")) if d["kind"] == "PrometheusRule"]
    sources = sorted((CHART / "rules").glob("*.yaml"))
    assert len(rendered) == len(sources) >= 1
    for source, document in zip(sources, rendered, strict=True):
        assert document["spec"] == yaml.safe_load(source.read_text(encoding="utf-8"))
        assert document["metadata"]["labels"]["release"] == "prometheus"
        file = tmp_path / source.name
        file.write_text(yaml.safe_dump(document["spec"]), encoding="utf-8")
    done = program("promtool", "check", "rules", *map(str, sorted(tmp_path.iterdir())))
    assert done.returncode == 0, done.stderr


def test_every_dashboard_is_a_config_map_for_the_sidecar(render: Render) -> None:
    maps = [d for d in render(values("distributed")) if d["kind"] == "ConfigMap"]
    shipped = {file.name: file.read_text(encoding="utf-8") for file in (CHART / "dashboards").glob("*.json")}
    assert {name: text.strip() for d in maps for name, text in d["data"].items()} == {
        name: text.strip() for name, text in shipped.items()
    }
    assert all(d["metadata"]["labels"]["grafana_dashboard"] == "1" for d in maps)


@pytest.mark.parametrize(
    ("base", "changes", "says"),
    [
        ("embedded", {"replicaCount": 2}, "/replicaCount"),
        ("embedded", {"worker": {"replicaCount": 2}}, "/worker/replicaCount"),
        ("embedded", {"autoscaling": {"by": "cpu"}}, "/autoscaling/by"),
        ("embedded", {"keys": {"existingSecret": ""}}, "/keys/existingSecret"),
        (
            "embedded",
            {"keys": {"existingSecret": "k", "entries": [{"name": "a", "scopes": ["root"], "key": "a"}]}},
            "scopes",
        ),
        ("embedded", {"mode": "both"}, "/mode"),
        ("embedded", {"replicas": 1}, "replicas"),
        ("embedded", {"settings": {"database_url": "postgresql://u:p@h/d"}}, "database_url"),
        ("embedded", {"replicaCount": "1"}, "want integer"),
        ("distributed", {"database": {"existingSecret": ""}}, "/database/existingSecret"),
        ("distributed", {"objectStore": {"url": ""}}, "/objectStore/url"),
        ("distributed", {"objectStore": {"url": "s3://key:secret@bucket"}}, "/objectStore/url"),
        ("distributed", {"objectStore": {"url": "/mnt/shared"}}, "/objectStore/url"),
        ("distributed", {"autoscaling": {"by": "queue"}}, "/autoscaling/prometheusAddress"),
    ],
)
def test_the_schema_refuses_what_cannot_work(render: Render, base: str, changes: Values, says: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(says)):
        render(with_(values(base), **changes))


@pytest.mark.parametrize(
    ("base", "changes", "says"),
    [
        ("embedded", {"replicaCount": 2}, "SQLite on one volume serves one pod"),
        ("embedded", {"worker": {"replicaCount": 2}}, "one worker owns the volume"),
        ("embedded", {"autoscaling": {"by": "cpu"}}, "autoscaling needs mode: distributed"),
        ("embedded", {"keys": {"existingSecret": ""}}, "needs an API key"),
        ("distributed", {"database": {"existingSecret": ""}}, "needs database.existingSecret"),
        ("distributed", {"objectStore": {"url": ""}}, "needs objectStore.url"),
        ("distributed", {"autoscaling": {"by": "queue"}}, "needs autoscaling.prometheusAddress"),
    ],
)
def test_without_its_schema_the_chart_refuses_in_a_sentence(
    tmp_path: Path, base: str, changes: Values, says: str
) -> None:
    bare = tmp_path / "driftline"
    bare.mkdir()
    for name in ("Chart.yaml", "values.yaml"):
        (bare / name).write_bytes((CHART / name).read_bytes())
    (bare / "templates").mkdir()
    for name in ("_helpers.tpl", "embedded.yaml"):
        (bare / "templates" / name).write_bytes((CHART / "templates" / name).read_bytes())
    with helm_python.Chart.load(str(bare)) as chart, pytest.raises(helm_python.HelmRenderError, match=says):
        chart.render(with_(values(base), **changes), name="release", namespace="somewhere")


def test_the_notes_say_how_to_reach_it_and_name_no_secret_but_its_reference(chart: helm_python.Chart) -> None:
    for example in EXAMPLES:
        files = chart.render(values(example), name="release", namespace="somewhere")
        notes = files["driftline/templates/NOTES.txt"]
        assert "http://release-driftline.somewhere.svc:80/v1" in notes
        assert "get secret driftline-keys -o 'jsonpath={.data.admin}'" in notes
        assert ("snapshots of the volume" in notes) == (example == "embedded")


def test_every_value_is_in_the_schema_and_the_schema_allows_no_other(chart: helm_python.Chart) -> None:
    schema = chart.schema if isinstance(getattr(chart, "schema", None), dict) else _schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() - {"global"} == chart.values.keys()


def _schema() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return loaded
