"""Who is let in by TLS: wrong and expired certificates, plain text, and certificates that are exchanged."""

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from livevideo.v1 import control_pb2_grpc, engine_pb2_grpc
from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt
from livevideo.v1.engine_pb2 import Credit, GenerateRequest, GenerateResponse
from services import errors, status
from services.app import Host, open_channel
from services.errors import BadSetting
from services.relay import from_status
from services.status import Readiness
from services.tls import Identity, Tls
from tests.services.certificates import DAY, Authority
from tests.services.servers import free_port

DEADLINE_S = 20.0
CREDIT = GenerateRequest(credit=Credit(latents=1))


class Echo(control_pb2_grpc.ControlServiceServicer, engine_pb2_grpc.EngineServiceServicer):
    """A method for players, and one for our own services."""

    name = "echo"

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)
        return ["livevideo.v1.ControlService"]

    def bind_internal(self, server: grpc.aio.Server) -> Sequence[str]:
        engine_pb2_grpc.add_EngineServiceServicer_to_server(self, server)
        return ["livevideo.v1.EngineService"]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def Send(
        self, request_iterator: AsyncIterator[ControlEvent], context: Any
    ) -> AsyncIterator[ControlReceipt]:
        async for event in request_iterator:
            yield ControlReceipt(seq=event.seq)

    async def Generate(
        self, request_iterator: AsyncIterator[GenerateRequest], context: Any
    ) -> AsyncIterator[GenerateResponse]:
        async for _ in request_iterator:
            yield GenerateResponse()


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def hosted(tls: Tls) -> AsyncIterator[Host]:
    host = Host(Echo(), internal_address="127.0.0.1:00", tls=tls)
    await host.start()
    try:
        yield host
    finally:
        await host.stop(grace_s=0.1)


async def sent(address: str, tls: Tls) -> int:
    """The number of a control that came back by the method for players."""
    async with open_channel(address, tls) as channel:
        call = control_pb2_grpc.ControlServiceStub(channel).Send()
        await call.write(ControlEvent(seq=7))
        receipt = await asyncio.wait_for(call.read(), DEADLINE_S)
        assert isinstance(receipt, ControlReceipt)
        return receipt.seq


async def generated(address: str, tls: Tls) -> None:
    """By the method for our own services."""
    async with open_channel(address, tls) as channel:
        call = engine_pb2_grpc.EngineServiceStub(channel).Generate()
        await call.write(CREDIT)
        assert isinstance(await asyncio.wait_for(call.read(), DEADLINE_S), GenerateResponse)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_players_need_no_certificate_and_our_services_do(ours: Authority) -> None:
    player = Tls(tls_ca_file=ours.file)
    async with hosted(ours.tls("engine")) as host:
        assert await sent(host.address, player) == 7
        await generated(host.internal_address, ours.tls("decoder"))
        unseen = await refusal(generated(host.address, ours.tls("decoder")))
        assert unseen.code() is grpc.StatusCode.UNIMPLEMENTED
        for nobody in (player, Tls()):
            assert (await refusal(generated(host.internal_address, nobody))).code() is not None


async def test_the_public_port_does_not_show_what_is_internal() -> None:
    async with hosted(Tls()) as host:
        for address, is_internal in ((host.address, False), (host.internal_address, True)):
            async with open_channel(address) as channel:
                asked = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
                await asked.write(reflection_pb2.ServerReflectionRequest(list_services=""))
                listed = await asked.read()
                assert not isinstance(listed, int)
                names = [found.name for found in listed.list_services_response.service]
                assert ("livevideo.v1.EngineService" in names) == is_internal


async def test_names_that_may_not_call_are_refused_in_a_sentence(ours: Authority) -> None:
    async with hosted(ours.tls("engine", callers="decoder, replay")) as host:
        await generated(host.internal_address, ours.tls("replay"))
        refused = await refusal(generated(host.internal_address, ours.tls("control")))
        arrived = from_status(refused)
        assert isinstance(arrived, errors.CallerNotAllowed)
        assert "127.0.0.1, control" in arrived.message


@pytest.mark.parametrize("wrong", ["other authority", "expired", "not yet valid", "plain text", "other name"])
async def test_what_is_wrong_with_a_certificate_ends_the_call(
    wrong: str, ours: Authority, tmp_path: Path
) -> None:
    tls = ours.tls("engine")
    others = Authority(tmp_path, "others")
    callers: dict[str, Callable[[], Tls]] = {
        "other authority": lambda: others.tls("decoder"),
        "expired": lambda: _held(ours, -datetime.timedelta(hours=1)),
        "not yet valid": lambda: _held(ours, 3 * DAY),
        "plain text": Tls,
        "other name": lambda: Tls(tls_ca_file=ours.file, tls_peer_name="sessions"),
    }
    async with hosted(tls) as host:
        caller = callers[wrong]()
        ended = await refusal(generated(host.internal_address, caller))
        assert ended.code() is grpc.StatusCode.UNAVAILABLE
        await generated(host.internal_address, ours.tls("decoder"))


def _held(ours: Authority, expires_in: datetime.timedelta) -> Tls:
    cert, key = ours.issue("decoder", expires_in=expires_in)
    return Tls(tls_cert_file=cert, tls_key_file=key, tls_ca_file=ours.file)


