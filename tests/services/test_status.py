"""What a process says of itself: over HTTP from its first moment on, and in its log, without secrets."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from livevideo.v1.session_pb2 import AnnounceRequest, OpenRequest
from services import errors, status, telemetry
from services.app import Host, open_channel
from services.control.service import ControlService
from services.control.service import Settings as ControlSettings
from services.sessions.service import SessionService, Settings
from services.status import Readiness
from services.tls import Pem, Tls
from tests.services.asking import Sessions, refused
from tests.services.servers import VALKEY, Server, free_port, started

DEADLINE_S = 60.0
SECRET = "open-sesame"
SLOW = """
import dataclasses, sys
from services import app
from services.tls import Tls

@dataclasses.dataclass(frozen=True)
class Settings:
    address: str = "[::1]:0"
    metrics_port: int = 0
    tls: Tls = dataclasses.field(default_factory=Tls)

def loads(settings):
    sys.stdin.readline()
    raise SystemExit("loaded")

app.run(Settings, loads)
"""


@contextmanager
def running(*words: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, *words],
        env={"PATH": "", **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def page(address: str, path: str) -> str:
    """What it says, once it listens."""
    ends_at_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urlopen(f"http://{address}{path}", timeout=20) as answer:
                return str(answer.read().decode())
        except HTTPError as error:
            with error:
                return str(error.read().decode())
        except (URLError, ConnectionError):
            assert time.monotonic() < ends_at_s
            time.sleep(0.05)


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_a_process_that_still_loads_its_model_is_alive_and_not_ready_at_its_ipv6_address() -> None:
    port = free_port()
    with running("-c", SLOW, METRICS_PORT=str(port)) as process:
        assert page(f"[::1]:{port}", "/healthz") == "alive\n"
        assert page(f"[::1]:{port}", "/readyz") == "not ready: it is starting\n"
        said, _ = process.communicate("\n", timeout=DEADLINE_S)
    assert said.strip().endswith("loaded")


def test_who_connects_and_says_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status._Silent, "timeout", 0.5)
    port = free_port()
    status.serve("127.0.0.1", port, Readiness())
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    # More than are served at a time: those that come then are let go, until the silent ones are.
    assert page(f"127.0.0.1:{port}", "/healthz") == "alive\n"
    for each in silent:
        each.close()


def test_a_password_is_in_no_line_that_a_process_writes() -> None:
    port = free_port()
    variables = {
        "REDIS_URL": f"redis://somebody:{SECRET}@127.0.0.1:{free_port()}",
        "ADDRESS": "127.0.0.1:0",
        "INTERNAL_ADDRESS": "127.0.0.1:0",
        "METRICS_PORT": str(port),
    }
    with running("-m", "services.sessions", **variables) as process:
        ends_at_s = time.monotonic() + DEADLINE_S
        while "does not serve" not in (said := page(f"127.0.0.1:{port}", "/readyz")):
            assert time.monotonic() < ends_at_s
            time.sleep(0.1)
        process.terminate()
        written, _ = process.communicate(timeout=DEADLINE_S)
    assert SECRET not in said + written
    lines = [json.loads(line) for line in written.splitlines()]
    assert {line["service"] for line in lines} == {"sessions"}
    assert any("does not serve" in str(line.get("trouble")) for line in lines)


async def test_a_password_is_in_no_refusal_and_no_line_where_redis_refuses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(VALKEY, tmp_path / "server", "requirepass another")
    settings = Settings(redis_url=f"redis://:{SECRET}@127.0.0.1:{server.port}")
    assert SECRET not in repr(settings)
    caplog.set_level(logging.DEBUG)
    async with started(server):
        host = Host(SessionService(settings))
        async with open_channel(await host.start()) as channel:
            refusal = await refused(Sessions(channel).Open(OpenRequest()))
            assert isinstance(refusal, errors.StoreUnavailable)
            await refused(Sessions(channel).Announce(AnnounceRequest()))
        await host.stop(grace_s=0.1)
    lines = telemetry.JsonLines("sessions")
    assert SECRET not in refusal.message + "".join(map(lines.format, caplog.records))


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("authorization: Bearer abc.def", "authorization: Bearer ***"),
        ("the key aapt_acme_0123456789ab_" + "x" * 43 + " came", "the key aapt_acme_0123456789ab_*** came"),
        ("at redis://user:p4ss/word@host:1/0", "at redis://user:***@host:1/0"),
        ("page http://127.0.0.1:8080 opened", "page http://127.0.0.1:8080 opened"),
    ],
)
def test_keys_and_passwords_are_struck_out_wherever_they_stand(said: str, written: str) -> None:
    record = logging.makeLogRecord({"msg": said, "fields": {"also": said}})
    line = json.loads(telemetry.JsonLines("web").format(record))
    assert (line["service"], line["event"], line["also"]) == ("web", written, written)


def test_a_key_is_in_no_repr() -> None:
    assert SECRET not in repr(Pem(b"cert", SECRET.encode(), None))
    assert "tls_key_file" in repr(Tls())


async def test_a_service_whose_peer_is_away_is_not_ready_and_is_again() -> None:
    sessions_port = free_port()
    readiness = Readiness()
    service = ControlService(ControlSettings(sessions_address=f"127.0.0.1:{sessions_port}"))
    host = Host(service, trouble=service.trouble, readiness=readiness)
    await host.start()
    async with asyncio.timeout(DEADLINE_S):
        while "sessions does not answer" not in (readiness.trouble or ""):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        peer = Host(SessionService(), address=f"127.0.0.1:{sessions_port}")
        await peer.start()
        while readiness.trouble is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert service.trouble() is None
        await peer.stop(grace_s=0.1)
    await host.stop(grace_s=0.1)


async def test_a_service_that_has_never_reached_its_peer_is_not_ready_and_stays_so_until_it_has(
    dial: Callable[[str], grpc.aio.Channel],
) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    readiness = Readiness()
    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    peer_address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    service = ControlService(ControlSettings(sessions_address=peer_address))
    host = Host(service, trouble=service.trouble, readiness=readiness)
    health = health_pb2_grpc.HealthStub(dial(await host.start()))
    for _ in range(4):  # while it is still dialling
        assert "sessions does not answer" in (readiness.trouble or "")
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.sleep(0.1)
    assert readiness.began_s is None
    silent.close()
    peer = Host(SessionService(), address=peer_address)
    await peer.start()
    async with asyncio.timeout(DEADLINE_S):
        while readiness.trouble is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert readiness.began_s is not None
    await host.stop(grace_s=0.1)
    await peer.stop(grace_s=0.1)
