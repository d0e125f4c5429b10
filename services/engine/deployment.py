"""`python -m services.engine.deployment`: replicas of the engine on a Ray cluster, by Ray Serve.

Serve places the replicas, watches over them and replaces them. What is played never goes through Serve: every
replica serves `EngineService` on a port of its own and announces itself to *sessions*, as any engine does.
"""

import asyncio
import os
import signal
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

if not os.environ.get("RAY_ADDRESS"):
    # As it is imported, Ray decides whether what it starts listens for other machines.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
try:
    import ray
    from ray import serve
except ImportError as error:
    raise ImportError("engines on Ray need Ray, which is not installed; say: pip install '.[ray]'") from error

from aapt import checkpoint
from aapt.sharded import check_ranks
from services import app, status, telemetry
from services.engine import cluster
from services.engine.gang import Gang, RankSettings
from services.engine.gpus import Gpus
from services.engine.model import described
from services.engine.service import EngineService
from services.engine.service import Settings as EngineSettings
from services.errors import BadCheckpoint, BadSetting, PortTaken, ServiceError
from services.settings import settings_from_env
from services.status import Readiness

log = telemetry.logger("engine")

_CHECK_PERIOD_S = 0.1
_RANKS_PER_CORE = 8  # on a machine of our own; more only wait for each other