async def test_a_server_whose_certificate_expired_is_not_believed_until_it_has_another(
    ours: Authority,
) -> None:
    tls = _held(ours, -datetime.timedelta(hours=1))
    player = Tls(tls_ca_file=ours.file)
    async with hosted(tls) as host:
        assert (await refusal(sent(host.address, player))).code() is grpc.StatusCode.UNAVAILABLE
        ours.issue("decoder")
        assert await sent(host.address, player) == 7


async def test_certificates_are_exchanged_under_load_and_no_call_fails(
    ours: Authority,
) -> None:
    """Open calls go on with what they began with, new ones take what is there; on one channel."""
    server, caller = ours.tls("engine"), ours.tls("decoder")
    async with hosted(server) as host, open_channel(host.internal_address, caller) as channel:
        stub = engine_pb2_grpc.EngineServiceStub(channel)
        old = stub.Generate()
        await old.write(CREDIT)
        assert isinstance(await old.read(), GenerateResponse)
        calls = 0
        for turn in range(40):
            if turn % 10 == 5:
                ours.issue("engine")
            if turn % 10 == 8:
                ours.issue("decoder")
            call = stub.Generate()
            await call.write(CREDIT)
            assert isinstance(await asyncio.wait_for(call.read(), DEADLINE_S), GenerateResponse)
            call.cancel()
            calls += 1
        assert calls == 40
        await old.write(CREDIT)
        assert isinstance(await asyncio.wait_for(old.read(), DEADLINE_S), GenerateResponse)


def test_half_of_an_exchange_is_not_taken(ours: Authority) -> None:
    tls = ours.tls("engine")
    cert, key = Path(tls.tls_cert_file), Path(tls.tls_key_file)
    identity = Identity(str(cert), str(key), tls.tls_ca_file)
    before, old_key = identity.pem(), key.read_bytes()
    ours.issue("engine")
    new_key = key.read_bytes()
    key.write_bytes(old_key)
    assert identity.pem() is before
    cert.rename(cert.with_suffix(".away"))
    assert identity.pem() is before
    cert.write_text("no certificate at all")
    assert identity.pem() is before
    cert.with_suffix(".away").rename(cert)
    key.write_bytes(new_key)
    assert identity.pem() is not before
    assert identity.pem() is identity.pem()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tls_cert_file": "a.pem"}, "belong together"),
        ({"tls_public_key_file": "a.pem"}, "TLS_PUBLIC_CERT_FILE"),
        ({"tls_callers": "decoder"}, "nobody has a name"),
    ],
)
def test_settings_that_promise_what_they_cannot_keep_are_refused(
    settings: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadSetting, match=sentence):
        Tls(**settings)


async def test_files_that_are_no_certificates_are_named(ours: Authority, tmp_path: Path) -> None:
    cert, key = ours.issue("engine")
    _, other = ours.issue("other")
    for tls in (
        Tls(tls_cert_file=cert, tls_key_file=other, tls_ca_file=ours.file),
        Tls(tls_cert_file=cert, tls_key_file=key, tls_ca_file=key),
        Tls(tls_cert_file=str(tmp_path / "nowhere"), tls_key_file=key, tls_ca_file=ours.file),
        Tls(tls_cert_file=cert, tls_key_file=key),
    ):
        with pytest.raises(BadSetting):
            await Host(Echo(), tls=tls).start()


async def test_players_may_be_asked_for_certificates_and_shown_another_than_our_services(
    ours: Authority, tmp_path: Path
) -> None:
    games, shown = Authority(tmp_path, "games"), Authority(tmp_path, "shown")
    public_cert, public_key = shown.issue("play.example")
    tls = replace(
        ours.tls("play"),
        tls_public_cert_file=public_cert,
        tls_public_key_file=public_key,
        tls_player_ca_file=games.file,
    )
    game = replace(games.tls("game"), tls_ca_file=shown.file)
    async with hosted(tls) as host:
        assert await sent(host.address, game) == 7
        for stranger in (Tls(tls_ca_file=shown.file), games.tls("game"), ours.tls("decoder")):
            assert (await refusal(sent(host.address, stranger))).code() is grpc.StatusCode.UNAVAILABLE
        await generated(host.internal_address, ours.tls("decoder"))
        ended = await refusal(generated(host.internal_address, game))
        assert ended.code() is grpc.StatusCode.UNAVAILABLE


async def test_metrics_are_told_by_tls_to_whoever_believes_us(ours: Authority) -> None:
    port = free_port()
    status.serve("127.0.0.1", port, Readiness(), ours.tls("engine"))
    believing = ssl.create_default_context(cafile=ours.file)

    def page(scheme: str) -> str:
        context = believing if scheme == "https" else None
        with urlopen(f"{scheme}://127.0.0.1:{port}/healthz", timeout=20, context=context) as answer:
            return str(answer.read().decode())

    ours.issue("engine")  # is taken without a restart, by callers by address too
    serial = await asyncio.to_thread(_serial_shown, port, ours)
    ours.issue("engine")
    assert await asyncio.to_thread(_serial_shown, port, ours) != serial
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    assert await asyncio.to_thread(page, "https") == "alive\n"
    for scheme in ("http", "https"):
        if scheme == "https":
            believing = ssl.create_default_context()
        with pytest.raises((URLError, ConnectionError)):
            await asyncio.to_thread(page, scheme)
    for _, writer in silent:
        writer.close()


def _serial_shown(port: int, ours: Authority) -> object:
    believing = ssl.create_default_context(cafile=ours.file)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
        believing.wrap_socket(plain, server_hostname="127.0.0.1") as shown,
    ):
        return (shown.getpeercert() or {})["serialNumber"]
