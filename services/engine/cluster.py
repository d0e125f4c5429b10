"""The Ray cluster that engines run on: one that is there already, or one of this process's own."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import ray
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve
from ray.serve.schema import ApplicationStatus

from services.errors import ClusterTooSmall, NoCluster, ServiceError

APPLICATION = "livevideo"
_OBJECT_STORE_BYTES = 100 << 20  # nothing large goes through it
_HEALTH_TIMEOUT_S = 5
_POLL_S = 0.2
_STARTING = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOYING)


@contextmanager
def connected(address: str, cpus: float) -> Iterator[None]:
    """Speak to the cluster at `address`; with none, to one of our own on loopback, that has `cpus` or more.

    What was started is stopped again. Raises NoCluster.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if address:
        _connect(address)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=max(round(cpus + 0.5), os.cpu_count() or 1),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    try:
        # Frames never pass Serve, so it needs no proxy.
        serve.start(proxy_location="Disabled")
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Asked:
    """What is asked of a cluster: so many replicas of so many ranks, each rank with a bundle of resources."""

    replicas: int
    shards: int
    bundle: Mapping[str, float]

    @property
    def of_a_machine(self) -> dict[str, float]:
        """What one replica takes; all its ranks are on one machine."""
        return {what: amount * self.shards for what, amount in self.bundle.items() if amount}

    def __str__(self) -> str:
        return (
            f"{self.replicas} replicas of {self.shards} ranks, each replica on one machine with"
            f" {_said(self.of_a_machine)},"
        )


def check_room(asked: Asked) -> None:
    """Raises ClusterTooSmall where the machines, were they empty, could not hold what is asked."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(
        min((int(node.get(what, 0) / amount) for what, amount in asked.of_a_machine.items()), default=1)
        for node in nodes
    )
    if room < asked.replicas:
        has = "; ".join(map(_said, nodes))
        raise ClusterTooSmall(
            f"{asked} do not fit into the cluster, which has room for {room}: its machines have {has}."
            " Ask for fewer replicas or shards, or add machines"
        )


def deploy(application: serve.Application, asked: Asked, within_s: float, stopped: threading.Event) -> None:
    """Until every replica runs, or `stopped` is set. Raises a ServiceError that says what failed."""
    if APPLICATION in serve.status().applications:
        raise ServiceError(
            f"this cluster runs an application {APPLICATION!r} already; withdraw that one first, or use"
            " another cluster"
        )
    target = serve.RunTarget(application, name=APPLICATION, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    ends_at_s = time.monotonic() + within_s
    why = ""
    while time.monotonic() < ends_at_s and not stopped.is_set():
        said = serve.status().applications.get(APPLICATION)
        if said is not None:
            messages = [said.message, *(each.message for each in said.deployments.values())]
            # A traceback says what happened in its last line; Ray's logs keep the rest.
            why = "; ".join(message.strip().splitlines()[-1] for message in messages if message.strip())
            if said.status is ApplicationStatus.RUNNING:
                return
            if said.status not in _STARTING:
                raise ServiceError(f"the engine could not be deployed: {why}")
        stopped.wait(_POLL_S)
    if not stopped.is_set():
        left = _said(ray.available_resources())
        raise ServiceError(
            f"{asked} do not all run after {within_s:g} s; what the cluster has left is {left}."
            f" See its logs, or set START_S higher. {why}"
        )


def withdraw() -> None:
    """Drain every replica and end it."""
    serve.delete(APPLICATION)


def _connect(address: str) -> None:
    try:
        if address != "auto":
            # Ray itself would try for a minute.
            with grpc.insecure_channel(address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except grpc.RpcError as error:
        raise _no_cluster(address, error.details() or "it does not answer") from error
    except Exception as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> NoCluster:
    return NoCluster(
        f"no Ray cluster lets us in at RAY_ADDRESS {address!r} ({why}); start one there (ray start --head),"
        " give its RAY_AUTH_TOKEN where it has one, or leave RAY_ADDRESS empty for one on this machine"
    )


def _said(resources: Mapping[str, float]) -> str:
    return (
        ", ".join(f"{resources[what]:g} {what}" for what in ("CPU", "GPU") if resources.get(what)) or "none"
    )