@dataclass(frozen=True)
class Settings:
    """Replicas of the engine on a Ray cluster.

    Each has the engine's own settings but ADDRESS, REPLICA and DEVICE. METRICS_PORT is that of the first
    replica on a machine; further ones take the next.
    """

    ray_address: str = ""  # of the cluster, host:port; empty: one on this machine, for as long as this runs
    replicas: int = 1  # engines, each with a port of its own
    shards: int = 1  # ranks of each replica; they share every latent
    cpus_per_rank: float = 1.0
    gpus_per_rank: float = 0.0  # 0: ranks compute on CPUs
    listen_host: str = "127.0.0.1"  # replicas take their ports there
    port: int = 0  # of every replica, where each has a machine to itself; 0: free ones
    advertised_host: str = ""  # where decoders reach them; empty: `listen_host`, or the machine's own address
    frames_per_second: float = 0.0  # 0: the model's own
    start_s: float = 180.0  # longest time until all replicas run
    drain_s: float = 10.0  # longest time for a replica to let its sessions go on elsewhere
    ends_with_stdin: bool = False  # for a parent that may die
    log_level: str = "INFO"  # of this command; replicas log to Ray's files

    def __post_init__(self) -> None:
        for name in ("replicas", "shards"):
            if getattr(self, name) < 1:
                raise BadSetting(f"{name.upper()} is {getattr(self, name)}; it must be 1 or more")
        for name in ("cpus_per_rank", "gpus_per_rank"):
            if getattr(self, name) < 0:
                raise BadSetting(f"{name.upper()} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.port <= 65535:
            raise BadSetting(f"PORT is {self.port}; it must be from 1 to 65535, or 0 for free ones")
        if not self.cpus_per_rank and not self.gpus_per_rank:
            raise BadSetting("CPUS_PER_RANK and GPUS_PER_RANK are both 0; a rank computes on one of them")
        if self.shards > 1 and self.gpus_per_rank % 1:
            raise BadSetting(
                f"GPUS_PER_RANK is {self.gpus_per_rank}; ranks that exchange need whole GPUs, or none"
            )


class EngineReplica:
    """One replica: a gang of ranks, of which this process is the first, and the service on its own port."""

    async def __init__(self, settings: Settings, engine: EngineSettings) -> None:  # type: ignore[misc]
        telemetry.start_logging(service="engine")
        self._failure = ""
        self._host: app.Host | None = None
        readiness = Readiness()
        if engine.metrics_port:
            _serve_status(settings, engine, readiness)
        place = ray.util.get_current_placement_group()
        assert place is not None, "Serve gives every replica its bundles"
        self._gang = await asyncio.to_thread(Gang, ranks(settings, engine), place)
        model = described(checkpoint.read_preset(Path(engine.checkpoint)), settings.frames_per_second)
        name = f"engine-{serve.get_replica_context().replica_id.unique_id}"
        leave_s = min(engine.leave_s, 0.8 * settings.drain_s)
        # The address is known when the port is.
        own = replace(engine, replica=name, advertised_address="", leave_s=leave_s)
        watched = Gpus(name, environ={"CUDA_VISIBLE_DEVICES": self._gang.gpus})
        self._service = EngineService(self._gang.world, model, own, watched)
        self._host = app.Host(
            self._service,
            address=f"{settings.listen_host}:{settings.port}",
            tls=engine.tls,
            trouble=self._service.trouble,
            readiness=readiness,
        )
        port = (await self._host.start()).rpartition(":")[-1]
        app.set_in_stone()
        self._service.reached_at(f"{_advertised_host(settings)}:{port}")
        self._watching = asyncio.create_task(self._watch())

    async def check_health(self) -> None:
        """Serve asks every second, and replaces the whole gang when this raises."""
        if self._failure:
            raise RuntimeError(self._failure)

    async def __del__(self) -> None:
        """Serve calls this before it ends the replica."""
        await self._stop()

    async def _watch(self) -> None:
        """Let sessions go on elsewhere as soon as the gang is lost: Serve takes seconds to replace it."""
        while self._host is not None and not self._failure:
            await asyncio.sleep(_CHECK_PERIOD_S)
            self._failure = self._service.failure() or ""
            try:
                self._gang.check()
            except Exception as error:  # RankLost, as a rule; whatever it is, the gang is not sound
                self._failure = str(error)
        if self._host is not None:
            log.error("replica failed", failure=self._failure)
            await self._service.engine.stop()  # nothing is left to move at leisure
            await self._stop()

    async def _stop(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            await host.stop()
            self._gang.end()


def ranks(settings: Settings, engine: EngineSettings) -> RankSettings:
    """What every rank of a replica is told."""
    return RankSettings(
        shards=settings.shards,
        cpus=settings.cpus_per_rank,
        gpus=settings.gpus_per_rank,
        checkpoint=engine.checkpoint,
        slots=engine.slots,
        torch_threads=engine.torch_threads,
        is_compiled=engine.is_compiled,
        fp8=engine.fp8,
    )


def application(settings: Settings, engine: EngineSettings) -> serve.Application:
    """The engine as Ray Serve runs it."""
    rank = ranks(settings, engine)
    deployment = serve.deployment(
        name="engine",
        num_replicas=settings.replicas,
        ray_actor_options={
            "num_cpus": rank.cpus,
            "num_gpus": rank.gpus,
            # One event loop in the process: gRPC's asyncio works badly with two.
            "runtime_env": {"env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}},
        },
        placement_group_bundles=[rank.bundle] * rank.shards,
        placement_group_strategy="STRICT_PACK",
        health_check_period_s=1.0,
        health_check_timeout_s=3.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.drain_s,
        max_constructor_retry_count=2,
    )(EngineReplica)
    bound: serve.Application = deployment.bind(settings, engine)
    return bound


def from_environment(arguments: dict[str, str]) -> serve.Application:
    """What a Serve config names as `import_path`, as KubeRay's RayService has one: all settings are env_vars.

    Raises BadSetting.
    """
    if arguments:
        raise BadSetting(
            f"args are {arguments}; name settings under runtime_env.env_vars, and leave args out"
        )
    settings, engine = settings_from_env(Settings), settings_from_env(EngineSettings)
    _check_sharing(settings, engine)
    return application(settings, engine)


def run(settings: Settings, engine: EngineSettings, stopped: threading.Event) -> None:
    """Deploy, and withdraw when `stopped` is set. Raises a ServiceError where it cannot be deployed."""
    rank = ranks(settings, engine)
    cores, wanted = os.cpu_count() or 1, settings.shards * settings.replicas
    if not settings.ray_address and wanted > _RANKS_PER_CORE * cores:
        raise BadSetting(
            f"{settings.replicas} replicas of {settings.shards} ranks are {wanted} processes, and there are"
            f" {cores} cores; ask for {_RANKS_PER_CORE * cores} ranks or fewer, or name a RAY_ADDRESS"
        )
    _check_sharing(settings, engine)
    try:
        check_ranks(checkpoint.read_preset(Path(engine.checkpoint)), settings.shards)
    except checkpoint.BadCheckpoint as error:
        raise BadCheckpoint(str(error)) from error
    except ValueError as error:
        raise BadSetting(f"SHARDS: {error}") from error
    with cluster.connected(settings.ray_address, rank.cpus * settings.shards * settings.replicas):
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray has set its own
            signal.signal(number, lambda *_: stopped.set())
        asked = cluster.Asked(settings.replicas, settings.shards, rank.bundle)
        cluster.check_room(asked)
        try:
            cluster.deploy(application(settings, engine), asked, settings.start_s, stopped)
            log.info("engine deployed", replicas=settings.replicas, shards=settings.shards)
            stopped.wait()
        finally:
            cluster.withdraw()


def _check_sharing(settings: Settings, engine: EngineSettings) -> None:
    if engine.is_compiled and settings.shards > 1:
        raise BadSetting("IS_COMPILED is set, and SHARDS ranks cannot share a compiled network; leave it out")


def main() -> None:
    app.read_options("services.engine.deployment", Settings, EngineSettings)
    telemetry.start_logging(service="engine")
    stopped = threading.Event()
    try:
        settings, engine = settings_from_env(Settings), settings_from_env(EngineSettings)
        telemetry.start_logging(settings.log_level, service="engine")
        if settings.ends_with_stdin:
            threading.Thread(target=_until_stdin_ends, args=(stopped,), daemon=True).start()
        run(settings, engine, stopped)
    except ServiceError as refusal:
        raise SystemExit(f"cannot deploy the engine: {refusal.message}") from refusal


def _until_stdin_ends(stopped: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not by sys.stdin, whose lock would be held when Python ends
        pass
    stopped.set()


def _serve_status(settings: Settings, engine: EngineSettings, readiness: Readiness) -> None:
    ports = range(engine.metrics_port, engine.metrics_port + settings.replicas)
    for port in ports:
        try:
            status.serve(settings.listen_host, port, readiness, engine.tls)
        except PortTaken:
            if port == ports[-1]:
                raise
        else:
            log.info("metrics served", port=port)
            return


def _advertised_host(settings: Settings) -> str:
    if settings.advertised_host or settings.listen_host not in ("0.0.0.0", "[::]"):
        return settings.advertised_host or settings.listen_host
    return str(ray.util.get_node_ip_address())


if __name__ == "__main__":
    # Serve pickles what it deploys, and workers have another __main__.
    from services.engine import deployment

    deployment.main()
