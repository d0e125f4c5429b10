"""What the chart would start, started here by its commands and environment; and `helm test` plays on it."""

import os
import re
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.chart.rendering import free_port, of_kind, pods, rendered

ROOT = Path(__file__).parents[2]
START_S = 120.0
SERVICES = ("redis", "sessions", "control", "decoder", "web", "engine")
TLS = (
    "tls.mode=secrets",
    *(f"tls.secrets.{name}={name}" for name in ("control", "sessions", "decoder", "web", "engine", "test")),
)


class Cluster:
    """Every pod as a process of this machine, with a port of its own for each of the pod's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports: dict[str, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._status: dict[str, str] = {}  # each container's own port for metrics

    def command(self, container: dict[str, Any], service: str) -> tuple[list[str], dict[str, str]]:
        """The container's command and environment, as they would be here."""
        env = {each["name"]: each.get("value", "127.0.0.1") for each in container.get("env", [])}
        env = {name: self._here(value, service) for name, value in env.items()}
        if "METRICS_PORT" in env:
            env["METRICS_PORT"] = self._status[service] = free_port()
        env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'gen'}:{ROOT / 'libs/aapt/src'}"
        env |= {"PATH": os.environ["PATH"], "HOME": str(self._folder), "OMP_NUM_THREADS": "1"}
        first, *words = (self._here(word, service) for word in container["command"])
        assert first == "python"
        return [sys.executable, *words], env

    def start(self, container: dict[str, Any], service: str) -> None:
        command, env = self.command(container, service)
        log = (self._folder / f"{service}.log").open("wb")
        self._processes.append(subprocess.Popen(command, env=env, cwd=self._folder, stdout=log, stderr=log))

    def is_ready(self, container: dict[str, Any], service: str) -> bool:
        """What Kubernetes would hear from the container's readiness probe."""
        probe = container["readinessProbe"]
        try:
            if "grpc" in probe:
                with grpc.insecure_channel(f"127.0.0.1:{self._ports[str(probe['grpc']['port'])]}") as channel:
                    stub = health_pb2_grpc.HealthStub(channel)
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=probe["timeoutSeconds"])
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
            asked = probe["httpGet"]
            url = f"{asked['scheme'].lower()}://127.0.0.1:{self._status[service]}{asked['path']}"
            unverified = ssl._create_unverified_context()  # as Kubernetes asks
            with urllib.request.urlopen(url, timeout=probe["timeoutSeconds"], context=unverified) as answer:
                return bool(answer.status == 200)
        except (OSError, grpc.RpcError):
            return False

    def logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in self._folder.glob("*.log"))

    def end(self) -> None:
        for each in reversed(self._processes):
            each.terminate()
        for each in reversed(self._processes):
            try:
                each.wait(20)
            except subprocess.TimeoutExpired:
                each.kill()

    def _here(self, word: str, service: str) -> str:
        word = word.replace("/app/checkpoints", str(ROOT / "checkpoints")).replace("$(POD_IP)", "127.0.0.1")
        word = word.replace("/data", str(self._folder)).replace("/tls/", f"{self._folder}/{service}/")
        word = re.sub(r"play-livevideo-[a-z-]+\.worlds\.svc|0\.0\.0\.0", "127.0.0.1", word)
        return re.sub(r'(?<=127\.0\.0\.1:)\d+|(?<="--port", ")\d+', self._port, word)

    def _port(self, found: re.Match[str]) -> str:
        return self._ports.setdefault(found[0], free_port())


def issue(folder: Path) -> None:
    """Certificates as cert-manager would make them; addresses stand for the names of Services."""
    authority = trustme.CA()
    for service, each in of_kind(rendered("gpu"), "Certificate").items():
        made = authority.issue_cert(*each["spec"]["dnsNames"], "127.0.0.1")
        (folder / service).mkdir()
        made.private_key_pem.write_to_path(folder / service / "tls.key")
        made.cert_chain_pems[0].write_to_path(folder / service / "tls.crt")
        authority.cert_pem.write_to_path(folder / service / "ca.crt")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), TLS], ids=["plain", "tls"])
def test_helm_test_plays_a_session_on_what_the_chart_starts(
    cluster: Cluster, tmp_path: Path, more: tuple[str, ...]
) -> None:
    issue(tmp_path)
    documents = rendered("local", more=more)
    specs = {name.rpartition("-")[-1]: spec for name, spec in pods(documents).items()}
    containers = {service: specs[service]["containers"][0] for service in SERVICES}
    for service, container in containers.items():
        cluster.start(container, service)
    ends_at_s = time.monotonic() + START_S
    waited_for = [service for service in SERVICES if service != "redis"]
    while waited_for:
        waited_for = [each for each in waited_for if not cluster.is_ready(containers[each], each)]
        assert time.monotonic() < ends_at_s, f"{waited_for} are not ready; {cluster.logs()}"
        time.sleep(0.5)
    # As README.md says: by kubectl exec, in a pod of *sessions*.
    command, env = cluster.command(containers["sessions"], "sessions")
    listed = [*command, "tenants", "--admin", env["ADMIN_ADDRESS"], "list"]
    told = subprocess.run(listed, env=env, capture_output=True, text=True, timeout=START_S, check=False)
    assert not told.returncode, told.stderr
    (player,) = of_kind(documents, "Pod")["test"]["spec"]["containers"]
    # Any rate of frames will do: the machine may be busy.
    asked = [re.sub(r"(--least-fps|--seconds)=\d+", r"\1=2", word) for word in player["command"]]
    command, env = cluster.command({**player, "command": asked}, "test")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=START_S, check=False)
    assert not done.returncode, done.stderr + cluster.logs()
    assert '"frames":' in done.stdout
    # A player who got fewer frames than were asked for has not passed.
    too_many = [re.sub(r"--least-fps=\d+", "--least-fps=1000", word) for word in command]
    done = subprocess.run(too_many, env=env, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 1
    assert "too slow" in done.stderr
