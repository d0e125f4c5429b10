"""What every service gets from its host."""

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from livevideo.v1 import control_pb2_grpc
from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt
from services import errors, status, telemetry
from services.app import Host, Service, set_in_stone, to_its_end, until_one_ends
from services.errors import BadSetting, EngineFull, PortTaken, ServiceError
from services.relay import from_status, kinds
from services.settings import settings_from_env
from services.status import Readiness
from tests.services import servers

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]


class Echo(control_pb2_grpc.ControlServiceServicer):
    """Answers each event; fails with what it was given."""

    name = "echo"

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.has_ended = asyncio.Event()

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)
        return ["livevideo.v1.ControlService"]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def Send(
        self, request_iterator: AsyncIterator[ControlEvent], context: Any
    ) -> AsyncIterator[ControlReceipt]:
        try:
            async for event in request_iterator:
                yield ControlReceipt(seq=event.seq)
                if self.failure is not None:
                    raise self.failure
        finally:
            self.has_ended.set()


async def failure_of(address: str, dial: Dial) -> grpc.aio.AioRpcError:
    send = control_pb2_grpc.ControlServiceStub(dial(address)).Send()
    await send.write(ControlEvent(seq=1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in send:
            pass
    return caught.value


async def test_a_refusal_arrives_as_the_same_class(serve: Serve, dial: Dial) -> None:
    address = await serve(Echo(EngineFull("every slot is taken", retry_after_s=2.5)))
    error = await failure_of(address, dial)
    refusal = from_status(error)
    assert isinstance(refusal, EngineFull)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refusal.message, refusal.retry_after_s) == ("every slot is taken", 2.5)


async def test_a_refusal_in_a_task_group_is_found(serve: Serve, dial: Dial) -> None:
    group = ExceptionGroup("", [ValueError(), ExceptionGroup("", [errors.Superseded("newer")])])
    error = await failure_of(await serve(Echo(group)), dial)
    assert error.code() is grpc.StatusCode.ABORTED


async def test_what_nobody_foresaw_is_internal_and_logged_but_not_told(
    serve: Serve, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    error = await failure_of(await serve(Echo(KeyError("private"))), dial)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "private" not in (error.details() or "")
    logged = next(record for record in caplog.records if record.message == "call failed")
    assert "KeyError: 'private'" in telemetry.JsonLines().format(logged)


async def test_a_cancelled_generator_is_closed_at_once(serve: Serve, dial: Dial) -> None:
    echo = Echo()
    send = control_pb2_grpc.ControlServiceStub(dial(await serve(echo))).Send()
    await send.write(ControlEvent(seq=1))
    await send.read()
    send.cancel()
    assert await asyncio.wait_for(echo.has_ended.wait(), 20.0)


async def test_health_and_reflection_name_the_service(serve: Serve, dial: Dial) -> None:
    channel = dial(await serve(Echo()))
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "livevideo.v1.ControlService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await listing.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await listing.read()
    assert "livevideo.v1.ControlService" in [found.name for found in listed.list_services_response.service]


async def test_a_taken_port_is_named(serve: Serve) -> None:
    address = await serve(Echo())
    with pytest.raises(PortTaken, match=address):
        await Host(Echo(), address=address).start()


async def test_parts_of_a_stream_end_together_and_the_failure_is_raised() -> None:
    ended = asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        raise EngineFull("full")

    with pytest.raises(EngineFull):
        await until_one_ends(wait_for_ever(), fail())
    assert ended.is_set()


@dataclass(frozen=True)
class Pace:
    """Settings of a test."""

    frames_per_second: float = 24.0
    model: str = "road"
    is_shared: bool = False


def test_settings_come_from_the_environment_or_keep_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMES_PER_SECOND", "12.5")
    monkeypatch.setenv("IS_SHARED", "true")
    assert settings_from_env(Pace) == Pace(frames_per_second=12.5, is_shared=True)


def test_a_setting_that_cannot_be_is_named_with_its_value_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMES_PER_SECOND", "fast")
    with pytest.raises(BadSetting, match=r"FRAMES_PER_SECOND is 'fast'; it must be of type float"):
        settings_from_env(Pace)


def test_a_log_line_is_one_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        telemetry.logger("engine").info("session seated", session="road-1", slot=3)
    line = telemetry.JsonLines().format(caplog.records[0])
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["service"], fields["event"], fields["slot"]) == ("engine", "session seated", 3)


async def test_a_service_that_does_not_start_is_stopped() -> None:
    class Lame(Echo):
        has_stopped = False

        async def start(self) -> None:
            raise BadSetting("no legs")

        async def stop(self) -> None:
            self.has_stopped = True

    lame = Lame()
    with pytest.raises(BadSetting, match="no legs"):
        await Host(lame).start()
    assert lame.has_stopped


async def test_a_start_that_failed_is_cleaned_up_and_named_though_a_signal_comes_meanwhile() -> None:
    class Lame(Echo):
        stops = asyncio.Event()
        has_stopped = False

        async def start(self) -> None:
            raise BadSetting("no legs")

        async def stop(self) -> None:
            self.stops.set()
            await asyncio.sleep(0.1)
            self.has_stopped = True
            raise OSError("still no legs")

    async def start() -> None:
        await Host(lame).start()

    async def signalled() -> None:
        await lame.stops.wait()

    lame = Lame()
    with pytest.raises(BadSetting, match="no legs"):
        await until_one_ends(start(), signalled())
    assert lame.has_stopped


async def test_a_clean_up_without_end_is_given_up() -> None:
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        await to_its_end(asyncio.sleep(20.0), within_s=0.05)


async def test_who_is_cancelled_during_a_clean_up_ends_after_it() -> None:
    ending = asyncio.create_task(to_its_end(asyncio.sleep(0.1)))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.sleep(0.02)
    assert not ending.done()
    with pytest.raises(asyncio.CancelledError):
        await ending


async def test_health_and_readiness_follow_what_troubles_a_service(dial: Dial) -> None:
    trouble: list[str | None] = [None]
    readiness = Readiness()
    host = Host(Echo(), trouble=lambda: trouble[0], readiness=readiness)
    assert readiness.trouble == "it is starting"
    address = await host.start()
    health = health_pb2_grpc.HealthStub(dial(address))

    async def until(status: int) -> None:
        while (await health.Check(health_pb2.HealthCheckRequest())).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async with asyncio.timeout(20):
        await until(health_pb2.HealthCheckResponse.SERVING)
        assert readiness.trouble is None
        trouble[0] = "a slot could not be had"
        await until(health_pb2.HealthCheckResponse.NOT_SERVING)
        assert readiness.trouble == "a slot could not be had"
        trouble[0] = None
        await until(health_pb2.HealthCheckResponse.SERVING)
    await host.stop()
    assert readiness.trouble == "it is stopping"


def test_the_pages_say_whether_a_process_lives_and_is_ready(free_port: int) -> None:
    readiness = Readiness()
    status.serve("127.0.0.1", free_port, readiness)

    def page(path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{free_port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    assert page("/healthz") == (200, "alive\n")
    assert page("/readyz") == (503, "not ready: it is starting\n")
    readiness.begin("echo")
    assert page("/readyz") == (200, "ready\n")
    assert 'ready_seconds{service="echo"}' in page("/metrics")[1]
    assert page("/secrets")[0] == 404
    with pytest.raises(PortTaken, match=str(free_port)):
        status.serve("127.0.0.1", free_port, readiness)


@pytest.fixture
def free_port() -> int:
    return servers.free_port()


@pytest.mark.parametrize("refusal", [*kinds(ServiceError)], ids=lambda refusal: refusal.reason)
async def test_every_refusal_arrives_as_what_it_was(
    refusal: type[ServiceError], serve: Serve, dial: Dial
) -> None:
    error = await failure_of(await serve(Echo(refusal.relayed("so it is", 2.0))), dial)
    arrived = from_status(error)
    assert type(arrived) is refusal
    assert arrived.retry_after_s == 2.0


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:99999", ":1", "127.0.0.1:http", "127.0.0.1:-1"])
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BadSetting, match="must be host:port"):
        await Host(Echo(), address=address).start()


def test_what_a_ready_process_has_made_is_not_looked_through_again() -> None:
    try:
        set_in_stone()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()
