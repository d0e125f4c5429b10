"""The chart as Helm renders it, offline."""

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helms import TOOLS
from deploy.values import CHART
from tests.services import servers

HELMS = ("helm-3", "helm-4")
# What a cluster may know beside Kubernetes itself.
KINDS = (
    "ray.io/v1",
    "cert-manager.io/v1",
    "gateway.networking.k8s.io/v1",
    "keda.sh/v1alpha1",
    "monitoring.coreos.com/v1",
)
# Each with what stands for one way to run it.
MATRIX: dict[str, tuple[str, ...]] = {
    "local": (),
    "local-named": ("fullnameOverride=worlds", "labels.team=games", "image.registry=registry.example.com"),
    "local-open": ("networkPolicy.enabled=false", "pdb.enabled=false", "web.enabled=false"),
    "local-stored": ("redis.trial.storage=1Gi", "image.tag=1.2.3", "image.digests.web=sha256:0123"),
    "gpu": (),
    "gpu-gateway": (
        "gateway.enabled=true",
        "gateway.parentRefs[0].name=public",
        "gateway.caConfigMap=livevideo-ca",
        "gateway.grpcHostnames[0]=play.example.com",
        "tls.page=page-tls",
    ),
    "gpu-keda": ("autoscaling.kind=keda", "autoscaling.prometheusUrl=http://prometheus.monitoring:9090"),
    "gpu-hpa": (
        *("autoscaling.kind=hpa", "gpu.runtimeClassName=nvidia", "priorityClasses.create=true"),
        *("tracing.endpoint=http://otel.monitoring:4318/", "tracing.sampling=0.01"),
    ),
    "gpu-secrets": (
        "tls.mode=secrets",
        *(
            f"tls.secrets.{name}={name}-tls"
            for name in ("control", "sessions", "decoder", "web", "engine", "test")
        ),
        "redis.clientCertificate=redis-client",
        "tls.players.secret=players-ca",
        "api.pageKeySecret=page-key",
        "api.testKeySecret=test-key",
    ),
    "8xh100": (),
    "8xh100-whole": (
        "engine.ray.upgrade.type=NewCluster",
        "tls.mode=none",
        "decoder.gpus=0",
        "redis.sentinelPassword.secret=sentinels",
        "engine.ray.gcs.redisAddress=rediss://ray-redis.redis.svc:6379",
        "engine.ray.gcs.caSecret=ray-redis-ca",
    ),
}


@functools.cache
def rendered(case: str, helm: str = "helm-4", more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The documents of one case of MATRIX, with more values."""
    done = template(preset(case), (*MATRIX[case], *more), helm)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def preset(case: str) -> Path:
    """The file of values that a case begins with."""
    return CHART / f"values-{case.partition('-')[0]}.yaml"


def template(
    values: Path | None, more: Sequence[str] = (), helm: str = "helm-4", kinds: Sequence[str] = KINDS
) -> "subprocess.CompletedProcess[str]":
    """`helm template`, as it ended."""
    return run(
        helm,
        *("template", "play", str(CHART), "--namespace", "worlds"),
        *(("--values", str(values)) if values else ()),
        *(word for each in more for word in ("--set", each)),
        *(word for each in kinds for word in ("--api-versions", each)),
    )


def run(helm: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Skips the test where there is no Helm."""
    if not (TOOLS / helm).exists():
        pytest.skip(f"there is no {TOOLS / helm}; make chart fetches it")
    return subprocess.run([TOOLS / helm, *words], capture_output=True, text=True, timeout=60, check=False)


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Documents of one kind by their names, without the release's."""
    return {
        each["metadata"]["name"].removeprefix("play-livevideo-"): each
        for each in documents
        if each["kind"] == kind
    }


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every pod's spec, whoever makes the pod."""
    found: dict[str, dict[str, Any]] = {}
    for each in documents:
        name = f"{each['kind']}/{each['metadata']['name']}"
        match each["kind"]:
            case "Pod":
                found[name] = each["spec"]
            case "Deployment" | "StatefulSet":
                found[name] = each["spec"]["template"]["spec"]
            case "RayService":
                cluster = each["spec"]["rayClusterConfig"]
                found[f"{name}/head"] = cluster["headGroupSpec"]["template"]["spec"]
                for group in cluster["workerGroupSpecs"]:
                    found[f"{name}/{group['groupName']}"] = group["template"]["spec"]
    return found


def free_port() -> str:
    """A port of this machine that nobody has."""
    return str(servers.free_port())
