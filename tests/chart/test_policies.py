"""What a platform team asks of a chart: each promise on every pod of every case."""

import re
from typing import Any

import pytest

from tests.chart.rendering import MATRIX, of_kind, pods, rendered

SERVICES = {"control", "sessions", "decoder", "web", "engine"}
EACH_CASE = pytest.mark.parametrize("case", MATRIX)


def containers(case: str) -> list[tuple[str, dict[str, Any]]]:
    specs = pods(rendered(case))
    return [
        (name, each)
        for name, spec in specs.items()
        for each in [*spec["containers"], *spec.get("initContainers", [])]
    ]


@EACH_CASE
def test_every_pod_is_restricted(case: str) -> None:
    for name, spec in pods(rendered(case)).items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        kinds = {kind for each in spec.get("volumes", []) for kind in each.keys() - {"name"}}
        assert kinds <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim", "projected"}, name


@EACH_CASE
def test_no_container_may_more_than_it_needs(case: str) -> None:
    for name, each in containers(case):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name


@EACH_CASE
def test_no_pod_holds_a_token_of_the_cluster(case: str) -> None:
    assert all(spec["automountServiceAccountToken"] is False for spec in pods(rendered(case)).values())
    assert all(
        each["automountServiceAccountToken"] is False
        for each in of_kind(rendered(case), "ServiceAccount").values()
    )


@EACH_CASE
def test_every_container_asks_for_what_it_takes(case: str) -> None:
    for name, each in containers(case):
        assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), name
        assert "memory" in each["resources"]["limits"], name


@EACH_CASE
def test_every_image_is_of_a_version(case: str) -> None:
    for name, each in containers(case):
        assert re.search(r"(:[0-9][\w.-]*|@sha256:\w+)$", each["image"]), f"{name}: {each['image']}"


@EACH_CASE
def test_every_service_may_lose_one_pod_and_its_pods_lie_apart(case: str) -> None:
    documents = rendered(case)
    if case not in ("local-open", "local-named"):
        assert of_kind(documents, "PodDisruptionBudget").keys() == SERVICES
    for name, spec in pods(documents).items():
        if name.startswith("Deployment/") or name.endswith("/gang"):
            keys = {each["topologyKey"] for each in spec["topologySpreadConstraints"]}
            assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}, name


@EACH_CASE
def test_every_service_says_when_it_has_started_lives_and_is_ready(case: str) -> None:
    is_tls = bool(of_kind(rendered(case), "Certificate")) or case == "gpu-secrets"
    for name, each in containers(case):
        if not name.startswith("Deployment/"):
            continue
        for probe in ("startupProbe", "readinessProbe"):
            if is_tls:
                assert each[probe]["httpGet"] == {"path": "/readyz", "port": "metrics", "scheme": "HTTPS"}, (
                    name
                )
            else:
                assert "grpc" in each[probe], name
        # Whoever waits for Redis is not ready, and is not to be started again for it.
        assert each["livenessProbe"]["httpGet"]["path"] == "/healthz", name


