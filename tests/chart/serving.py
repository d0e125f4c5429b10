"""`python -m tests.chart.serving CONFIG`: a Serve config on Ray, until its application runs or fails.

A process of its own: Ray stays in whatever it was started in. Ends with the application's status as a line.
"""

import os
import sys
import time
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

WITHIN_S = 150.0
STARTING = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOYING)


def main(config: Path) -> None:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    serve.start(proxy_location="Disabled")
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema(**yaml.safe_load(config.read_text())))
    ends_at_s = time.monotonic() + WITHIN_S
    while time.monotonic() < ends_at_s:
        found = serve.status().applications.get("livevideo")
        if found is not None and found.status not in STARTING:
            break
        time.sleep(1.0)
    print(found.status.value if found else "nothing", found.message if found else "", flush=True)
    sys.stdin.read()  # it is asked meanwhile
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
