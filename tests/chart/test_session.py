"""What the chart would start, started here by its commands and environment; and `helm test` plays on it."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import of_kind, pods, rendered

ROOT = Path(__file__).parents[2]
START_S = 120.0
SERVICES = ("redis", "sessions", "control", "decoder", "web", "engine")


class Cluster:
    """Every pod as a process of this machine, with a port of its own for each of the pod's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports: dict[str, int] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def command(self, container: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        """The container's command and environment, as they would be here."""
        told = (
            {each["name"]: self._here(each.get("value", "127.0.0.1")) for each in container["env"]}
            if "env" in container
            else {}
        )
        if "METRICS_PORT" in told:
            told["METRICS_PORT"] = str(_free_port())
        told = {name: value.replace("$(POD_IP)", "127.0.0.1") for name, value in told.items()}
        told |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}:{ROOT / 'libs/aapt/src'}", "HOME": str(self._folder)}
        told |= {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        first, *words = (self._here(word) for word in container["command"])
        assert first == "python"
        return [sys.executable, *words], told

    def start(self, container: dict[str, Any]) -> None:
        command, env = self.command(container)
        log = (self._folder / f"{container['name']}.log").open("wb")
        self._processes.append(subprocess.Popen(command, env=env, cwd=self._folder, stdout=log, stderr=log))

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

    def _here(self, word: str) -> str:
        word = word.replace("/app/checkpoints", str(ROOT / "checkpoints")).replace("/data", str(self._folder))
        word = re.sub(r"play-livevideo-[a-z-]+\.worlds\.svc|0\.0\.0\.0", "127.0.0.1", word)
        return re.sub(r'(?<=:)\d{4,5}\b|(?<="--port", ")\d+', self._port, word)

    def _port(self, found: re.Match[str]) -> str:
        return str(self._ports.setdefault(found[0], _free_port()))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()


@pytest.mark.slow
def test_helm_test_plays_a_session_on_what_the_chart_starts(cluster: Cluster) -> None:
    documents = rendered("local")
    specs = {name.rpartition("-")[-1]: spec for name, spec in pods(documents).items()}
    for service in SERVICES:
        cluster.start(specs[service]["containers"][0])
    (player,) = of_kind(documents, "Pod")["test"]["spec"]["containers"]
    # Any rate of frames will do: the machine may be busy.
    asked = [re.sub(r"(--least-fps|--seconds)=\d+", r"\1=2", word) for word in player["command"]]
    command, env = cluster.command({**player, "command": asked})
    ends_at_s = time.monotonic() + START_S
    while True:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=START_S, check=False)
        if not done.returncode or time.monotonic() > ends_at_s:
            break
        time.sleep(1.0)
    assert not done.returncode, done.stderr + cluster.logs()
    assert '"frames":' in done.stdout
