"""The RayService's own Serve config on a real Ray: a gang of two ranks on CPUs comes up at its port."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import free_port, of_kind, rendered

ROOT = Path(__file__).parents[2]
ENDS = ("RUNNING", "DEPLOY", "UNHEALTHY", "nothing")
TWO_RANKS = ("engine.gpus=0", "engine.shards=2", "engine.replicas=1", "engine.ray.cpusPerRank=1")


def answered(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read(), "utf-8")
    except urllib.error.HTTPError as refused:
        return refused.read().decode()


@pytest.mark.slow
def test_serve_makes_the_engine_of_its_config(tmp_path: Path) -> None:
    spec = of_kind(rendered("8xh100-whole", more=TWO_RANKS), "RayService")["engine"]["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    env = config["applications"][0]["runtime_env"]["env_vars"]
    metrics_port = free_port()
    # What a pod has, and this machine has elsewhere.
    env |= {"CHECKPOINT": str(ROOT / "checkpoints" / "road"), "SESSIONS_ADDRESS": "127.0.0.1:1"}
    env |= {"LISTEN_HOST": "127.0.0.1", "PORT": free_port(), "METRICS_PORT": metrics_port}
    path = os.pathsep.join(str(ROOT / each) for each in (".", "gen", "libs/aapt/src"))
    env["PYTHONPATH"] = path
    del config["http_options"], config["proxy_location"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chart.serving", tmp_path / "config.yaml"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = next((line for line in process.stdout if line.startswith(ENDS)), "")
        assert said.startswith("RUNNING"), said
        # It lives at its port, and says what it misses.
        ends_at_s = time.monotonic() + 20
        while "sessions does not hear it" not in answered(f"http://127.0.0.1:{metrics_port}/readyz"):
            assert time.monotonic() < ends_at_s
            time.sleep(0.2)
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