def test_a_large_model_has_time_to_load() -> None:
    (engine,) = pods(rendered("gpu"))["Deployment/play-livevideo-engine"]["containers"]
    probe = engine["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 900


@EACH_CASE
def test_a_pod_has_time_to_drain(case: str) -> None:
    for name, spec in pods(rendered(case)).items():
        for each in spec["containers"]:
            hook = each.get("lifecycle", {}).get("preStop")
            if name.startswith("Deployment/"):
                variables = {one["name"]: one.get("value") for one in each["env"]}
                drain_s = float(variables.get("LEAVE_S") or 0)
                assert hook["sleep"]["seconds"] + drain_s < spec["terminationGracePeriodSeconds"], name
            elif name.endswith("/gang"):
                sleeps_s = int(re.search(r"sleep (\d+)", hook["exec"]["command"][-1])[1])  # type: ignore[index]
                assert sleeps_s < spec["terminationGracePeriodSeconds"], name


@EACH_CASE
def test_secrets_are_named_and_never_told(case: str) -> None:
    documents = rendered(case)
    assert not of_kind(documents, "Secret")
    for name, each in containers(case):
        for variable in each.get("env", []):
            is_file = variable["name"].endswith("_FILE")
            assert is_file or not re.search("PASSWORD|SECRET|TOKEN|KEY", variable["name"]), name
            if is_file:
                mounted = [mount["mountPath"] for mount in each["volumeMounts"]]
                assert any(variable["value"].startswith(f"{path}/") for path in mounted), variable


@EACH_CASE
def test_nothing_comes_in_or_goes_out_but_by_a_named_edge(case: str) -> None:
    policies = of_kind(rendered(case), "NetworkPolicy")
    if case == "local-open":
        assert not policies
        return
    names = {name.removeprefix("worlds-") for name in policies}
    for each in policies.values():
        if not each["metadata"]["name"].endswith("-deny"):
            (rule,) = each["spec"].get("ingress") or each["spec"]["egress"]
            assert rule, f"{each['metadata']['name']} lets everything pass"
    deny = policies["worlds-deny" if case == "local-named" else "deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    assert "app.kubernetes.io/component" not in deny["podSelector"]["matchLabels"]
    ours = {
        *("control-to-sessions", "decoder-to-sessions", "engine-to-sessions", "decoder-to-engine"),
        *("web-to-control", "web-to-sessions", "web-to-decoder"),
    }
    for edge in ours:
        assert {f"{edge}-in", f"{edge}-out"} <= names
    assert not {"engine-to-redis-out", "control-to-redis-out", "players-to-engine-in"} & names
    assert ("engine-to-ray-head-out" in names) == case.startswith("8xh100")


def test_traces_go_to_the_collector_alone() -> None:
    documents = rendered("gpu-hpa")
    for name, spec in pods(documents).items():
        for each in spec["containers"] if name.startswith("Deployment/") else []:
            variables = {one["name"]: one.get("value") for one in each["env"]}
            is_traced, is_control = not name.endswith("-web"), name.endswith("-control")
            assert ("OTEL_EXPORTER_OTLP_ENDPOINT" in variables) == is_traced, name
            assert variables.get("TRACE_SAMPLING") == ("0.01" if is_control else None), name
    policies = of_kind(documents, "NetworkPolicy")
    ways = {name: each for name, each in policies.items() if "collector" in name}
    assert set(ways) == {f"{name}-to-collector-out" for name in SERVICES - {"web"}}
    for each in ways.values():
        assert each["spec"]["egress"][0]["ports"] == [{"port": 4318, "protocol": "TCP"}]
    assert not [name for name in of_kind(rendered("gpu"), "NetworkPolicy") if "collector" in name]


def test_only_public_ports_are_where_players_come() -> None:
    services = of_kind(rendered("gpu", more=("sessions.service.type=LoadBalancer",)), "Service")
    exposed = {name: each for name, each in services.items() if each["spec"].get("type") == "LoadBalancer"}
    assert exposed.keys() == {"sessions"}
    assert [port["port"] for port in exposed["sessions"]["spec"]["ports"]] == [50052]


def test_a_certificate_carries_the_name_it_is_let_in_by_and_the_one_it_is_called_by() -> None:
    for name, each in of_kind(rendered("gpu"), "Certificate").items():
        names = set(each["spec"]["dnsNames"])
        if name == "test":
            assert names == {"test"}  # a player's is let in nowhere
        else:
            assert {name, "livevideo", f"play-livevideo-{name}.worlds.svc"} <= names


def test_gpus_are_asked_for_where_they_are() -> None:
    spec = pods(rendered("gpu"))["Deployment/play-livevideo-engine"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "tolerations" not in pods(rendered("gpu"))["Deployment/play-livevideo-decoder"]
